# What one instance has of its own wins over what all have, and what the host adds to all holds too.
{
  services.abukiks = {
    enable = true;
    instances = {
      "5000" = { };
      "5001" = {
        settings = {
          COUNTER_KEY = "own";
          LOG_LEVEL = "debug";
        };
        serviceConfig.MemoryMax = "128M";
        unitConfig.Description = "Abukiks of its own";
      };
      # Another Redis, by another way than that of all.
      "5002".credentials.redis-url = "/run/secrets/redis-url";
      "5003".settings.REDIS_URL = "redis://127.0.0.1:6379/3";
      "5004".enable = false;
    };
    redis.createLocally = true;
    settings = {
      COUNTER_KEY = "all";
      RELEASE = "golden";
    };
    sliceConfig.MemoryMax = "2G";
  };

  systemd.services."abukiks@".serviceConfig = {
    MemoryMax = "256M";
    ProcSubset = "all";
  };
}
