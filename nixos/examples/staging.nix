{
  services.abukiks = {
    # Without visitors it costs nothing.
    instances."5000" = {
      startMode = "on-demand";
      settings.IDLE_EXIT = "10m";
    };
    settings.LOG_LEVEL = "debug";
    nginx.virtualHost = "staging.example.org";
  };
}
