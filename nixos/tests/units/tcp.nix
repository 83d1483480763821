# Redis by TCP, at a URL that is a secret.
{
  services.abukiks = {
    enable = true;
    instances = [
      5000
      5001
    ];
    credentials.redis-url = "/run/secrets/redis-url";
    settings.LOG_LEVEL = "debug";
  };
}
