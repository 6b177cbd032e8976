"""Print what a run reached: its last evaluation, its pictures and its report.

python tools/summary.py ckpts/tasks/cls/shapes/resnet_quickstart
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.engine.command import run_tool, tool_parser  # noqa: E402
from pet.utils.metrics_file import read_rows  # noqa: E402


def main(args):
    """Read the folder and print."""
    folder = args.folder
    if not (folder / "metrics.json").is_file():
        raise FileNotFoundError(f"{folder} holds no metrics.json; is it the folder of a run?")
    evaluations = [row for row in read_rows(folder / "metrics.json") if row.get("eval")]
    if evaluations:
        print(f"Result after update {evaluations[-1]['iteration']}:")
        results = evaluations[-1]["eval"].items()
        print("\n".join(f"  {name:<40} {'-' if value is None else f'{value:.2f}'}" for name, value in results))
    pictures = [path for path in (folder / "vis").rglob("*") if path.is_file()]
    print(f"Pictures: {folder / 'vis'} ({len(pictures)} files)")
    report = folder / "report.html"
    print(f"Report: {report}" if report.is_file() else f"Report: none yet; python tools/report.py {folder} writes one")


if __name__ == "__main__":
    parser = tool_parser(__doc__, config=False)
    parser.add_argument("folder", type=Path, help="folder of a run (MISC.CKPT)")
    run_tool(main, parser)
