# Redis is away for a while: visitors are told to come back, and nothing restarts.
{
  nodes.machine.services.abukiks = {
    enable = true;
    instances = [ 5000 ];
    redis.createLocally = true;
  };

  testScript = ''
    def status(path):
        return machine.succeed(
            f"curl --silent --output /dev/null --write-out '%{{http_code}}' localhost:5000{path}"
        )

    machine.wait_for_unit("abukiks@5000.service")
    assert status("/") == "200"

    machine.succeed("systemctl stop redis-abukiks")
    assert status("/") == "503"
    machine.succeed("curl --silent --head --request GET localhost:5000/ | grep -i retry-after")
    machine.wait_until_succeeds("curl --silent localhost:5000/readyz | grep -i redis")
    assert status("/healthz") == "200"

    machine.succeed("systemctl start redis-abukiks")
    machine.wait_until_succeeds("curl --fail localhost:5000/readyz")

    with subtest("what was acknowledged is still counted"):
        machine.succeed("curl --fail --silent localhost:5000/ | grep 'Visitor count: 2'")

    restarts = machine.succeed("systemctl show --property NRestarts --value abukiks@5000").strip()
    assert restarts == "0", restarts
  '';
}
