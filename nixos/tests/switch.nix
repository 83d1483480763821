# From one release to another and back, with visitors all the while.
let
  # A visitor that never rests. Each line of its log is the number that it got, or what went wrong.
  visitor = ''
    import http.client, sys

    while True:
        try:
            connection = http.client.HTTPConnection("localhost", int(sys.argv[1]), timeout=30)
            connection.request("GET", "/")
            answer = connection.getresponse()
            print(answer.status, answer.read().decode().rsplit(" ", 1)[1], flush=True)
            connection.close()
        except Exception as error:
            print("failed", repr(error), flush=True)
  '';
in
{
  nodes.machine =
    { pkgs, ... }:
    {
      services.abukiks = {
        enable = true;
        package = pkgs.abukiks.override { commit = "old"; };
        instances."5000" = { };
        redis.createLocally = true;
      };
      specialisation = {
        more.configuration.services.abukiks.instances."5001" = { };
        new = {
          inheritParentConfig = true;
          configuration =
            { lib, ... }:
            {
              services.abukiks.package = lib.mkForce (pkgs.abukiks.override { commit = "new"; });
            };
        };
      };
      environment.etc."visitor.py".text = visitor;
      environment.systemPackages = [ pkgs.python3 ];
    };

  testScript = ''
    import json

    def switch(system):
        machine.succeed(f"{system}/bin/switch-to-configuration test")

    def commit(port):
        return json.loads(machine.succeed(f"curl --fail --silent localhost:{port}/version"))["commit"]

    old = machine.succeed("readlink --canonicalize /run/current-system").strip()
    machine.wait_for_unit("abukiks@5000.service")
    assert commit(5000) == "old"

    with subtest("a port that is added is served, one that was started by hand too"):
        switch(f"{old}/specialisation/more")
        machine.succeed("systemctl start abukiks@5009")
        assert commit(5001) == "old"
        assert commit(5009) == "old"

    for visitor in range(8):
        machine.succeed(
            f"systemd-run --unit visitor-{visitor} --property StandardOutput=file:/tmp/visits-{visitor}"
            " /run/current-system/sw/bin/python3 /etc/visitor.py 5000"
        )
    machine.wait_until_succeeds("test -s /tmp/visits-7")

    with subtest("the new release answers; the removed port is closed, the manual one is not"):
        switch(f"{old}/specialisation/new")
        assert commit(5000) == "new"
        machine.fail("curl --silent localhost:5001/")
        assert commit(5009) == "new"

    with subtest("and back"):
        switch(old)
        assert commit(5000) == "old"
        assert commit(5009) == "old"

    machine.succeed("systemctl stop 'visitor-*'")

    with subtest("no visitor was refused, and every answer was counted once"):
        lines = machine.succeed("cat /tmp/visits-*").splitlines()
        failed = [line for line in lines if line.startswith("failed") or not line.startswith("200 ")]
        assert not failed, failed
        numbers = [int(line.split()[1]) for line in lines]
        assert len(numbers) == len(set(numbers)), "a number was given twice"
        count = int(machine.succeed("abukiks-admin show-count"))
        # One visit of each may have been counted whose answer was never written down.
        assert len(numbers) <= count <= len(numbers) + 8, (len(numbers), count)
  '';
}
