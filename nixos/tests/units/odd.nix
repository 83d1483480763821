# Values that systemd, a shell or a URL could take for something else.
{
  services.abukiks = {
    enable = true;
    instances."5000".settings.COUNTER_KEY = "100% 'of' \"$HOME\" \\n %i";
    redis.url = "redis://a%20b@127.0.0.1:6379/";
    redis.allowedAddresses = [
      "localhost"
      "203.0.113.7"
    ];
    settings.RELEASE = "50% $x";
    extraEnvironment.SSL_CERT_DIR = "/etc/ssl/certs of %i";
  };
}
