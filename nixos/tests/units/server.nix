# A Redis of the host that other services use too.
{
  services.abukiks = {
    enable = true;
    instances = [ 5000 ];
    redis.server = "main";
  };

  services.redis.servers.main = {
    enable = true;
    user = "keeper";
  };
}
