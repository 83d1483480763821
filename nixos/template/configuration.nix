{
  nixpkgs.hostPlatform = "x86_64-linux";
  networking.hostName = "counter";
  system.stateVersion = "26.05";

  # Stands for a machine's own: take it out once hardware-configuration.nix is there.
  boot.isContainer = true;

  services.abukiks = {
    enable = true;
    # Ports, each a process of one core. `systemctl start abukiks@5002` adds one until the next boot.
    instances = [
      5000
      5001
    ];
    redis.createLocally = true;
    nginx.enable = true;
    settings.LOG_LEVEL = "info";
  };

  networking.firewall.allowedTCPPorts = [ 80 ];
}
