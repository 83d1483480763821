# From one system to another and back, with visitors all the while.
let
  # A visitor that never rests. Each line of its log is the number that it got, or what went wrong.
  visitor = ''
    import http.client, sys

    while True:
        try:
            connection = http.client.HTTPConnection("localhost", int(sys.argv[1]), timeout=60)
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
    let
      # Another release: the same programs at another place, so that nothing is compiled again.
      old = pkgs.abukiks.override { commit = "unknown"; };
      new = pkgs.runCommand old.name { inherit (old) meta version; } ''
        cp --recursive --no-preserve=ownership ${old} $out
        chmod --recursive u+w $out
        grep --recursive --files-with-matches --fixed-strings ${old} $out |
          xargs sed --in-place "s|${old}|$out|g"
      '';
    in
    {
      services.abukiks = {
        enable = true;
        package = old;
        instances."5000" = { };
        redis.createLocally = true;
      };
      specialisation = {
        more.configuration.services.abukiks.instances."5001" = { };
        own.configuration.services.abukiks.instances."5000".settings.LOG_LEVEL = "debug";
        new.configuration =
          { lib, ... }:
          {
            services.abukiks.package = lib.mkForce new;
          };
        address.configuration.services.abukiks.listenAddress = "127.0.0.1";
        on-demand.configuration.services.abukiks.instances."5000".startMode = "on-demand";
      };
      environment.etc."visitor.py".text = visitor;
      environment.systemPackages = [ pkgs.python3 ];
    };

  testScript = builtins.readFile ./prelude.py + ''
    old = machine.succeed("readlink --canonicalize /run/current-system").strip()

    def switch(system):
        machine.succeed(f"{system}/bin/switch-to-configuration test")

    def program(port):
        pid = show(machine, f"abukiks@{port}.service", "MainPID")
        return machine.succeed(f"readlink /proc/{pid}/exe").strip()

    machine.wait_for_unit("abukiks@5000.service")
    assert_declared(machine, "localhost:5000")
    first = program(5000)

    with subtest("a port that is added is served, one that was started by hand too"):
        before = invocation(machine, 5000)
        switch(f"{old}/specialisation/more")
        machine.succeed("systemctl start abukiks@5009")
        assert_declared(machine, "localhost:5001")
        assert_configured(machine, "localhost:5009")
        assert invocation(machine, 5000) == before

    for number in range(8):
        machine.succeed(
            f"systemd-run --unit visitor-{number} --property StandardOutput=file:/tmp/visits-{number}"
            " /run/current-system/sw/bin/python3 /etc/visitor.py 5000"
        )
    for number in range(8):
        machine.wait_until_succeeds(f"test -s /tmp/visits-{number}")

    with subtest("the new release answers; the removed port is closed, the manual one is not"):
        switch(f"{old}/specialisation/new")
        assert program(5000) == program(5009) != first, (program(5000), program(5009), first)
        assert_declared(machine, "localhost:5000")
        assert listens(machine, 5001) == []
        machine.fail("systemctl is-active abukiks@5001.service")

    with subtest("and back"):
        switch(old)
        assert program(5000) == program(5009) == first, (program(5000), program(5009), first)
        assert_declared(machine, "localhost:5000")

    with subtest("settings of one instance restart that one"):
        before = invocation(machine, 5000), invocation(machine, 5009)
        switch(f"{old}/specialisation/own")
        assert invocation(machine, 5000) != before[0]
        assert invocation(machine, 5009) == before[1]
        assert_declared(machine, "localhost:5000", "LOG_LEVEL=debug")
        switch(old)

    machine.succeed("systemctl stop 'visitor-*'")

    with subtest("no visitor was refused, and every answer was counted once"):
        lines = machine.succeed("cat /tmp/visits-*").splitlines()
        failed = [line for line in lines if not line.startswith("200 ")]
        assert not failed, failed
        numbers = [int(line.split()[1]) for line in lines]
        assert len(numbers) == len(set(numbers)), "a number was given twice"
        count = int(machine.succeed("abukiks-admin show-count"))
        # One visit of each may have been counted whose answer was never written down.
        assert len(numbers) <= count <= len(numbers) + 8, (len(numbers), count)

    with subtest("an instance that is to start on demand goes on, and comes back with a visitor"):
        before = invocation(machine, 5000)
        switch(f"{old}/specialisation/on-demand")
        assert invocation(machine, 5000) == before
        machine.succeed("systemctl stop abukiks@5000.service")
        machine.fail("systemctl is-active abukiks@5000.service")
        visit(machine, "localhost:5000")
        assert invocation(machine, 5000) != before
        switch(old)

    with subtest("another address takes effect, and the former one again"):
        assert listens(machine, 5000) == ["*"], listens(machine, 5000)
        for system, address in (f"{old}/specialisation/address", "127.0.0.1"), (old, "*"):
            switch(system)
            machine.wait_until_succeeds(
                "ss --tcp --listening --numeric --no-header 'sport = :5000'"
                f" | grep --fixed-strings ' {address}:5000 '"
            )
            machine.wait_until_succeeds("systemctl is-active abukiks@5000.service")
            assert listens(machine, 5000) == [address], listens(machine, 5000)
            visit(machine, "127.0.0.1:5000")
            assert_declared(machine, "127.0.0.1:5000")
  '';
}
