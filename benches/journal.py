#!/usr/bin/env python3
"""Measures what logging to the journal costs, inside a systemd of its own (tests/journal_cost.rs), and
writes the figures into docs/benchmark.md. `make bench-journal` runs it; with QUICK=1 it writes nothing."""

import json
import os
import re
import subprocess
import sys

import lab

SECONDS = "1" if lab.QUICK else "5"
BUSY = 20_000


def main():
    command = [
        "cargo",
        "test",
        "--quiet",
        "--locked",
        "--test",
        "promises",
        "journal_cost::",
        "--",
        "--ignored",
        "--nocapture",
    ]
    environment = {**os.environ, "BENCH_SECONDS": SECONDS}
    run = subprocess.run(command, cwd=lab.ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    figures = [json.loads(line.split("figure: ", 1)[1]) for line in run.stdout.splitlines() if "figure: " in line]
    if run.returncode or not figures:
        sys.exit(run.stdout)
    rows = []
    for figure in figures:
        visits, report = figure["visits"], figure["report"]
        rate = float(re.search(r"Requests/sec: +([\d.]+)", report)[1])
        p99 = lab.microseconds(re.search(r"99% +([\d.]+[a-z]+)", report)[1])
        service, journald = (ticks / lab.TICK / visits * 1e6 for ticks in figure["ticks"])
        row = [
            f"{figure['way']} (`{figure['setting']}`)",
            f"{rate:,.0f}",
            f"{p99 / 1000:.1f} ms",
            f"{service:.1f} µs",
            f"{journald:.1f} µs",
            f"{BUSY * (service + journald) / 1e6:.2f} cores",
        ]
        if figure["events"]:
            row += [f"{1024 * figure['kib'] / visits:,.0f} bytes", f"{100 * min(1, figure['events'] / visits):.1f} %"]
        rows.append(row)
    what = ["access log", "requests/s", "p99", "service's CPU per request", "journald's CPU per request"]
    size = 1024 * figures[0]["kib"] / figures[0]["visits"]
    text = "\n\n".join(
        [
            lab.description(),
            f"An instance under systemd 257 with its shipped units, loaded for {SECONDS} s over 32 keep-alive connections.",
            lab.table([*what, f"both at {BUSY:,} requests/s", "journal per request", "events kept"], rows),
            f"{BUSY:,} logged requests/s fill {BUSY * size / 1e6:.0f} MB of journal each second.",
        ]
    )
    print(text)
    if not lab.QUICK:
        lab.fill("docs/benchmark.md", "the journal", text)


if __name__ == "__main__":
    main()
