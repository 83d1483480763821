# Settings, and secrets that stay secret.
let
  # A Redis with a password.
  locked = name: port: {
    services.redis.servers.${name} = {
      enable = true;
      inherit port;
      requirePassFile = "/etc/${name}-password";
    };
    environment.etc."${name}-password".text = "${name}-horse";
  };
  # A secrets manager would put it there.
  secret = path: text: {
    systemd.tmpfiles.settings.secrets.${path}."f+" = {
      mode = "0400";
      argument = text;
    };
  };
in
{
  nodes.machine = {
    imports = [
      (locked "main" 6379)
      (locked "other" 6380)
      (secret "/run/secrets/main-url" "redis://:main-horse@127.0.0.1/")
      (secret "/run/secrets/other-url" "redis://:other-horse@127.0.0.1:6380/")
      (secret "/run/secrets/abukiks.env" "LOG_LEVEL=debug")
    ];

    services.abukiks = {
      enable = true;
      instances = {
        "5000" = { };
        "5001".settings.COUNTER_KEY = "own";
        "5002".credentials.redis-url = "/run/secrets/other-url";
      };
      settings.ACCESS_LOG = false;
      environmentFiles = [ "/run/secrets/abukiks.env" ];
      credentials.redis-url = "/run/secrets/main-url";
    };
  };

  testScript = builtins.readFile ./prelude.py + ''
    machine.wait_for_unit("redis-main.service")
    machine.wait_for_unit("redis-other.service")
    for port in 5000, 5001, 5002:
        machine.wait_for_unit(f"abukiks@{port}.service")
        assert_declared(machine, f"localhost:{port}", "ACCESS_LOG=off")
        machine.wait_until_succeeds(f"curl --fail localhost:{port}/readyz")

    with subtest("the password opens Redis"):
        assert visit(machine, "localhost:5000") == 1
        assert visit(machine, "localhost:5000") == 2

    with subtest("an instance has its own settings over those of all"):
        assert_declared(machine, "localhost:5001", "COUNTER_KEY=own")
        assert visit(machine, "localhost:5001") == 1

    with subtest("an instance has its own credential in the place of that of all"):
        assert visit(machine, "localhost:5002") == 1
        assert machine.succeed("abukiks-admin --instance 5002 show-count").strip() == "1"
        assert machine.succeed("abukiks-admin show-count").strip() == "2"

    with subtest("the environment file is read"):
        for port in 5000, 5001, 5002:
            assert "/run/secrets/abukiks.env" in show(machine, f"abukiks@{port}.service", "EnvironmentFiles")
            pid = show(machine, f"abukiks@{port}.service", "MainPID")
            machine.succeed(f"grep --null-data --text --line-regexp LOG_LEVEL=debug /proc/{pid}/environ")

    with subtest("the passwords are in no unit, no environment and no journal"):
        pid = show(machine, "abukiks@5000.service", "MainPID")
        told = machine.succeed(
            "systemctl cat 'abukiks@*.service'; systemctl show 'abukiks@*.service'",
            f"cat /proc/{pid}/environ | tr '\\0' ' '",
            "journalctl --unit 'abukiks@*'",
        )
        assert "LOG_LEVEL=debug" in told
        assert "horse" not in told

    with subtest("a wrong setting is named, and not tried again and again"):
        machine.succeed("echo LOG_LEVEL=loud > /run/secrets/abukiks.env")
        machine.fail("systemctl restart abukiks@5000")
        assert show(machine, "abukiks@5000.service", "ExecMainStatus") == "78"
        machine.wait_until_succeeds("journalctl --unit abukiks@5000 | grep --fixed-strings 'LOG_LEVEL=\"loud\"'")
        # It gives up its port, for a balancer to see.
        machine.wait_until_fails("systemctl is-active abukiks@5000.socket")
        assert show(machine, "abukiks@5000.service", "NRestarts") == "0"

    with subtest("put right, it is back"):
        machine.succeed("echo LOG_LEVEL=info > /run/secrets/abukiks.env")
        machine.succeed("systemctl start abukiks@5000")
        assert visit(machine, "localhost:5000") == 3
  '';
}
