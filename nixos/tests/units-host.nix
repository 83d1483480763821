# Two instances, one of them with settings of its own and started by its first visitor.
{
  services.abukiks = {
    enable = true;
    instances = {
      "5000" = { };
      "5001" = {
        startMode = "on-demand";
        settings = {
          IDLE_EXIT = "10m";
          RELEASE = "golden-5001";
        };
      };
    };
    settings = {
      COUNTER_FENCE = true;
      LOG_LEVEL = "warn";
      RELEASE = "golden";
    };
    environmentFiles = [ "/run/secrets/abukiks.env" ];
    redis.createLocally = true;
  };
}
