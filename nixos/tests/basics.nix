{
  nodes.machine.services.abukiks = {
    enable = true;
    instances."5000" = { };
    instances."5001".startMode = "on-demand";
    redis.createLocally = true;
  };

  testScript = ''
    greeting = "Welcome to Abukiks! Visitor count: {}"

    def visit(port):
        return machine.succeed(f"curl --fail --silent http://localhost:{port}/").strip()

    machine.wait_for_unit("abukiks@5000.service")
    machine.wait_for_unit("sockets.target")

    with subtest("each visit gets a number of its own"):
        assert visit(5000) == greeting.format(1)
        assert visit(5000) == greeting.format(2)

    with subtest("an on-demand instance starts with its first visitor, and shares the count"):
        machine.fail("systemctl is-active abukiks@5001.service")
        assert visit(5001) == greeting.format(3)
        machine.succeed("systemctl is-active abukiks@5001.service")

    with subtest("one more instance is one command away"):
        machine.succeed("systemctl start abukiks@5002")
        assert visit(5002) == greeting.format(4)
        machine.succeed("systemctl stop abukiks@5002.socket abukiks@5002")
        machine.fail("curl --silent http://localhost:5002/")

    with subtest("a restart keeps the count"):
        machine.succeed("systemctl restart abukiks@5000")
        assert visit(5000) == greeting.format(5)

    with subtest("what the service has no need of, it has not"):
        pid = machine.succeed("systemctl show --property MainPID --value abukiks@5000").strip()
        assert machine.succeed(f"readlink /proc/{pid}/ns/net") != machine.succeed("readlink /proc/1/ns/net")
        assert machine.succeed(f"awk '/^Uid/ {{ print $2 }}' /proc/{pid}/status").strip() != "0"

    with subtest("requests are structured events of the journal"):
        machine.wait_until_succeeds(
            "journalctl --unit 'abukiks@*' HTTP_STATUS=200 --output cat | grep ."
        )
  '';
}
