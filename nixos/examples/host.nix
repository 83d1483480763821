# A host that runs Abukiks with a Redis of its own, nginx in front and Prometheus beside it.
# staging.nix and production.nix are two deploys of it: the same code, other settings.
{
  # Stands for a machine's own hardware configuration.
  boot.isContainer = true;
  system.stateVersion = "26.05";

  services.abukiks = {
    enable = true;
    redis.createLocally = true;
    nginx.enable = true;
    # nginx reaches the instances here; nobody else does.
    listenAddress = "127.0.0.1";
  };

  services.prometheus.enable = true;

  networking.firewall.allowedTCPPorts = [ 80 ];
}
