{
  services.abukiks = {
    # One process is one core (factor VIII).
    instances = [
      5000
      5001
      5002
      5003
    ];
    settings = {
      # Rather no number than one that was given out before.
      COUNTER_FENCE = true;
      DRAIN_LAME_DUCK = "2s";
    };
    nginx.virtualHost = "counter.example.org";
  };
}
