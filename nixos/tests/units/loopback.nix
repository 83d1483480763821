# The host of local.nix, whose instances listen on this host alone.
{
  services.abukiks = {
    enable = true;
    instances = [
      5000
      5001
    ];
    listenAddress = "127.0.0.1";
    redis.createLocally = true;
  };
}
