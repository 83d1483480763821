#!/usr/bin/env python3
"""Measures the service against what else could be run in its place, side by side and in turns, and
writes docs/benchmark.md, docs/benchmark.svg and the figures of README.md. `make bench` runs it; with
QUICK=1 it takes a short look and writes nothing."""

import os
import pathlib
import re
import socket
import statistics
import sys
import tempfile

import chart
import lab
from lab import DIST, QUICK, RIVALS, ROOT, VENV, Redis, Running, Server

ROUNDS, SECONDS, STARTS = (1, 1, 3) if QUICK else (5, 2, 15)
CONNECTIONS = [1, 32, 256]
IDLE_CONNECTIONS = 1000 if QUICK else 10_000
# gunicorn's own recommendation.
WORKERS = str(2 * lab.CORES + 1)

# As the service and most others take them.
SETTINGS = {"PORT": "@PORT@", "REDIS_URL": "unix://@REDIS@"}
SERVICE = str(DIST / "abukiks")
GUNICORN = [
    str(VENV / "gunicorn"), "--bind=127.0.0.1:@PORT@", f"--workers={WORKERS}",
    f"--chdir={ROOT / 'benches/flask'}", "--log-level=error", "app:app",
]  # fmt: skip
LIMIT, LOGGED, SILENT, AXUM, LUA, NGINX, FLASK = SERVERS = [
    Server("the limit", [str(RIVALS / "limit")], SETTINGS, counts=False),
    Server("Abukiks", [SERVICE], {**SETTINGS, "LOG_FORMAT": "json"}, logs=True),
    Server("Abukiks, access log off", [SERVICE], {**SETTINGS, "LOG_FORMAT": "json", "ACCESS_LOG": "off"}, logs=True),
    Server("axum + redis", [str(RIVALS / "axum-redis")], SETTINGS),
    Server("nginx + lua-resty-redis", ["/usr/sbin/nginx", "-e", "stderr", "-c", "@CONFIG@"], template="benches/nginx/lua.conf"),
    Server("nginx `return 200`", ["/usr/sbin/nginx", "-e", "stderr", "-c", "@CONFIG@"], template="benches/nginx/return.conf", counts=False),
    Server("Flask + gunicorn", GUNICORN, {"REDIS_URL": "unix://@REDIS@"}, keeps_connections=False),
]  # fmt: skip
NAMES = [server.name for server in SERVERS]


def main():
    check_versions()
    lab.allow_many_files()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        redis = Redis(folder)
        try:
            starts = measure_starts(redis)
            ready = measure_ready(redis)
            connections = {server.name: cost_of_connections(server, redis) for server in (LIMIT, LOGGED, AXUM)}
            instructions = {server.name: cost_in_instructions(server, redis) for server in (LIMIT, LOGGED, SILENT)}
            rounds = Rounds(redis)
        finally:
            redis.stop()
    report = Report(starts, ready, connections, instructions, rounds)
    tables, verdict = report.tables(), report.verdict()
    print(f"\n{tables}\n\n{verdict}")
    if not QUICK:
        lab.fill("docs/benchmark.md", "the comparison", tables)
        lab.fill("docs/benchmark.md", "the targets", verdict)
        lab.fill("README.md", "the figures", report.summary())
        (ROOT / "docs/benchmark.svg").write_text(report.chart())
    if rounds.wrong:
        sys.exit("A count was not exact: " + "; ".join(rounds.wrong))


def check_versions():
    """The limit is one only if it is made of the same hyper and tokio."""

    def version(lock, crate):
        return re.search(rf'name = "{crate}"\nversion = "(.*)"', (ROOT / lock).read_text())[1]

    for crate in ["hyper", "hyper-util", "tokio", "redis"]:
        ours, theirs = version("Cargo.lock", crate), version("benches/rivals/Cargo.lock", crate)
        if ours != theirs:
            sys.exit(f"benches/rivals has {crate} {theirs}, the service {ours}: set it in benches/rivals/Cargo.toml")


def say(text):
    print(text, file=sys.stderr, flush=True)


def measure_starts(redis):
    """Seconds from exec to the first answer."""
    starts = {name: [] for name in NAMES}
    for _ in range(STARTS):
        for server in SERVERS:
            running = Running(server, redis)
            starts[server.name].append(running.first_answer())
            running.stop()
    return starts


def measure_ready(redis):
    """Seconds from exec to READY=1."""
    ready = {LIMIT.name: [], LOGGED.name: []}
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{folder}/notify")
        for _ in range(STARTS):
            for server in (LIMIT, LOGGED):
                running = Running(server, redis, notify=f"{folder}/notify")
                while b"READY=1" not in manager.recv(4096):
                    pass
                ready[server.name].append(lab.time.perf_counter() - running.begun)
                running.stop()
                manager.setblocking(False)
                try:
                    while manager.recv(4096):
                        pass
                except BlockingIOError:
                    manager.setblocking(True)
    return ready


def cost_of_connections(server, redis):
    """RSS of an idle server, and of each further idle connection that has been used once; in KiB."""
    running = Running(server, redis)
    running.first_answer()
    idle, _ = lab.memory(running.pid)
    connections = [running.connect() for _ in range(IDLE_CONNECTIONS)]
    for connection in connections:
        connection.sendall(lab.REQUEST)
        assert lab.number_in(connection.recv(65536)) is not None
    full, _ = lab.memory(running.pid)
    for connection in connections:
        connection.close()
    running.stop()
    return idle, (full - idle) / IDLE_CONNECTIONS


def cost_in_instructions(server, redis):
    """User instructions for a request on a connection that is kept, counted by callgrind: what twice as
    many requests take more, so that start and end do not count."""

    def instructions(requests):
        with tempfile.TemporaryDirectory() as folder:
            tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
            watched = Server(server.name, [*tool, *server.command], {**server.settings, "DRAIN_LAME_DUCK": "0s"}, logs=server.logs)
            running = Running(watched, redis)
            running.first_answer()
            with running.connect() as connection:
                for _ in range(requests):
                    connection.sendall(lab.REQUEST)
                    connection.recv(65536)
            running.stop()
            parts = pathlib.Path(folder).glob("out*")
            return sum(int(total) for part in parts for total in re.findall(r"^totals: (\d+)", part.read_text(), re.M))

    requests = 1000
    return (instructions(2 * requests) - instructions(requests)) / requests


class Rounds:
    """The load on all servers in turns."""

    def __init__(self, redis):
        self.loads = {(name, connections): [] for name in NAMES for connections in CONNECTIONS}
        self.memory = {name: [] for name in NAMES}
        self.shared = {name: [] for name in NAMES}
        self.patience = lab.Patience(repetitions=5 if QUICK else 15)
        self.wrong = []
        for number in range(1, ROUNDS + 1):
            say(f"round {number} of {ROUNDS}")
            for server in SERVERS:
                running = Running(server, redis)
                running.first_answer()
                self.measure(running, redis)
                self.memory[server.name].append(lab.memory(running.pid))
                running.stop()

    def measure(self, running, redis):
        name = running.server.name
        for connections in CONNECTIONS:

            def load():
                load = lab.wrk([running], redis, connections, SECONDS)
                # When wrk ends, each of its connections may have one visit on its way.
                if running.server.counts and not load.requests <= load.counted <= load.requests + connections:
                    self.wrong.append(f"{name}: {load.requests} answered, {load.counted} counted")
                if load.failed:
                    self.wrong.append(f"{name}: wrk met errors at {connections} connections")
                return load

            self.loads[name, connections].append(self.patience.undisturbed(load))
        if not running.server.counts:
            return
        count = redis.settled_count()
        numbers = lab.numbers_of_crowd(running, at_once=32, waves=25)
        alone = [number for number in numbers if numbers.count(number) == 1]
        self.shared[name].append(1 - len(alone) / len(numbers))
        counted = redis.settled_count() - count
        if counted != len(numbers) or None in numbers:
            self.wrong.append(f"{name}: {len(numbers)} answered, {counted} counted")
        if running.server is not FLASK and len(alone) < len(numbers):
            self.wrong.append(f"{name}: a number was given twice")

    def median(self, name, connections, what):
        return statistics.median(getattr(load, what) for load in self.loads[name, connections])

    def spread(self, name, connections, what):
        """The median, and how far the rounds lie from it at most."""
        values = [getattr(load, what) for load in self.loads[name, connections]]
        median = statistics.median(values)
        return median, max(abs(value - median) for value in values)

    def ratio(self, name, other, connections, what):
        """The median of the ratios within each round."""
        pairs = zip(self.loads[name, connections], self.loads[other, connections])
        return statistics.median(getattr(one, what) / getattr(base, what) for one, base in pairs)

    def disturbances(self):
        return [load.disturbance for loads in self.loads.values() for load in loads]


class Report:
    """What was measured, as people want to read it."""

    def __init__(self, starts, ready, connections, instructions, rounds):
        self.starts, self.ready = starts, ready
        self.connections, self.instructions, self.rounds = connections, instructions, rounds

    def start(self, name):
        return statistics.median(self.starts[name])

    def ready_or_start(self, name):
        return statistics.median(self.ready[name])

    def share(self):
        """The share of the tutorial's visitors whose number somebody else got too: least and most."""
        return [f"{100 * edge:.0f}" for edge in (min(self.rounds.shared[FLASK.name]), max(self.rounds.shared[FLASK.name]))]

    def tables(self):
        parts = [picture("benchmark.svg"), lab.description(), self.noise()]
        for connections in CONNECTIONS:
            parts.append(f"**{connections} keep-alive connection{'s'[: connections > 1]}**\n\n{self.load_table(connections)}")
        parts.append(f"**Start and memory**\n\n{self.memory_table()}")
        parts.append(f"**User instructions for a request at one connection** (callgrind)\n\n{self.instruction_table()}")
        low, high = self.share()
        parts.append(
            f"**Exactness.** After each load 32 visitors at a time came 25 times. At every server but one each got a number of "
            f"their own, and the count rose by the number of answers. The tutorial's `incr` then `get` gave {low} to {high} % "
            f"of the visitors a number that somebody else got too ({WORKERS} gunicorn workers)."
        )
        return "\n\n".join(parts)

    def noise(self):
        disturbances = self.rounds.disturbances()
        above = sum(disturbance > lab.DISTURBED for disturbance in disturbances)
        return (
            f"{ROUNDS} rounds of {SECONDS} s for each server and each number of connections, in turns; medians, ± the largest "
            f"distance of a round from it. {self.rounds.patience.repeated} measurements were repeated because something else used more than "
            f"{100 * lab.DISTURBED:.0f} % of the machine; of the {len(disturbances)} that count, {above} still were so disturbed, "
            f"at most by {100 * max(disturbances):.0f} %."
        )

    def load_table(self, connections):
        rounds = self.rounds
        lines = [
            "| server | requests/s | p50 | p99 | server CPU per request | relative to the limit | Redis CPU per request | Redis commands per request |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for server in SERVERS:
            at = server.name, connections
            rate, rate_spread = rounds.spread(*at, "rate")
            cpu, cpu_spread = rounds.spread(*at, "cpu")
            redis = (
                f"{rounds.median(*at, 'redis_cpu'):.2f} µs | {rounds.median(*at, 'redis_commands'):.3f}" if server.counts else "– | –"
            )
            lines.append(
                f"| {server.name} | {rate:,.0f} ± {100 * rate_spread / rate:.0f} % | {duration(rounds.median(*at, 'p50'))} "
                f"| {duration(rounds.median(*at, 'p99'))} | {cpu:.1f} ± {cpu_spread:.1f} µs "
                f"| {rounds.ratio(*at[:1], LIMIT.name, connections, 'cpu'):.2f} | {redis} |"
            )
        return "\n".join(lines)

    def memory_table(self):
        lines = ["| server | exec to first answer | RSS after the load | PSS | RSS for each idle connection |", "|---|--:|--:|--:|--:|"]
        for name in NAMES:
            rss, pss = (statistics.median(values) for values in zip(*self.rounds.memory[name]))
            each = f"{self.connections[name][1]:.1f} KiB" if name in self.connections else "–"
            lines.append(f"| {name} | {duration(1e6 * self.start(name))} | {rss / 1024:.1f} MiB | {pss / 1024:.1f} MiB | {each} |")
        return "\n".join(lines)

    def instruction_table(self):
        lines = ["| server | instructions |", "|---|--:|"]
        lines += [f"| {name} | {count:,.0f} |" for name, count in self.instructions.items()]
        return "\n".join(lines)

    def verdict(self):
        """Each target with what was measured."""
        rounds = self.rounds
        lines = ["| what | target: at most | measured | |", "|---|--:|--:|---|"]

        def target(what, limit, measured, unit="", at_least=False):
            met = measured >= limit if at_least else measured <= limit
            bound = f"{'at least ' if at_least else ''}{limit:,}{unit}"
            lines.append(f"| {what} | {bound} | {measured:,.{0 if limit > 1000 else 2}f}{unit} | {'met' if met else '**missed**'} |")

        for server, by_connections in ((LOGGED, {256: 1.25, 32: 1.5}), (SILENT, {256: 1.1, 32: 1.2})):
            for connections, limit in by_connections.items():
                ratio = rounds.ratio(server.name, LIMIT.name, connections, "cpu")
                target(f"{server.name}: CPU per request relative to the limit, {connections} connections", limit, ratio)
        for connections, limit in {32: 0.7, 256: 0.6}.items():
            ratio = rounds.ratio(LOGGED.name, AXUM.name, connections, "cpu")
            target(f"CPU per request relative to axum + redis, {connections} connections", limit, ratio)
        target("p50 relative to axum + redis, 1 connection", 1, rounds.ratio(LOGGED.name, AXUM.name, 1, "p50"))
        for server, limit in ((LOGGED, 0.8), (SILENT, 0.9)):
            ratio = rounds.ratio(server.name, LIMIT.name, 256, "rate")
            target(f"{server.name}: requests/s relative to the limit, 256 connections", limit, ratio, at_least=True)
        target("Redis commands per request, 256 connections", 0.1, rounds.median(LOGGED.name, 256, "redis_commands"))
        target("Redis CPU per request, 256 connections", 1, rounds.median(LOGGED.name, 256, "redis_cpu"), " µs")
        tail = statistics.median(load.p99 / load.p50 for load in rounds.loads[LOGGED.name, 256])
        target("p99 relative to p50, 256 connections", 2.5, tail)
        target("exec to first answer relative to the limit", 1.5, self.start(LOGGED.name) / self.start(LIMIT.name))
        target("exec to READY=1 relative to the limit", 1.5, self.ready_or_start(LOGGED.name) / self.ready_or_start(LIMIT.name))
        target("user instructions per request, 1 connection", 14000, self.instructions[LOGGED.name])
        target("the same, access log off", 12000, self.instructions[SILENT.name])
        idle, each = self.connections[LOGGED.name]
        target("idle RSS", 4, idle / 1024, " MiB")
        target(f"RSS for each of {IDLE_CONNECTIONS:,} idle connections", 10, each, " KiB")
        target("the program", 3, os.path.getsize(SERVICE) / 2**20, " MiB")
        target("the program without TLS", 2, os.path.getsize(ROOT / "target/bench/release/abukiks") / 2**20, " MiB")
        cpu = rounds.ratio(LOGGED.name, NGINX.name, 256, "cpu")
        lines.append(f"| CPU per request relative to nginx `return 200`, 256 connections | – | {cpu:.2f} | for comparison |")
        return "\n".join(lines)

    def summary(self):
        """A few lines for README."""
        rounds = self.rounds
        lines = [picture("docs/benchmark.svg"), ""]
        lines += ["| server | requests/s | p50 | p99 | server CPU per request | memory | exec to first answer |", "|---|--:|--:|--:|--:|--:|--:|"]
        for server in (LIMIT, NGINX, SILENT, LOGGED, AXUM, LUA, FLASK):
            at = server.name, 256
            _, pss = (statistics.median(values) for values in zip(*rounds.memory[server.name]))
            lines.append(
                f"| {server.name} | {rounds.median(*at, 'rate'):,.0f} | {duration(rounds.median(*at, 'p50'))} "
                f"| {duration(rounds.median(*at, 'p99'))} | {rounds.median(*at, 'cpu'):.1f} µs | {pss / 1024:.1f} MiB "
                f"| {duration(1e6 * self.start(server.name))} |"
            )
        low, high = self.share()
        lines.append(
            f"\nThe tutorial's `incr` then `get` told {low} to {high} % of concurrent visitors a number that somebody else was "
            "told too; Abukiks none."
        )
        return "\n".join(lines)

    def chart(self):
        order = [LIMIT, NGINX, SILENT, LOGGED, AXUM, LUA, FLASK]
        bars = [
            (server.name.replace("`", ""), {connections: self.rounds.median(server.name, connections, "cpu") for connections in (32, 256)})
            for server in order
        ]
        return chart.bars("Server CPU per request, in µs, on a logarithmic scale", bars)


def picture(path):
    return f"![Server CPU per request of each server]({path})"


def duration(microseconds):
    if microseconds < 1000:
        return f"{microseconds:.0f} µs"
    return f"{microseconds / 1000:.{1 if microseconds < 1e5 else 0}f} ms"


if __name__ == "__main__":
    main()
