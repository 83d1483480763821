# The host of local.nix with one more port, and settings for one of the others.
{
  services.abukiks = {
    enable = true;
    instances."5000" = { };
    instances."5001".settings.LOG_LEVEL = "debug";
    instances."5002" = { };
    redis.createLocally = true;
  };
}
