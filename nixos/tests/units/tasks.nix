# Backups into a folder, and reports by mail, on a host whose Redis is a unix socket.
{
  services.abukiks = {
    enable = true;
    instances = [ 5000 ];
    redis.createLocally = true;
    backup = {
      enable = true;
      url = "file:///var/lib/abukiks-backups";
      startAt = "*-*-* 03:00";
      keep = 7;
    };
    report = {
      enable = true;
      url = "smtps://counter@mail.example.org";
      from = "Abukiks <counter@example.org>";
      to = [
        "owner@example.org"
        "other@example.org"
      ];
      credentials.mail-password = "/run/secrets/mail-password";
    };
  };
}
