# Two instances and a Redis of their own, on a unix socket.
{
  services.abukiks = {
    enable = true;
    instances = [
      5000
      5001
    ];
    redis.createLocally = true;
  };
}
