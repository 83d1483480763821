# Twenty instances behind nginx, seen by Prometheus.
{ lib, ... }:
{
  services.abukiks = {
    enable = true;
    instances = lib.range 5000 5019;
    listenAddress = "127.0.0.1";
    redis.createLocally = true;
    nginx.enable = true;
  };

  services.prometheus.enable = true;
}
