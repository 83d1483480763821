# An instance that starts with its first visitor, and ends when none comes.
{
  services.abukiks = {
    enable = true;
    instances."5000" = { };
    instances."5001" = {
      startMode = "on-demand";
      settings.IDLE_EXIT = "10m";
    };
    redis.createLocally = true;
  };
}
