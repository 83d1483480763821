# A host that runs Abukiks with a Redis of its own, nginx in front and Prometheus beside it.
# staging.nix and production.nix are two deploys of it: the same code, other settings. hardware.nix
# stands for the machine.
{
  services.abukiks = {
    enable = true;
    redis.createLocally = true;
    nginx.enable = true;
    # nginx and Prometheus reach the instances here.
    listenAddress = "127.0.0.1";
    # Health and metrics are no part of what visitors reach.
    monitor.enable = true;
  };

  services.prometheus.enable = true;

  networking.firewall.allowedTCPPorts = [ 80 ];
}
