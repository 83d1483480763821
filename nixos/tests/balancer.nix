{
  nodes.machine =
    { config, ... }:
    {
      services.abukiks = {
        enable = true;
        instances = [
          5000
          5001
          5002
        ];
        redis.createLocally = true;
        nginx.enable = true;
        settings.LOG_LEVEL = "debug";
      };
      services.prometheus = {
        enable = true;
        globalConfig.scrape_interval = "1s";
      };
      # The targets are those of the instances.
      assertions = [
        {
          assertion =
            (builtins.head (builtins.head config.services.prometheus.scrapeConfigs).static_configs).targets == [
              "127.0.0.1:5000"
              "127.0.0.1:5001"
              "127.0.0.1:5002"
            ];
          message = "Prometheus does not scrape the instances.";
        }
      ];
    };

  testScript = ''
    machine.wait_for_unit("nginx.service")
    machine.wait_for_unit("abukiks.target")
    machine.wait_for_open_port(80)

    with subtest("visits are balanced, and each counts once"):
        numbers = machine.succeed(
            "for visit in $(seq 30); do curl --fail --silent http://localhost/; echo; done"
        ).split("\n")
        counts = [int(line.rsplit(" ", 1)[1]) for line in numbers if line]
        assert sorted(counts) == list(range(1, 31)), counts
        for port in 5000, 5001, 5002:
            machine.succeed(
                f"curl --silent http://localhost:{port}/metrics"
                " | grep -E '^abukiks_http_requests_total.*route=\"/\"'"
            )

    with subtest("nothing is refused or counted twice while an instance restarts"):
        machine.succeed("systemctl --no-block restart abukiks@5000 abukiks@5001 abukiks@5002")
        machine.succeed(
            "for visit in $(seq 30); do curl --fail --silent --output /dev/null http://localhost/; done"
        )
        assert machine.succeed("curl --silent http://localhost/").endswith(" 61")

    with subtest("health and metrics stay inside"):
        for path in "healthz", "readyz", "metrics":
            machine.succeed(
                f"curl --silent --output /dev/null --write-out '%{{http_code}}' http://localhost/{path}"
                " | grep 404"
            )

    with subtest("Prometheus sees every instance"):
        machine.wait_until_succeeds(
            "curl --silent 'http://localhost:9090/api/v1/query?query=sum(up)'"
            " | grep '\"3\"'"
        )
  '';
}
