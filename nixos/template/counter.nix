# What Abukiks adds to the machine. All options: docs/nixos.md of Abukiks.
{
  services.abukiks = {
    enable = true;
    # Ports, each a process of one core. `systemctl start abukiks@5002` adds one until the next boot.
    instances = [
      5000
      5001
    ];
    # Visitors come by nginx, on port 80.
    listenAddress = "127.0.0.1";
    nginx.enable = true;
    redis.createLocally = true;
    settings.LOG_LEVEL = "info";
  };

  networking.firewall.allowedTCPPorts = [ 80 ];
}
