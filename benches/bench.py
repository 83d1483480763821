#!/usr/bin/env python3
"""Measures the service against what else could be run in its place, side by side and in turns, and
writes docs/benchmark.md, docs/benchmark.svg and the figures of README.md. `make bench` runs it; with
QUICK=1 it takes a short look and writes nothing."""

import contextlib
import math
import pathlib
import random
import re
import socket
import statistics
import sys
import tempfile
import time

import lab
import report
from lab import QUICK, ROOT, Redis, Running, Server
from report import IDLE_CONNECTIONS, ROUNDS, SECONDS, TOGETHER, Figures
from servers import (
    ANEW,
    AT_A_TIME,
    AXUM,
    BESIDE,
    FLASK,
    IN_TURNS,
    LIMIT,
    LOADED,
    LOGGED,
    NAMES,
    ONE_CORE,
    SERVERS,
    SILENT,
)

STARTS = 3 if QUICK else 15


def main():
    check_versions()
    lab.allow_many_files()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        redis = Redis(folder)
        figures = Figures(
            starts=measure_starts(redis),
            ready=measure_ready(redis),
            connections={server.name: cost_of_connections(server, redis) for server in (LIMIT, LOGGED, AXUM)},
            instructions={
                (server.name, together): cost_in_instructions(server, redis, together)
                for server in (LIMIT, LOGGED, SILENT)
                for together in TOGETHER
            },
            rounds=Rounds(redis),
        )
        redis.stop()
    comparison, targets = report.comparison(figures), report.targets(figures)
    print(f"\n{comparison}\n\n{targets}")
    if figures.rounds.wrong:
        sys.exit("Not as it must be: " + "; ".join(figures.rounds.wrong))
    if not QUICK:
        lab.fill("docs/benchmark.md", "the comparison", comparison)
        lab.fill("docs/benchmark.md", "the targets", targets)
        lab.fill("README.md", "the figures", report.summary(figures))
        (ROOT / "docs/benchmark.svg").write_text(report.picture(figures))


def check_versions():
    """The limit is one only if it is made of the same hyper and tokio."""

    def version(lock, crate):
        return re.search(rf'name = "{crate}"\nversion = "(.*)"', (ROOT / lock).read_text())[1]

    for crate in ["hyper", "hyper-util", "tokio", "redis"]:
        ours, theirs = version("Cargo.lock", crate), version("benches/rivals/Cargo.lock", crate)
        if ours != theirs:
            sys.exit(f"benches/rivals has {crate} {theirs}, the service {ours}: set it in benches/rivals/Cargo.toml")


def measure_starts(redis):
    """Seconds from exec to the first answer."""
    starts = {name: [] for name in NAMES}
    for _ in range(STARTS):
        # The end of a large one disturbs whichever comes next.
        for server in random.sample(SERVERS, len(SERVERS)):
            running = Running(server, redis)
            starts[server.name].append(running.first_answer())
            running.stop()
    return starts


def measure_ready(redis):
    """Seconds from exec to READY=1."""

    def start(server):
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(f"{folder}/notify")
            running = Running(server, redis, notify=f"{folder}/notify")
            while b"READY=1" not in manager.recv(4096):
                pass
            ready = time.perf_counter() - running.begun
            running.stop()
            return ready

    rounds = [(start(LIMIT), start(LOGGED)) for _ in range(STARTS)]
    return dict(zip((LIMIT.name, LOGGED.name), zip(*rounds)))


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


def cost_in_instructions(server, redis, together):
    """User instructions for each of so many requests that come together on connections that are kept,
    counted by callgrind: what twice as many take more, so that start and end do not count."""

    def instructions(waves):
        with tempfile.TemporaryDirectory() as folder:
            tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
            settings = {**server.settings, "DRAIN_LAME_DUCK": "0s"}
            watched = Server(server.name, [*tool, *server.command], settings, logs=server.logs)
            running = Running(watched, redis)
            running.first_answer()
            clients = [running.connect() for _ in range(together)]
            for _ in range(waves):
                # It finds all of them in one turn of its event loop.
                with running.stopped() if together > 1 else contextlib.nullcontext():
                    for client in clients:
                        client.sendall(lab.REQUEST)
                for client in clients:
                    client.recv(65536)
            for client in clients:
                client.close()
            running.stop()
            parts = pathlib.Path(folder).glob("out*")
            return sum(int(total) for part in parts for total in re.findall(r"^totals: (\d+)", part.read_text(), re.M))

    waves = 1000 if together == 1 else 50
    return (instructions(2 * waves) - instructions(waves)) / waves / together


class Rounds:
    """The load on all servers in turns."""

    def __init__(self, redis):
        self.loads = {(server.name, connections): [] for connections in LOADED for server in LOADED[connections]}
        # CPU for each request when the servers take turns of a moment.
        self.turns = {(server.name, connections): [] for connections in IN_TURNS for server in IN_TURNS[connections]}
        self.memory = {name: [] for name in NAMES}
        self.shared = {name: [] for name in NAMES}
        self.patience = lab.Patience(repetitions=5 if QUICK else 15)
        self.wrong = []
        for number in range(1, ROUNDS + 1):
            print(f"round {number} of {ROUNDS}", file=sys.stderr, flush=True)
            started = {server.name: Running(server, redis) for server in [*SERVERS, *BESIDE]}
            for running in started.values():
                running.first_answer()
            # Servers that are compared are measured within seconds: the machine may be slower a minute later.
            for connections, compared in LOADED.items():
                for server in random.sample(compared, len(compared)):
                    self.load(started[server.name], redis, connections)
            for connections, compared in IN_TURNS.items():
                running = [started[server.name] for server in compared]
                for name, cpu in lab.cpu_in_turns(running, connections, SECONDS).items():
                    self.turns[name, connections].append(cpu)
            for server in BESIDE:
                started.pop(server.name).stop()
            for name, running in started.items():
                if running.server.counts:
                    self.count_crowd(running, redis)
                self.memory[name].append(lab.memory(running.pid))
                running.stop()

    def load(self, running, redis, connections):
        name = running.server.name

        def load():
            if connections is ANEW:
                load = lab.wrk([running], redis, AT_A_TIME, SECONDS, kept=False)
            elif connections is ONE_CORE:
                with lab.on_one_core(running, redis):
                    load = lab.wrk([running], redis, 1, SECONDS)
            else:
                load = lab.wrk([running], redis, connections, SECONDS)
            self.wrong += [f"{name}: {fault} (connections: {connections})" for fault in load.faults]
            return load

        self.loads[name, connections].append(self.patience.undisturbed(load))

    def count_crowd(self, running, redis):
        name = running.server.name
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

    def memory_of(self, name):
        """The medians of RSS and PSS, in KiB."""
        return [statistics.median(values) for values in zip(*self.memory[name])]

    def ratio(self, name, other, connections, what):
        """The median of the ratios within each round."""
        pairs = zip(self.loads[name, connections], self.loads[other, connections])
        return statistics.median(getattr(one, what) / getattr(base, what) for one, base in pairs)

    def cpu_ratio(self, name, other, connections):
        """The mean of the ratios within each round, where the two took turns, and its standard error."""
        ratios = [one / base for one, base in zip(self.turns[name, connections], self.turns[other, connections])]
        error = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else math.inf
        return statistics.mean(ratios), error


if __name__ == "__main__":
    main()
