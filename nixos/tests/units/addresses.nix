# Instances that listen on this host alone, and one on an address of its own.
{
  services.abukiks = {
    enable = true;
    instances."5000" = { };
    instances."5001".listenAddress = "127.0.0.1";
    instances."5002".listenAddress = null;
    listenAddress = "[::1]";
    redis.createLocally = true;
  };
}
