"""Draw the learning rate that a config gives over the training, and print it where it changes.

python tools/vis_scheduler.py cfgs/vision/COCO/retinanet_R-50-FPN_1x.yaml --iters-per-epoch 7330 --out lr.png
An epoch has as many updates as the training data and TRAIN.BATCH_SIZE say; without the data give --iters-per-epoch.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pet.engine.command import open_config, run_tool, tool_parser


def iterations(args, opened):
    """Updates of an epoch; ``None`` where nobody needs to know."""
    if args.iters_per_epoch is not None:
        return args.iters_per_epoch
    schedule = opened.cfg.SOLVER.SCHEDULER
    if not args.by_epoch and schedule.TOTAL_EPOCHS is None and schedule.WARM_UP_EPOCHS is None:
        return None
    try:
        domain = opened.domain_module
        return domain.make_train_data_loader(opened.cfg, domain.build_dataset(opened.cfg)).iter_per_epoch
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"the updates of an epoch are unknown, give --iters-per-epoch N. Of the data: {error}") from error


def main(args):
    """Draw and print."""
    from pet.solver.lr_scheduler import learning_rates
    from pet.utils.images import write_png
    from pet.visualization.curves import Curve, draw_curves

    opened = open_config(args.config, args.cfg_options)
    known = iterations(args, opened)
    epoch = 1 if known is None else known
    scheduler = learning_rates(opened.cfg.SOLVER, epoch)
    print(scheduler.describe(in_epochs=known is not None))
    for what, update in scheduler.landmarks():
        epochs = "" if known is None else f"  epoch {update / epoch:>8.2f}"
        print(f"  update {update:>9,}{epochs}  lr {scheduler.rate(update):<10.4g} {what}")
    points, unit = scheduler.curve(1500), epoch if args.by_epoch else 1
    curve = Curve([update / unit for update, _ in points], [rate for _, rate in points])
    write_png(args.out, draw_curves({"lr": curve}, Path(args.config).stem, None, "epoch" if args.by_epoch else "update"))
    print(f"Curve: {args.out}")


if __name__ == "__main__":
    parser = tool_parser(__doc__)
    parser.add_argument("config", metavar="CONFIG", help="YAML of the experiment")
    parser.add_argument("--out", type=Path, default=Path("lr.png"), metavar="FILE", help="the picture; default: lr.png")
    parser.add_argument("--by-epoch", action="store_true", help="count epochs instead of updates")
    parser.add_argument("--iters-per-epoch", type=int, metavar="N", help="updates of an epoch; default: from the training data")
    run_tool(main, parser)
