# Health, metrics and version at ports of their own, beside an nginx that hides them and a Prometheus that asks.
{
  services.abukiks = {
    enable = true;
    instances."5000" = { };
    instances."5001" = { };
    instances."5002".startMode = "on-demand";
    redis.createLocally = true;
    nginx.enable = true;
    monitor = {
      enable = true;
      listenAddress = "127.0.0.2";
    };
  };

  services.prometheus.enable = true;
}
