"""What an engine adds to one update of a raw PyTorch loop.

    python -m benchmarks.engine_overhead [--engines pet,mmengine] [--n 1000] [--pairs 8] [--procs 2] [--out overhead.json]
    python -m benchmarks.engine_overhead --calls [--engines pet]

One child process runs one engine; in it the raw loop, the raw loop that logs, and the engine take turns, so every comparison is a
pair taken within seconds of each other. The figure of a run is the median over blocks of 20 updates (each block holds one log).
On a busy machine read the column with processor time.
``--calls`` counts calls of Python and C functions for each update instead, which does not depend on the load of the machine.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BLOCK = 20
SKIPPED_BLOCKS = 3
COUNT_FROM, COUNT_TO = 100, 300
SHORTEST = (SKIPPED_BLOCKS + 2) * BLOCK
BASES = ("raw", "raw_log")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    from benchmarks.engines import ENGINES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="", help=f"comma list of {', '.join(ENGINES)}; default: all that are installed")
    parser.add_argument("--n", type=int, default=1000, help="updates of one run")
    parser.add_argument("--pairs", type=int, default=6, help="runs of each kind in one process")
    parser.add_argument("--procs", type=int, default=2, help="processes for each engine")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--calls", action="store_true", help="count calls instead of time")
    parser.add_argument("--out", default="", help="write all figures to this JSON file")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = [name for name in args.engines.split(",") if name and name not in ENGINES]
    if unknown or args.n < SHORTEST or min(args.pairs, args.procs, args.threads) < 1:
        parser.error(f"unknown engines {unknown}" if unknown else f"--n is at least {SHORTEST}; the other numbers are at least 1")
    return args


def main() -> None:
    """Run the children and print the table."""
    args = parse_arguments()
    if args.child:
        print(json.dumps(count_calls(args.child) if args.calls else measure(args)), file=sys.__stdout__)
        return
    names = [name for name in args.engines.split(",") if name] or installed()
    results = collect_calls(names) if args.calls else collect_times(names, args)
    environment = {
        "torch": version("torch"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
    }
    print(f"\ntorch {environment['torch']}, Python {environment['python']}, load {os.getloadavg()[0]:.1f}")
    if args.out:
        Path(args.out).write_text(json.dumps({"arguments": vars(args), "environment": environment, "engines": results}, indent=1))


def installed() -> list[str]:
    """Engines that can run here; the bases come with every engine."""
    from benchmarks.engines import ENGINES, PEERS

    return [name for name in ENGINES if name not in BASES and (name not in PEERS or importlib.util.find_spec(PEERS[name]))]


# ----------------------------------------------------------------------------------------------------- child


def run(name: str, num: int, on_update: Callable[[int], None] | None = None) -> list[tuple[int, int]]:
    """Train with one engine; wall clock and processor time before each block of updates, nanoseconds."""
    from benchmarks.engines import ENGINES, Task, quiet

    with tempfile.TemporaryDirectory(prefix="pet_overhead_") as folder, quiet():
        task = Task(num, Path(folder), on_update)
        gc.collect()
        ENGINES[name](task)
    if len(task.source.marks) < num // BLOCK:
        raise RuntimeError(f"{name} made fewer updates than {num}")
    return task.source.marks


def block_medians_us(marks: list[tuple[int, int]]) -> tuple[float, float]:
    """Microseconds of an update on both clocks: medians over blocks, the first ones left out."""
    pairs = list(itertools.pairwise(marks[SKIPPED_BLOCKS:]))
    wall, cpu = (statistics.median((b[clock] - a[clock]) / BLOCK / 1e3 for a, b in pairs) for clock in (0, 1))
    return wall, cpu


def measure(args: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Let bases and engine take turns; microseconds of an update (wall clock, processor time) for each turn."""
    import torch

    torch.set_num_threads(args.threads)
    order = list(dict.fromkeys((*BASES, args.child)))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in order}
    for name in order:  # imports, allocator and caches
        run(name, SHORTEST)
    for turn in range(args.pairs):
        first = turn % len(order)
        for name in order[first:] + order[:first]:
            times[name].append(block_medians_us(run(name, args.n)))
    return times


def count_calls(name: str) -> dict[str, Any]:
    """Calls of Python and C functions in one update, on average over ten log periods."""
    import torch

    torch.set_num_threads(1)
    calls: Counter[tuple[str, str]] = Counter()

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            calls["python", f"{Path(code.co_filename).name}:{code.co_qualname}"] += 1
        elif event == "c_call":
            calls["c", getattr(argument, "__qualname__", str(argument))] += 1

    def switch(index: int) -> None:
        if index == COUNT_FROM:
            sys.setprofile(profile)
        elif index == COUNT_TO:
            sys.setprofile(None)

    run(name, COUNT_TO + BLOCK, switch)
    updates = COUNT_TO - COUNT_FROM
    totals = {kind: sum(number for (k, _), number in calls.items() if k == kind) / updates for kind in ("python", "c")}
    often = [[kind, where, number / updates] for (kind, where), number in calls.most_common() if number >= updates / 50]
    return {**totals, "often": often}


# ---------------------------------------------------------------------------------------------------- parent


def spawn(name: str, args: list[str]) -> Any:
    """Run a child; what it printed last is its result."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "benchmarks.engine_overhead", "--child", name, *args]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} failed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def collect_times(names: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Microseconds of all children, and the table."""
    options = ["--n", str(args.n), "--pairs", str(args.pairs), "--threads", str(args.threads)]
    start = time.perf_counter()
    children: dict[str, list[Turns]] = {name: [] for name in names}
    for turn in range(args.procs):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            children[name].append(spawn(name, options))
    seconds = time.perf_counter() - start
    print(f"\n{args.procs} processes x {args.pairs} turns x {args.n} updates in {seconds:.0f} s; microseconds\n")
    print("| engine | an update | over raw | min .. max | over raw, processor time | / raw | / raw that logs |")
    print("|---|---|---|---|---|---|---|")
    results = {name: summarise(name, children[name]) for name in names}
    for name, row in results.items():
        over = row["over_raw_us"]
        print(
            f"| {name} | {row['update_us']['median']:.1f} | {over['median']:.1f} | {over['min']:.1f} .. {over['max']:.1f} "
            f"| {row['over_raw_cpu_us']['median']:.1f} | {row['to_raw']['median']:.3f} | {row['to_raw_log']['median']:.3f} |"
        )
    for base in BASES:
        results[base] = row = spread([wall for runs in children.values() for turns in runs for wall, _ in turns[base]])
        print(f"| {base} | {row['median']:.1f} | | {row['min']:.1f} .. {row['max']:.1f} (an update) | | | |")
    return results


# Engine to (wall clock, processor time) of an update in each turn, microseconds.
Turns = dict[str, list[tuple[float, float]]]


def summarise(name: str, runs: list[Turns]) -> dict[str, Any]:
    """Paired differences and ratios of an engine."""
    triples = [triple for turns in runs for triple in zip(turns[name], turns["raw"], turns["raw_log"], strict=True)]
    return {
        "update_us": spread([own[0] for own, _, _ in triples]),
        "over_raw_us": spread([own[0] - base[0] for own, base, _ in triples]),
        "over_raw_cpu_us": spread([own[1] - base[1] for own, base, _ in triples]),
        "to_raw": spread([own[0] / base[0] for own, base, _ in triples]),
        "to_raw_log": spread([own[0] / log[0] for own, _, log in triples]),
        "runs": runs,
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def collect_calls(names: list[str]) -> dict[str, Any]:
    """Counts of all engines, and the table."""
    results = {name: spawn(name, ["--calls"]) for name in dict.fromkeys((*BASES, *names))}
    print("\n| engine | Python calls | over raw | C calls | over raw |\n|---|---|---|---|---|")
    for name, row in results.items():
        over = {kind: row[kind] - results["raw"][kind] for kind in ("python", "c")}
        print(f"| {name} | {row['python']:.1f} | {over['python']:.1f} | {row['c']:.1f} | {over['c']:.1f} |")
    return results


if __name__ == "__main__":
    main()
