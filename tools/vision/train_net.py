"""Train a detector, a segmentation or keypoint model, or a classifier.

python tools/vision/train_net.py --cfg cfgs/vision/mscoco/e2e_faster_rcnn_R-50-FPN_1x.yaml [flags] [KEY VALUE ...]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pet.engine import interruption  # noqa: E402

interruption.watch_start()  # the other imports take seconds
import pet.vision as domain  # noqa: E402
from pet.engine import parallel, preflight, setup  # noqa: E402
from pet.engine.events import EventStorage  # noqa: E402
from pet.engine.hooks.base import HookList  # noqa: E402
from pet.engine.hooks.build import RunParts, build_train_hooks  # noqa: E402
from pet.engine.loop import run_loop  # noqa: E402
from pet.engine.resume import DataPosition  # noqa: E402
from pet.solver.ema import build_ema  # noqa: E402
from pet.solver.lr_scheduler import LearningRateScheduler  # noqa: E402
from pet.solver.optimizer import Optimizer  # noqa: E402
from pet.utils.logger import logging_rank  # noqa: E402


def train(cfg, step, loader, scheduler, checkpointer, all_hooks):
    """Restore what a resumed run needs, then run the loop."""
    hooks = HookList(all_hooks)
    with EventStorage(scheduler.iteration, cfg.MISC.DISPLAY_ITER, **setup.horizon(cfg, scheduler)) as storage:
        checkpointer.track(scaler=step, sampler=DataPosition(loader, cfg.MISC.SEED), hooks=hooks, storage=storage)
        checkpointer.resume_parts()
        run_loop(step, loader, hooks, storage)
    return storage


def main(args):
    """Build the parts in the order of the tutorial and train."""
    cfg = setup.load_cfg(args, domain.get_base_cfg, domain.infer_cfg)
    if args.check:
        return preflight.check_run(cfg, args, domain, Optimizer, LearningRateScheduler, build_ema)
    device = setup.default_setup(cfg, args)
    model = domain.GeneralizedCNN(cfg)
    setup.log_analysis(cfg, domain, model)
    checkpointer = setup.build_checkpointer(cfg)
    model = checkpointer.load_model(model, convert_conv1=cfg.MISC.CONV1_RGB2BGR).to(device)
    model = parallel.distribute(model, cfg, device, setup.amp_dtype(cfg, device))
    ema = build_ema(model, cfg.SOLVER.EMA)
    optimizer = checkpointer.load_optimizer(Optimizer(model, cfg.SOLVER.OPTIMIZER).build())

    dataset = domain.build_dataset(cfg, is_train=True)
    logging_rank(data_report := domain.report_dataset(cfg, dataset))
    checkpointer.meta.update(domain.names_for_checkpoint(dataset))
    train_loader = domain.make_train_data_loader(cfg, dataset, start_iter=checkpointer.start_iter)
    scheduler = LearningRateScheduler(optimizer, cfg.SOLVER, iter_per_epoch=train_loader.iter_per_epoch)
    logging_rank(checkpointer.load_scheduler(scheduler).describe())
    if setup.is_finished(cfg, scheduler):
        return 0

    setup.write_config(cfg, args, data_report)
    domain.write_training_samples(cfg, dataset)
    evaluation = setup.build_evaluation(cfg, model, domain, device)
    parts = RunParts(cfg, model, optimizer, scheduler, checkpointer, train_loader, domain, device, ema)
    step = setup.build_step(cfg, model, optimizer, domain.forward_train, device)
    storage = train(cfg, step, train_loader, scheduler, checkpointer, build_train_hooks(parts, evaluation))
    return setup.finish(cfg, storage, scheduler, domain.report_run)


if __name__ == "__main__":
    setup.run_main(main, setup.add_train_arguments(setup.default_argument_parser(__doc__)))
