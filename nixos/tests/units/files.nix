# Settings in files: of all instances, and of one.
{
  services.abukiks = {
    enable = true;
    instances."5000" = { };
    instances."5001".environmentFiles = [ "/run/secrets/5001.env" ];
    settings.COUNTER_KEY = "settings";
    environmentFiles = [
      "/run/secrets/redis.env"
      "/run/secrets/50% of all.env"
    ];
  };
}
