"""Print what a run reached: its last evaluation, its best checkpoint and its pictures.

python tools/summary.py ckpts/tasks/cls/shapes/resnet_quickstart
"""

import argparse
import json
import sys
from pathlib import Path


def last_evaluation(folder):
    """Iteration and metrics of the last evaluation in ``metrics.json``; ``None`` without one."""
    lines = (folder / "metrics.json").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines if '"eval"' in line]
    return (records[-1]["iteration"], records[-1]["eval"]) if records else None


def main():
    """Read the folder and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of a run (MISC.CKPT)")
    folder = parser.parse_args().folder
    if not (folder / "metrics.json").is_file():
        print(f"error: {folder} holds no metrics.json; is it the folder of a run?", file=sys.stderr)
        return 2
    found = last_evaluation(folder)
    if found:
        print(f"Result after update {found[0]}:")
        print("\n".join(f"  {name:<40} {'-' if value is None else f'{value:.2f}'}" for name, value in found[1].items()))
    pictures = sorted(path for path in (folder / "vis").rglob("*") if path.is_file())
    print(f"Pictures: {folder / 'vis'} ({len(pictures)} files)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
