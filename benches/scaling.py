#!/usr/bin/env python3
"""Measures what more instances cost, behind nginx and directly, and what one Redis bears, and writes
the figures of docs/scaling.md. `make bench-scaling` runs it; with QUICK=1 it writes nothing."""

import statistics
import subprocess
import sys
import tempfile

import lab
from lab import QUICK, ROOT, Redis, Running, Server, table
from servers import LIMIT, LOGGED, SERVE_CONFIG

BALANCER = Server("nginx", SERVE_CONFIG, template="benches/nginx/balancer.conf")
INSTANCES = [1, 2, 4, 8]
ROUNDS, SECONDS = (1, 1) if QUICK else (5, 3)
# For each instance, and so many at nginx whatever stands behind it.
CONNECTIONS, CONNECTIONS_OF_NGINX = 32, 64
# Visits a second to each instance where visitors do not ask as fast as they can.
PACE = 1000
PAUSE_MS = 1000 * CONNECTIONS // PACE
BATCHES = 20_000 if QUICK else 300_000


def main():
    lab.allow_many_files()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        redis = Redis(folder)
        measured = measure_instances(redis)
        batch = {links: cost_of_a_batch(redis, links) for links in (10, 100, 1000)}
        redis.stop()
    text = "\n\n".join([lab.description(), instances_tables(measured), batch_table(batch), arithmetic(measured, batch)])
    print(text)
    if not QUICK:
        lab.fill("docs/scaling.md", "the figures", text)


def measure_instances(redis):
    """Loads by how they come in and by number of instances."""
    measured = {}
    patience = lab.Patience(repetitions=10)
    for number in range(1, ROUNDS + 1):
        print(f"round {number} of {ROUNDS}", file=sys.stderr, flush=True)
        for count in INSTANCES:
            instances = [Running(LOGGED, redis) for _ in range(count)]
            for instance in instances:
                instance.first_answer()
            behind = " ".join(f"server 127.0.0.1:{instance.port};" for instance in instances)
            nginx = Running(BALANCER, redis, places={"@INSTANCES@": behind, "@PROXY@": str(ROOT / "proxies/proxy.conf")})
            nginx.first_answer()
            limits = [Running(LIMIT, redis) for _ in range(count)]
            for limit in limits:
                limit.first_answer()
            each, every = CONNECTIONS, CONNECTIONS * count
            for way, servers, entrances, connections, pause_ms in [
                ("directly, paced", instances, instances, each, PAUSE_MS),
                ("behind nginx, paced", instances, [nginx], every, PAUSE_MS),
                ("directly", instances, instances, each, None),
                ("of the limit", limits, limits, each, None),
                ("behind nginx", instances, [nginx], CONNECTIONS_OF_NGINX, None),
            ]:

                def measure():
                    before = nginx.cpu_seconds()
                    load = lab.wrk(servers, redis, connections, SECONDS, entrances, pause_ms)
                    load.nginx = (nginx.cpu_seconds() - before) / load.requests * 1e6
                    # The account does not know nginx.
                    load.disturbance -= load.nginx * load.requests / 1e6 / SECONDS / lab.CORES
                    if load.faults:
                        sys.exit(f"{count} {way}: {', '.join(load.faults)}")
                    return load

                measured.setdefault((way, count), []).append(patience.undisturbed(measure))
            for server in [nginx, *instances, *limits]:
                server.stop()
    return measured


def cost_of_a_batch(redis, links):
    """CPU seconds of Redis for one batch, with batches coming over so many links at once."""
    sha = redis.ask("SCRIPT", "LOAD", (ROOT / "src/store/scripts/increment.lua").read_text())
    before = redis.cpu_seconds()
    # Each batch is that of a producer of its own: that is dearer than a batch of one that is known.
    producer = "{visitorCount}:producer:__rand_int__"
    subprocess.run(
        ["redis-benchmark", "-s", redis.path, "-q", "-c", str(links), "-n", str(BATCHES), "-r", "1000000000000"]
        + ["EVALSHA", sha, "3", "visitorCount", producer, "{visitorCount}:epoch", "4000000000", "32", "1"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    cost = (redis.cpu_seconds() - before) / BATCHES
    redis.ask("FLUSHALL")
    return cost


def median(loads, what):
    return statistics.median(getattr(load, what) for load in loads)


def instances_tables(measured):
    paced = instances_table(measured, ["directly, paced", "behind nginx, paced"])
    full = instances_table(measured, ["directly", "of the limit", "behind nginx"])
    return (
        f"{ROUNDS} rounds of {SECONDS} s, in turns, medians. Directly, each instance has a port and {CONNECTIONS} "
        "connections of its own; nginx runs with [proxies/proxy.conf](../proxies/proxy.conf).\n\n"
        f"Each instance gets the same, {PACE:,} visits a second or a little less; behind nginx on {CONNECTIONS} "
        f"connections for each, too:\n\n{paced}\n\n"
        "Visitors ask as fast as they are answered, so all cores are busy. There are "
        f"{CONNECTIONS_OF_NGINX} at nginx, however many instances share them. The limit is a server that counts "
        f"nothing, asked directly (see [benchmark.md](benchmark.md)).\n\n{full}"
    )


def instances_table(measured, ways):
    rows = []
    for way, count in ((way, count) for way in ways for count in INSTANCES):
        loads = measured[way, count]
        ratio = statistics.median(load.cpu / one.cpu for load, one in zip(loads, measured[way, 1]))
        rows.append(
            [
                f"{count} {way.removesuffix(', paced')}",
                f"{median(loads, 'rate'):,.0f}",
                f"{median(loads, 'cpu'):.1f} µs",
                f"{ratio:.2f}",
                *([f"{median(loads, 'redis_commands'):.3f}"] if "limit" not in way else []),
                *([f"{median(loads, 'redis_cpu'):.2f} µs"] if "limit" not in way else []),
                *([f"{median(loads, 'nginx'):.1f} µs"] if "nginx" in way else []),
            ]
        )
    what = ["instances", "requests/s", "CPU per request", "relative to one instance", "batches per request"]
    return table([*what, "Redis CPU per request", "nginx's CPU per request"], rows)


def batch_table(batch):
    rows = [[f"{links:,}", f"{1e6 * cost:.1f} µs", f"{1 / cost:,.0f}"] for links, cost in batch.items()]
    return table(["links to Redis", "CPU of Redis for a batch", "batches per second on one core"], rows)


def arithmetic(measured, batch):
    """What follows for as many instances, each busy on a core of its own."""
    cpu = median(measured["directly", 1], "cpu")
    each = 1e6 / cpu
    rows = [
        [
            f"{count:,}",
            f"{count * each:,.0f}",
            f"{1 / cost:,.0f}",
            f"{1000 * count * cost:.2f} ms",
            f"{each * count * cost:,.0f}",
        ]
        for count, cost in batch.items()
    ]
    what = ["busy instances", "requests/s together", "batches per second that Redis bears", "a batch takes at least"]
    return (
        f"An instance that is busy on a core of its own answers {each:,.0f} requests/s (one in {cpu:.1f} µs). It has one "
        "batch on its way at a time, so once Redis is busy, too, a batch takes as long as Redis needs for one of each "
        "instance:\n\n" + table([*what, "visits in a batch"], rows)
    )


if __name__ == "__main__":
    main()
