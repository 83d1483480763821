"""What was measured, as people want to read it: tables in Markdown, and a chart."""

import dataclasses
import os
import re
import statistics

import chart
import lab
from lab import QUICK, ROOT, table
from servers import (
    ANEW,
    AT_A_TIME,
    AXUM,
    AXUM_SCRIPT,
    BESIDE,
    COMPARED,
    FLASK,
    IN_TURNS,
    LIMIT,
    LOGGED,
    NAMES,
    NGINX,
    ONE_CORE,
    PRIOR,
    SERVICE,
    SESSIONS,
    SILENT,
    WORKERS,
)

ROUNDS, SECONDS = (1 if QUICK else 10), 1
IDLE_CONNECTIONS = 1000 if QUICK else 10_000
# Requests that come at once when instructions are counted.
TOGETHER = [1, 32]


@dataclasses.dataclass
class Figures:
    """All that was measured, by the names of the servers."""

    # Seconds from exec to the first answer, and to READY=1.
    starts: dict
    ready: dict
    # KiB of an idle server, and of each further idle connection.
    connections: dict
    # User instructions for a request, also by how many come together.
    instructions: dict
    # What the load has shown, bench.Rounds.
    rounds: object

    def shared(self):
        """The share of the tutorial's visitors whose number another one got too, in words."""
        low, high = (edge(self.rounds.shared[FLASK.name]) for edge in (min, max))
        return f"{100 * low:.0f} to {100 * high:.0f} %"


def comparison(figures):
    """The tables of docs/benchmark.md."""
    parts = [link("benchmark.svg"), lab.description(), disturbances(figures.rounds)]
    for connections in COMPARED:
        if connections is ANEW:
            title = f"{AT_A_TIME} connections at a time, each for a single request"
        elif connections is ONE_CORE:
            title = "1 keep-alive connection, with wrk, server, Redis and log reader on one core"
        else:
            title = f"{connections} keep-alive connection{'s' if connections > 1 else ''}"
        parts += [f"**{title}**", load_table(figures.rounds, connections)]
    parts += ["**Start and memory**", memory_table(figures)]
    names = dict.fromkeys(name for name, _ in figures.instructions)
    rows = [[name, *(f"{figures.instructions[name, together]:,.0f}" for together in TOGETHER)] for name in names]
    parts += [
        "**User instructions for a request** (callgrind)",
        table(["server", *("alone" if together == 1 else f"of {together} together" for together in TOGETHER)], rows),
    ]
    parts.append(
        "**Exactness.** After each load 32 visitors at a time came 25 times. At every server but one each got a "
        "number of their own, and the count rose by the number of answers. The tutorial's `incr` then `get` gave "
        f"{figures.shared()} of the visitors a number that another visitor got too ({WORKERS} gunicorn workers)."
    )
    return "\n\n".join(parts)


def disturbances(rounds):
    values = [load.disturbance for loads in rounds.loads.values() for load in loads]
    above = sum(value > lab.DISTURBED for value in values)
    return (
        f"{ROUNDS} rounds of {SECONDS} s for each server and each number of connections, in turns; medians, ± the "
        f"largest distance of a round from it. {rounds.patience.repeated} measurements were repeated because something "
        f"else used more than {100 * lab.DISTURBED:.0f} % of the machine; of the {len(values)} that count, {above} "
        f"still were so disturbed, at most by {100 * max(values):.0f} %. How the CPU for each request relates to that of "
        f"the limit was measured apart for {' and '.join(map(str, IN_TURNS))} connections, but for Flask: in each round "
        f"the servers were loaded in turns of {1000 * lab.TURN:.0f} ms in random order, for {SECONDS} s each; means of "
        "the ratios in the rounds, ± the standard error."
    )


def relative_to_limit(rounds, server, connections):
    if (server.name, connections) not in rounds.turns:
        return f"{rounds.ratio(server.name, LIMIT.name, connections, 'cpu'):.2f}"
    ratio, error = rounds.cpu_ratio(server.name, LIMIT.name, connections)
    return f"{ratio:.2f} ± {error:.2f}"


def load_table(rounds, connections):
    rows = []
    for server in COMPARED[connections]:
        at = server.name, connections
        rate, rate_spread = rounds.spread(*at, "rate")
        cpu, cpu_spread = rounds.spread(*at, "cpu")
        row = [
            server.name,
            f"{rate:,.0f} ± {100 * rate_spread / rate:.0f} %",
            duration(rounds.median(*at, "p50")),
            duration(rounds.median(*at, "p99")),
            f"{cpu:.1f} ± {cpu_spread:.1f} µs",
            relative_to_limit(rounds, server, connections),
        ]
        if server.counts:
            row += [f"{rounds.median(*at, 'redis_cpu'):.2f} µs", f"{rounds.median(*at, 'redis_commands'):.3f}"]
        rows.append(row)
    what = ["server", "requests/s", "p50", "p99", "server CPU per request", "relative to the limit"]
    return table([*what, "Redis CPU per request", "Redis commands per request"], rows)


def memory_table(figures):
    rows = []
    for name in NAMES:
        row = [
            name,
            duration(1e6 * statistics.median(figures.starts[name])),
            *map(mebibytes, figures.rounds.memory_of(name)),
        ]
        if name in figures.connections:
            idle, each = figures.connections[name]
            row += [mebibytes(idle), f"{each:.1f} KiB"]
        rows.append(row)
    after = ["RSS after the load", "PSS after the load"]
    return table(["server", "exec to first answer", *after, "RSS when idle", "RSS for each idle connection"], rows)


def targets(figures):
    """Each target with what was measured."""
    rounds, rows = figures.rounds, []

    def target(what, limit, measured, unit="", at_least=False, error=None):
        met = measured >= limit if at_least else measured <= limit
        bound = f"at {'least' if at_least else 'most'} {limit:,}{unit}"
        figure = f"{measured:,.{0 if limit > 1000 else 2}f}{f' ± {error:.2f}' if error is not None else ''}{unit}"
        rows.append([what, bound, figure, "met" if met else "**missed**"])

    def relative_cpu(what, one, other, limits):
        for connections, limit in limits.items():
            ratio, error = rounds.cpu_ratio(one.name, other.name, connections)
            target(f"{what}, {connections} connections", limit, ratio, error=error)

    def relative_time(what, times):
        ratio = statistics.median(times[LOGGED.name]) / statistics.median(times[LIMIT.name])
        target(f"{what}, relative to the limit", 1.5, ratio)

    relative_cpu("CPU per request relative to the limit", LOGGED, LIMIT, {256: 1.25, 32: 1.25})
    if PRIOR in BESIDE:
        name = re.sub(r"\b([0-9a-f]{7})[0-9a-f]{33}\b", r"\1", lab.first_line(*PRIOR.command, "--version"))
        relative_cpu(f"CPU per request relative to {name}", LOGGED, PRIOR, {256: 1.08, 32: 1.08})
    relative_cpu("the same, access log off", SILENT, LIMIT, {256: 1.1, 32: 1.2})
    relative_cpu("CPU per request with sessions, relative to that without", SESSIONS, LOGGED, {256: 1.35, 32: 1.35})
    target("Redis CPU per visit with sessions, 256 connections", 4, rounds.median(SESSIONS.name, 256, "redis_cpu"), " µs")
    relative_cpu("CPU per request relative to axum + redis", LOGGED, AXUM, {256: 0.6, 32: 0.7})
    for where, connections in [("on one core", ONE_CORE), ("on all cores", 1)]:
        for what, other, limit in [("", AXUM, 1), (", which counts by the same script", AXUM_SCRIPT, 1.05)]:
            ratio = rounds.ratio(LOGGED.name, other.name, connections, "p50")
            target(f"p50 relative to axum + redis{what}, 1 connection {where}", limit, ratio)
    for what, server, limit in [("", LOGGED, 0.8), (", access log off", SILENT, 0.9)]:
        ratio = rounds.ratio(server.name, LIMIT.name, 256, "rate")
        target(f"requests/s relative to the limit, 256 connections{what}", limit, ratio, at_least=True)
    target("Redis commands per request, 256 connections", 0.1, rounds.median(LOGGED.name, 256, "redis_commands"))
    target("Redis CPU per request, 256 connections", 1, rounds.median(LOGGED.name, 256, "redis_cpu"), " µs")
    tail = statistics.median(load.p99 / load.p50 for load in rounds.loads[LOGGED.name, 256])
    target("p99 relative to p50, 256 connections", 2.5, tail)
    relative_time("exec to first answer", figures.starts)
    relative_time("exec to READY=1", figures.ready)
    for together in reversed(TOGETHER):
        connections = f"{together} connection{'s' if together > 1 else ''}"
        limit = {1: 35200, 32: 14200}[together]
        target(f"user instructions per request, {connections}", limit, figures.instructions[LOGGED.name, together])
    idle, each = figures.connections[LOGGED.name]
    target("idle RSS", 4.5, idle / 1024, " MiB")
    _, of_limit = figures.connections[LIMIT.name]
    target(f"RSS for each of {IDLE_CONNECTIONS:,} idle connections, relative to the limit", 1, each / of_limit)
    target("the program", 3.25, os.path.getsize(SERVICE) / 2**20, " MiB")
    target("the program without TLS", 2, os.path.getsize(ROOT / "target/bench/release/abukiks") / 2**20, " MiB")
    relative_cpu("stretch: CPU per request relative to nginx `return 200`", LOGGED, NGINX, {256: 1})
    target("stretch: idle RSS", 2.5, idle / 1024, " MiB")
    return table(["what", "target", "measured", ""], rows)


def summary(figures):
    """Two lines for README."""

    def load(name):
        at = name, 256
        return f"{figures.rounds.median(*at, 'rate'):,.0f} requests/s, {figures.rounds.median(*at, 'cpu'):.1f} µs of CPU"

    ratio, _ = figures.rounds.cpu_ratio(LOGGED.name, LIMIT.name, 256)
    return (
        f"At 256 keep-alive connections: {load(LOGGED.name)} for each. That is {ratio:.2f} times what the same hyper "
        "and tokio need for a constant answer.\n"
        f"The tutorial's Flask app: {load(FLASK.name)} for each, and {figures.shared()} of concurrent visitors got a "
        "number that another visitor got too."
    )


def picture(figures):
    def cpu(name):
        return {connections: figures.rounds.median(name, connections, "cpu") for connections in (32, 256)}

    bars = [(name.replace("`", ""), cpu(name)) for name in NAMES]
    return chart.bars("Server CPU per request, in µs, on a logarithmic scale", bars)


def link(path):
    return f"![Server CPU per request of each server]({path})"


def duration(microseconds):
    if microseconds < 1000:
        return f"{microseconds:.0f} µs"
    return f"{microseconds / 1000:.{1 if microseconds < 1e5 else 0}f} ms"


def mebibytes(kibibytes):
    return f"{kibibytes / 1024:.1f} MiB"
