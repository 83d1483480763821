# Redis, one that the host has for others as well, is away for a while: visitors are told to come back,
# and nothing restarts.
{
  nodes.machine = {
    services.redis.servers.main = {
      enable = true;
      appendOnly = true;
      appendFsync = "always";
    };
    services.abukiks = {
      enable = true;
      instances = [ 5000 ];
      redis.server = "main";
      settings.REDIS_TIMEOUT = "5s";
    };
  };

  testScript = builtins.readFile ./prelude.py + ''
    machine.wait_for_unit("abukiks@5000.service")
    machine.wait_for_unit("redis-main.service")

    with subtest("the server of the host is joined by its group"):
        assert_declared(machine, "localhost:5000", "REDIS_URL=unix:///run/redis-main/redis.sock")
        assert show(machine, "abukiks@5000.service", "SupplementaryGroups") == "redis-main"
        assert "redis-main.service" in show(machine, "abukiks@5000.service", "After").split()
        assert visit(machine, "localhost:5000") == 1

    before = invocation(machine, 5000)

    with subtest("without it visitors are told to come back"):
        machine.succeed("systemctl stop redis-main")
        assert status(machine, "localhost:5000/") == "503"
        head = machine.succeed("curl --silent --head --request GET localhost:5000/").lower()
        assert "retry-after:" in head, head
        machine.wait_until_succeeds("curl --silent localhost:5000/readyz | grep --ignore-case redis")
        assert status(machine, "localhost:5000/readyz") == "503"
        assert status(machine, "localhost:5000/healthz") == "200"

    with subtest("what was acknowledged is still counted"):
        machine.succeed("systemctl start redis-main")
        machine.wait_until_succeeds("curl --fail localhost:5000/readyz")
        assert visit(machine, "localhost:5000") >= 2

    with subtest("nothing was restarted"):
        assert invocation(machine, 5000) == before
        assert show(machine, "abukiks@5000.service", "NRestarts") == "0"
  '';
}
