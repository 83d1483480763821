# Three hosts that serve together: a balancer, and two with instances and a Redis each. That of app1
# counts, that of app2 has a copy of every visit before the visitor gets the number. So either may
# burn down and no number is given out twice. It serves while both run: see docs/redis.md, Replicas,
# and for a Redis that takes over by itself, Sentinels.
#
# Each host is a module, to be joined with the machine's own: hardware.nix stands for those. The three
# know each other by the names balancer, app1 and app2 (networking.hosts, or a name server).
let
  # The interface of each host to the network that they share. Instances and Redis answer there and
  # nowhere else, for this Redis asks for no password.
  private = "eth1";
  ports = [
    5000
    5001
  ];

  app = {
    services.abukiks = {
      enable = true;
      instances = ports;
      redis.url = "redis://app1/";
      settings.MIN_REPLICAS_ACK = 1;
    };
    services.redis.servers.count = {
      enable = true;
      bind = null;
      port = 6379;
      appendOnly = true;
      appendFsync = "always";
      save = [ ];
      settings.protected-mode = "no";
    };
    networking.firewall.interfaces.${private}.allowedTCPPorts = ports ++ [ 6379 ];
  };
in
{
  app1 = app;

  app2 = {
    imports = [ app ];
    services.redis.servers.count.slaveOf = {
      ip = "app1";
      port = 6379;
    };
  };

  balancer = {
    services.nginx = {
      enable = true;
      upstreams.abukiks = {
        # All workers know the same of the instances.
        extraConfig = "zone abukiks 64k;";
        servers = builtins.listToAttrs (
          builtins.concatMap
            (
              host:
              map (port: {
                name = "${host}:${toString port}";
                value.fail_timeout = "1s";
              }) ports
            )
            [
              "app1"
              "app2"
            ]
        );
      };
      virtualHosts."counter.example.org".locations."/" = {
        proxyPass = "http://abukiks";
        extraConfig = "include ${../../proxies/proxy.conf};";
      };
    };
    networking.firewall.allowedTCPPorts = [ 80 ];
  };
}
