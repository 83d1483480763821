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
        prometheus.rules = true;
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

  testScript = builtins.readFile ./prelude.py + ''
    ports = 5000, 5001, 5002
    visits = "for visit in $(seq 30); do curl --fail --silent http://localhost/; echo; done"

    machine.wait_for_unit("nginx.service")
    machine.wait_for_open_port(80)
    for port in ports:
        machine.wait_for_unit(f"abukiks@{port}.service")
        assert_declared(machine, f"localhost:{port}", "LOG_LEVEL=debug")

    with subtest("visits are balanced, and each counts once"):
        numbers = [int(line.rsplit(" ", 1)[1]) for line in machine.succeed(visits).splitlines()]
        assert sorted(numbers) == list(range(1, 31)), numbers
        for port in ports:
            metrics = machine.succeed(f"curl --fail --silent http://localhost:{port}/metrics")
            lines = [line for line in metrics.splitlines() if line.startswith("abukiks_http_requests_total{")]
            assert any('route="/"' in line for line in lines), lines

    with subtest("nothing is refused or counted twice while all instances restart"):
        before = [invocation(machine, port) for port in ports]
        machine.succeed("systemctl --no-block restart 'abukiks@*.service'")
        machine.succeed(visits)
        for port, old in zip(ports, before):
            machine.wait_until_succeeds(
                f"id=$(systemctl show --property InvocationID --value abukiks@{port}.service)"
                f" && test -n \"$id\" && test \"$id\" != {old}"
            )
            machine.wait_for_unit(f"abukiks@{port}.service")
        assert visit(machine, "localhost") == 61

    with subtest("health and metrics stay inside"):
        for path in "healthz", "readyz", "metrics":
            assert status(machine, f"localhost/{path}") == "404", path

    with subtest("Prometheus sees every instance"):
        machine.wait_until_succeeds(
            "curl --fail --silent --get --data-urlencode 'query=sum(up{job=\"abukiks\"})'"
            " http://localhost:9090/api/v1/query | grep '\"3\"'"
        )

    with subtest("Prometheus has the alerts"):
        machine.succeed("curl --fail --silent http://localhost:9090/api/v1/rules | grep AbukiksRedisDown")
  '';
}
