# One-off processes run as the service runs: same release, settings, credentials and sandbox.
{
  nodes.machine.services.abukiks = {
    enable = true;
    instances = {
      "5000" = { };
      "5001".settings.COUNTER_KEY = "own";
    };
    redis.createLocally = true;
  };

  testScript = builtins.readFile ./prelude.py + ''
    machine.wait_for_unit("abukiks@5000.service")
    machine.wait_for_unit("abukiks@5001.service")
    assert_declared(machine, "localhost:5000")
    assert_declared(machine, "localhost:5001", "COUNTER_KEY=own")
    for number in 1, 2, 3:
        assert visit(machine, "localhost:5000") == number

    with subtest("with the settings of all instances"):
        assert machine.succeed("abukiks-admin show-count").strip() == "3"
        machine.succeed("abukiks-admin check-redis | grep --fixed-strings '(appendfsync always)'")
        machine.succeed("abukiks-admin reset-count --to 41")
        assert visit(machine, "localhost:5000") == 42

    with subtest("with the settings of one"):
        assert machine.succeed("abukiks-admin --instance 5001 show-count").startswith("0 ")
        assert visit(machine, "localhost:5001") == 1
        assert machine.succeed("abukiks-admin --instance 5001 show-count").strip() == "1"
        machine.succeed("abukiks-admin --instance 5001 reset-count --to 7")
        assert visit(machine, "localhost:5001") == 8
        assert machine.succeed("abukiks-admin show-count").strip() == "42"

    with subtest("as a unit, for timers"):
        machine.succeed("systemctl start abukiks-admin@reset-count")
        assert visit(machine, "localhost:5000") == 1

    with subtest("a wrong use says so"):
        code, _ = machine.execute("abukiks-admin no-such-task")
        assert code == 64, code
        code, _ = machine.execute("abukiks-admin --instance no-port show-count")
        assert code == 64, code
        code, _ = machine.execute("abukiks-admin reset-count --no-such-option")
        assert code == 64, code
        assert machine.succeed("abukiks-admin show-count").strip() == "1"
  '';
}
