"""Break things as often as promised, and say how often the promise was kept.

python -m tests.faults                     all thirty, full counts
python -m tests.faults F01 F14 --small     two of them, with the counts of the test suite
python -m tests.faults --table FILE.json   write the figures of --out FILE.json into docs/reliability.md
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in the test suite: before torch is imported

from pet.utils.env import usable_cores
from pet.utils.files import atomic_text
from pet.utils.suggest import did_you_mean
from tests.faults.catalog import Fault, Figure, all_faults
from tests.faults.running import Result, Trials, run_all
from tests.helpers import REPOSITORY

PAGE = REPOSITORY / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: python -m tests.faults --table FILE.json -->", "<!-- end of faults -->"


def chosen(ids: Sequence[str], faults: Sequence[Fault]) -> list[Fault]:
    """The campaigns with these numbers, all without numbers; a ``ValueError`` for a number that does not exist."""
    known = {fault.id: fault for fault in faults}
    for id in ids:
        if id.upper() not in known:
            raise ValueError(f"there is no fault {id}.{did_you_mean(id.upper(), known)} There are {', '.join(known)}")
    return [known[id.upper()] for id in ids] or list(faults)


def summary(results: Sequence[Result]) -> str:
    """Failures, the table, and how many promises were kept."""
    failed = [result for result in results if not result.figure.kept]
    lines = [""]
    for result in failed:
        lines += [f"{result.id} {result.promise}", *(f"    {text}" for text in result.figure.failures[:20])]
    wide = max(len(str(result.figure)) for result in results)
    lines += [f"{r.id}  {str(r.figure):<{wide}}  {r.seconds:>5.0f} s  {r.promise}" for r in sorted(results, key=lambda r: r.id)]
    lines.append(f"{len(results) - len(failed)}/{len(results)} promises kept")
    return "\n".join(lines)


def table(results: Sequence[dict[str, Any]], faults: Sequence[Fault]) -> str:
    """The thirty faults for the documentation, with the figures of ``results`` where there are any.

    Args:
        results: the content of a file of ``--out``; empty: no figures.
        faults: all campaigns.
    """
    figures = {result["id"]: result for result in results}
    lines = ["| Fault | What is promised | Trials | Measured |", "|---|---|---|---|"]
    for fault in faults:
        measured = str(Figure(**figures[fault.id]["figure"])) if fault.id in figures else ""
        lines.append(f"| {fault.id} | {fault.promise} | {fault.full} | {measured} |")
    if figures:
        lines += ["", f"Measured {'; '.join(sorted({result['measured'] for result in figures.values()}))}."]
    return "\n".join(lines)


def store(path: Path, results: Sequence[Result]) -> None:
    """Write results for ``table``; those of other campaigns stay in the file."""
    measured = f"on {date.today()} on {usable_cores()} cores with torch {version('torch')}"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    found = {r["id"]: r for r in earlier} | {r.id: {**asdict(r), "kept": r.figure.kept, "measured": measured} for r in results}
    atomic_text(path, json.dumps([found[id] for id in sorted(found)], indent=1) + "\n")


def write_table(text: str, page: Path = PAGE) -> None:
    """Replace what is between the two marks of the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{page} has no lines '{BEGIN}' and '{END}', between which the table belongs")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Parse, run, report."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ids", nargs="*", metavar="ID", help="such as F01; default: all")
    parser.add_argument("--small", action="store_true", help="the counts of the test suite")
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="campaigns at a time; default: one for each core")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is random; it is printed with each failure")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also keep the figures in this file")
    parser.add_argument("--table", type=Path, metavar="FILE.json", help="run nothing; write these figures into the documentation")
    args = parser.parse_args()
    try:
        if args.table is not None:
            write_table(table(json.loads(args.table.read_text(encoding="utf-8")), all_faults()))
            return 0
        faults = chosen(args.ids, all_faults())
    except (ValueError, OSError) as error:
        parser.error(str(error))
    results = []
    with tempfile.TemporaryDirectory(prefix="pet_faults_") as place:
        campaigns = [Trials(f, f.small if args.small else f.full, args.seed, Path(place, f.id)) for f in faults]
        for result in run_all(campaigns, max(1, args.jobs)):
            results.append(result)
            print(result.line, flush=True)
            if args.out is not None:
                store(args.out, results)
    print(summary(results))
    return int(any(not result.figure.kept for result in results))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
