# Settings, and secrets that stay secret.
{
  nodes.machine =
    { pkgs, ... }:
    {
      services.redis.servers.locked = {
        enable = true;
        port = 6379;
        requirePassFile = "/etc/redis-password";
      };
      environment.etc."redis-password".text = "correct-horse";
      # A secrets manager would put them there.
      systemd.tmpfiles.settings.secrets."/run/secrets/redis-url"."f+" = {
        mode = "0400";
        argument = "redis://:correct-horse@127.0.0.1/";
      };
      systemd.tmpfiles.settings.secrets."/run/secrets/abukiks.env"."f+" = {
        mode = "0400";
        argument = "LOG_LEVEL=debug";
      };

      services.abukiks = {
        enable = true;
        instances."5000" = { };
        instances."5001".settings.COUNTER_KEY = "other";
        settings.ACCESS_LOG = false;
        environmentFiles = [ "/run/secrets/abukiks.env" ];
        credentials.redis-url = "/run/secrets/redis-url";
      };
      environment.systemPackages = [ pkgs.redis ];
    };

  testScript = ''
    machine.wait_for_unit("redis-locked.service")
    machine.wait_for_unit("abukiks@5000.service")
    machine.wait_for_unit("abukiks@5001.service")

    with subtest("the password opens Redis"):
        machine.wait_until_succeeds("curl --fail localhost:5000/readyz")
        assert machine.succeed("curl --fail --silent localhost:5000/").endswith(" 1")

    with subtest("an instance has its own settings over those of all"):
        assert machine.succeed("curl --fail --silent localhost:5001/").endswith(" 1")
        environment = machine.succeed("systemctl show --property Environment abukiks@5001")
        assert "COUNTER_KEY=other" in environment and "ACCESS_LOG=off" in environment

    with subtest("nobody can read the password: not in the units, the environment or the journal"):
        pid = machine.succeed("systemctl show --property MainPID --value abukiks@5000").strip()
        machine.fail("systemctl cat 'abukiks@*' | grep horse")
        machine.fail(f"grep --text horse /proc/{pid}/environ")
        machine.fail("journalctl --unit 'abukiks@*' | grep horse")

    with subtest("a wrong setting is named, and not tried again and again"):
        machine.succeed("systemctl stop abukiks@5000.service abukiks@5000.socket")
        machine.succeed("echo LOG_LEVEL=loud > /run/secrets/abukiks.env")
        machine.fail("systemctl start abukiks@5000")
        status = machine.succeed("systemctl show --property ExecMainStatus --value abukiks@5000").strip()
        assert status == "78", status
        machine.succeed("journalctl --unit abukiks@5000 | grep 'LOG_LEVEL=\"loud\"'")
  '';
}
