# Redis by TLS, with a client certificate: the files are credentials.
{
  services.abukiks = {
    enable = true;
    instances = [ 5000 ];
    redis.url = "rediss://127.0.0.1:6390/";
    redis.allowedAddresses = [ "localhost" ];
    credentials = {
      redis-ca = "/etc/pki/redis/ca.pem";
      redis-cert = "/etc/pki/redis/client.pem";
      redis-key = "/etc/pki/redis/client.key";
    };
  };
}
