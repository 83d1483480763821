{
  nodes.machine.services.abukiks = {
    enable = true;
    listenAddress = "127.0.0.1";
    instances = {
      "5000" = { };
      "5001".startMode = "on-demand";
      "5003".listenAddress = "[::1]";
    };
    redis.createLocally = true;
  };

  testScript = builtins.readFile ./prelude.py + ''
    machine.wait_for_unit("abukiks.target")
    machine.wait_for_unit("sockets.target")
    machine.wait_for_unit("abukiks@5000.service")
    machine.wait_for_unit("abukiks@5003.service")

    with subtest("all that the module says is in force"):
        redis = "REDIS_URL=unix:///run/redis-abukiks/redis.sock"
        assert_declared(machine, "127.0.0.1:5000", redis)
        assert_declared(machine, "[::1]:5003", redis)
        assert show(machine, "abukiks@5000.service", "SupplementaryGroups") == "redis-abukiks"

    with subtest("each visit gets a number of its own"):
        greeting = machine.succeed("curl --fail --silent http://127.0.0.1:5000/").strip()
        assert greeting == "Welcome to Abukiks! Visitor count: 1", greeting
        assert visit(machine, "127.0.0.1:5000") == 2

    with subtest("an on-demand instance starts with its first visitor, and shares the count"):
        machine.fail("systemctl is-active abukiks@5001.service")
        assert visit(machine, "127.0.0.1:5001") == 3
        machine.succeed("systemctl is-active abukiks@5001.service")
        assert_declared(machine, "127.0.0.1:5001")

    with subtest("one more instance is one command away"):
        machine.succeed("systemctl start abukiks@5002")
        assert visit(machine, "127.0.0.1:5002") == 4
        assert_configured(machine, "127.0.0.1:5002")

    with subtest("each listens where it was told to, and nowhere else"):
        for port in 5000, 5001, 5002:
            assert listens(machine, port) == ["127.0.0.1"], (port, listens(machine, port))
        assert listens(machine, 5003) == ["[::1]"], listens(machine, 5003)
        assert visit(machine, "[::1]:5003") == 5

    with subtest("one that is stopped has given up its port"):
        machine.succeed("systemctl stop abukiks@5002.socket abukiks@5002")
        assert listens(machine, 5002) == []

    with subtest("a restart keeps the count"):
        before = invocation(machine, 5000)
        machine.succeed("systemctl restart abukiks@5000")
        assert invocation(machine, 5000) != before
        assert visit(machine, "127.0.0.1:5000") == 6

    with subtest("what the service has no need of, it has not"):
        pid = show(machine, "abukiks@5000.service", "MainPID")
        assert machine.succeed(f"readlink /proc/{pid}/ns/net") != machine.succeed("readlink /proc/1/ns/net")
        assert machine.succeed(f"awk '/^Uid/ {{ print $2 }}' /proc/{pid}/status").strip() != "0"

    with subtest("requests are structured events of the journal"):
        machine.wait_until_succeeds(
            "journalctl --unit 'abukiks@*' HTTP_STATUS=200 --output cat | grep ."
        )
  '';
}
