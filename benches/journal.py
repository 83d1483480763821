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
    command = ["cargo", "test", "--quiet", "--locked", "--test", "promises", "journal_cost::", "--", "--ignored", "--nocapture"]
    run = subprocess.run(command, cwd=lab.ROOT, env={**os.environ, "BENCH_SECONDS": SECONDS}, stdout=subprocess.PIPE, text=True)
    figures = [json.loads(line.split("figure: ", 1)[1]) for line in run.stdout.splitlines() if "figure: " in line]
    if run.returncode or not figures:
        sys.exit(run.stdout)
    lines = [
        lab.description(),
        "",
        f"An instance under systemd 257 with its shipped units, loaded for {SECONDS} s over 32 keep-alive connections.",
        "",
        "| access log | setting | requests/s | p99 | service's CPU per request | journald's CPU per request | together at 20 000 requests/s "
        "| journal per request | events kept |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for figure in figures:
        visits, report = figure["visits"], figure["report"]
        rate = float(re.search(r"Requests/sec: +([\d.]+)", report)[1])
        p99 = lab.microseconds(re.search(r"99% +([\d.]+[a-z]+)", report)[1])
        service, journald = (ticks / lab.TICK / visits * 1e6 for ticks in figure["ticks"])
        logged = figure["events"] > 0
        kept = f"{min(100, 100 * figure['events'] / visits):.1f} %" if logged else "–"
        size = f"{1024 * figure['kib'] / visits:,.0f} bytes" if logged else "–"
        lines.append(
            f"| {figure['way']} | `{figure['setting']}` | {rate:,.0f} | {p99 / 1000:.1f} ms | {service:.1f} µs | {journald:.1f} µs "
            f"| {BUSY * (service + journald) / 1e6:.2f} cores | {size} | {kept} |"
        )
    size = 1024 * figures[0]["kib"] / figures[0]["visits"]
    lines += ["", f"{BUSY:,} logged requests/s fill {BUSY * size / 1e6:.0f} MB of journal each second, {BUSY * size * 3600 / 1e9:.0f} GB an hour."]
    text = "\n".join(lines)
    print(text)
    if not lab.QUICK:
        lab.fill("docs/benchmark.md", "the journal", text)


if __name__ == "__main__":
    main()
