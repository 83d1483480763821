# Two hosts of instances, one of Redis, one that balances.
let
  app = {
    services.abukiks = {
      enable = true;
      instances = [
        5000
        5001
      ];
      redis.url = "redis://store/";
      openFirewall = true;
    };
  };
in
{
  nodes = {
    app1 = app;
    app2 = app;

    store.services.redis.servers.count = {
      enable = true;
      bind = null;
      port = 6379;
      openFirewall = true;
      appendOnly = true;
      appendFsync = "always";
      # Nobody else is in this network.
      settings.protected-mode = "no";
    };

    balancer = {
      networking.firewall.allowedTCPPorts = [ 80 ];
      services.nginx = {
        enable = true;
        upstreams.abukiks.servers = {
          "app1:5000" = { };
          "app1:5001" = { };
          "app2:5000" = { };
          "app2:5001" = { };
        };
        virtualHosts.localhost.locations."/" = {
          proxyPass = "http://abukiks";
          extraConfig = "include ${../proxy.conf};";
        };
      };
    };
  };

  testScript = ''
    start_all()
    store.wait_for_unit("redis-count.service")
    for app in app1, app2:
        app.wait_for_unit("abukiks.target")
        app.wait_until_succeeds("curl --fail localhost:5000/readyz")
    balancer.wait_for_unit("nginx.service")

    visits = "for visit in $(seq 20); do curl --fail --silent http://localhost/; echo; done"
    counts = [int(line.rsplit(" ", 1)[1]) for line in balancer.succeed(visits).splitlines()]
    assert sorted(counts) == list(range(1, 21)), counts

    with subtest("a host that goes away in good order takes no visitor with it"):
        app1.succeed("systemctl --no-block restart 'abukiks@*.service'")
        balancer.succeed(visits)
        assert balancer.succeed("curl --fail --silent http://localhost/").endswith(" 41")
  '';
}
