"""Draw the curves of runs, or tell how fast they were, from their metrics.json.

python tools/analyze_logs.py plot_curve ckpts/tasks/cls/shapes/resnet_quickstart --keys total_loss lr top1 --out curves.png
python tools/analyze_logs.py plot_curve RUN_A RUN_B --keys bbox_AP --legend baseline "more epochs"
python tools/analyze_logs.py cal_train_time ckpts/tasks/cls/shapes/resnet_quickstart
A run is named by its folder or by its metrics.json.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.engine.command import run_tool, tool_parser
from pet.utils.metrics_file import metrics_path, read_rows


def plot_curve(args):
    """Draw a panel for each key, with a curve for each run."""
    from pet.utils.images import write_png
    from pet.visualization.runs import draw_runs

    paths = [metrics_path(run) for run in args.runs]
    names = args.legend or [path.resolve().parent.name if path.name == "metrics.json" else path.stem for path in paths]
    if len(names) != len(paths) or len(set(names)) != len(names):
        raise ValueError(f"{len(paths)} runs need names of their own, not {', '.join(names)}; give them with --legend")
    runs = {name: read_rows(path) for name, path in zip(names, paths, strict=True)}
    write_png(args.out, draw_runs(runs, args.keys, args.title, args.by_epoch))
    print(f"Curves: {args.out}")


def cal_train_time(args):
    """Print how long updates took."""
    from pet.engine.run_times import batch_of_run, run_times

    for path in map(metrics_path, args.runs):
        times = run_times(read_rows(path), batch_of_run(path.parent), not args.include_outliers)
        print(f"{path}\n{times.describe()}")


if __name__ == "__main__":
    parser = tool_parser(__doc__, config=False)
    commands = parser.add_subparsers(required=True, metavar="{plot_curve,cal_train_time}")
    plot = commands.add_parser("plot_curve", help=plot_curve.__doc__, allow_abbrev=False)
    plot.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs, or their metrics.json")
    plot.add_argument("--keys", nargs="+", default=[], metavar="K", help="what to draw; default: total_loss lr")
    plot.add_argument("--out", type=Path, default=Path("curves.png"), metavar="FILE", help="the picture; default: curves.png")
    plot.add_argument("--title", default="", help="text above the curves")
    plot.add_argument("--legend", nargs="+", metavar="NAME", help="a name for each run; default: that of its folder")
    plot.add_argument("--by-epoch", action="store_true", help="count epochs instead of updates")
    plot.set_defaults(run=plot_curve)
    times = commands.add_parser("cal_train_time", aliases=["speed"], help=cal_train_time.__doc__, allow_abbrev=False)
    times.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs, or their metrics.json")
    times.add_argument("--include-outliers", action="store_true", help="count the first row too, with the start of the workers")
    times.set_defaults(run=cal_train_time)
    run_tool(lambda args: args.run(args), parser)
