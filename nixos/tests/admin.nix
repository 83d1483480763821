# One-off processes run as the service runs: same release, settings, credentials and sandbox.
{
  nodes.machine.services.abukiks = {
    enable = true;
    instances = [ 5000 ];
    redis.createLocally = true;
  };

  testScript = ''
    machine.wait_for_unit("abukiks@5000.service")
    for _ in range(3):
        machine.succeed("curl --fail --silent localhost:5000/")

    assert machine.succeed("abukiks-admin show-count").strip() == "3"
    machine.succeed("abukiks-admin check-redis | grep always")
    machine.succeed("abukiks-admin reset-count --to 41")
    assert machine.succeed("curl --fail --silent localhost:5000/").endswith(" 42")

    with subtest("as a unit, for timers"):
        machine.succeed("systemctl start abukiks-admin@reset-count")
        assert machine.succeed("curl --fail --silent localhost:5000/").endswith(" 1")

    with subtest("a wrong use says so"):
        machine.fail("abukiks-admin no-such-task")
        machine.fail("abukiks-admin reset-count --no-such-option")
  '';
}
