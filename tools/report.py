"""Write the report of a run again: one HTML file with its curves, results, pictures, data, configuration and environment.

python tools/report.py ckpts/vision/shapes/faster_rcnn_quickstart
Training and testing write <CKPT>/report.html by themselves; for a run that is going on, or was killed, ask for it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.engine.command import run_tool, tool_parser  # noqa: E402


def main(args):
    """Write the report and print where it is."""
    from pet.visualization.report import write_report

    for folder in args.folder:
        path = write_report(folder)
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    parser = tool_parser(__doc__, config=False)
    parser.add_argument("folder", nargs="+", help="folder of a run (MISC.CKPT); several may be named")
    run_tool(main, parser)
