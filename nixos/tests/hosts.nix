# The three hosts of ../examples/cluster.nix: the visitors' balancer, two with instances and a Redis each.
{
  nodes = import ../examples/cluster.nix;

  testScript = builtins.readFile ./prelude.py + ''
    apps = app1, app2
    ports = 5000, 5001
    visits = "for visit in $(seq 20); do curl --fail --silent http://localhost/; echo; done"

    start_all()
    for app in apps:
        app.wait_for_unit("redis-count.service")
        for port in ports:
            app.wait_for_unit(f"abukiks@{port}.service")
            app.wait_until_succeeds(f"curl --fail localhost:{port}/readyz")
            assert_declared(app, f"localhost:{port}", "REDIS_URL=redis://app1/", "MIN_REPLICAS_ACK=1")
    balancer.wait_for_unit("nginx.service")

    with subtest("visitors of all instances share the count"):
        numbers = [int(line.rsplit(" ", 1)[1]) for line in balancer.succeed(visits).splitlines()]
        assert sorted(numbers) == list(range(1, 21)), numbers

    with subtest("admin processes reach Redis by TCP as the instances do"):
        for app in apps:
            assert app.succeed("abukiks-admin show-count").strip() == "20"
            app.succeed("abukiks-admin check-redis")

    with subtest("a host that restarts its instances takes no visitor with it"):
        before = [invocation(app1, port) for port in ports]
        app1.succeed("systemctl --no-block restart 'abukiks@*.service'")
        balancer.succeed(visits)
        for port, old in zip(ports, before):
            app1.wait_until_succeeds(
                f"id=$(systemctl show --property InvocationID --value abukiks@{port}.service)"
                f" && test -n \"$id\" && test \"$id\" != {old}"
            )
            app1.wait_for_unit(f"abukiks@{port}.service")
        assert visit(balancer, "localhost") == 41

    with subtest("no number is given out that the replica has not"):
        app2.succeed("systemctl stop redis-count")
        assert status(app1, "localhost:5000/") == "503"
        app2.succeed("systemctl start redis-count")
        app1.wait_until_succeeds("curl --fail localhost:5000/readyz")
        # The visit without an answer was counted, once at most.
        assert visit(balancer, "localhost") in (42, 43)

    with subtest("the instances are reached by the network that the hosts share, and Redis too"):
        for app in apps:
            for port in ports:
                balancer.succeed(f"curl --fail http://{app.name}:{port}/healthz")
        balancer.succeed("timeout 10 bash -c 'exec 3<>/dev/tcp/app1/6379'")
  '';
}
