"""Testing a trained model: weights, evaluation on every test set, files of results."""

from __future__ import annotations

import argparse
import glob
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pet.config import CfgNode
from pet.engine.arguments import add_test_arguments as add_test_arguments
from pet.engine.arguments import check_windows, metric_items, output_prefixes
from pet.engine.checkpointer import get_weights
from pet.engine.evaluation import ClassTables, Visualizer, class_tables_of, results_text, run_evaluation
from pet.engine.events import mark_started
from pet.engine.setup import amp_dtype
from pet.engine.weights import choose_weights, load_weights, read_content
from pet.utils import comm, env
from pet.utils.files import atomic_json
from pet.utils.images import write_png
from pet.utils.labels import compare_names
from pet.utils.logger import logging_rank
from pet.utils.suggest import did_you_mean


def load_test_weights(cfg: CfgNode, model: nn.Module, datasets: Sequence[Any] = ()) -> Path:
    """Load TEST.WEIGHTS, else the best or latest checkpoint of the run; averages instead of weights if the run evaluates them.

    Everything must fit: a part left at random would give a number that means nothing, and so would labels that mean other classes
    in ``datasets`` than they did in training.
    """
    path = get_weights(cfg.MISC.CKPT, cfg.TEST.WEIGHTS)
    content = read_content(path)
    for dataset in datasets:
        for text in compare_names(content.get("meta"), dataset, f"the checkpoint {path}", dataset.name):
            logging_rank(text, logging.WARNING)
    state, averaged = choose_weights(content, str(path), cfg.EVAL.EMA)
    report = load_weights(model, state, source=str(path))
    logging_rank(f"Testing the {'averaged weights (EMA)' if averaged else 'weights'} of {path}: {report.summary()}")
    return path


@dataclass(frozen=True)
class TestedSet:
    """One data set to test on.

    Attributes:
        dataset, evaluator: built by the domain.
        out: file of predictions and metrics.
        prefix: what the names of files in formats of other tools begin with; ``None``: beside ``out``.
        folder: Cityscapes: folder of the text files; ``None``: its name begins with the prefix, too.
        show_dir: folder of a picture of every image; ``None``: no such pictures.
    """

    dataset: Any
    evaluator: Any
    out: Path
    prefix: Path | None
    folder: Path | None
    show_dir: Path | None


def run_test(cfg: CfgNode, args: argparse.Namespace, model: nn.Module, domain: Any, device: torch.device) -> int:
    """Evaluate on every data set of TEST.DATASETS; prints tables, writes metrics, predictions and pictures; the exit status.

    Files in ``<CKPT>/test``: ``metrics.json`` (``{"weights": path, "command": text, "eval": {"<data set>/<metric>": number},
    "classes": {"<data set>/<kind>": columns}}``), pictures in ``vis``, and ``predictions.json`` without the scores of all
    classes, which only ``--out`` writes. The report of the run is written anew.
    """
    folder = Path(cfg.MISC.CKPT) / "test"
    sets = build_test_sets(cfg, args, domain, folder)  # all that can be wrong is told before the weights are read
    weights = load_test_weights(cfg, model, [part.dataset for part in sets])
    if args.fuse_conv_bn:
        pairs = domain.fuse_conv_bn(model.eval(), domain.input_size(cfg))
        logging_rank(f"--fuse-conv-bn: {pairs} batch normalisations folded into convolutions")
    mark_started("test")
    model.to(device)
    if comm.is_main_process():
        folder.mkdir(parents=True, exist_ok=True)
        remove_pictures(folder / "vis", [part.dataset.name for part in sets])
    results: dict[str, float] = {}
    tables: ClassTables = {}
    for part in sets:
        metrics = run_one(cfg, args, model, domain, device, part)
        results.update({f"{part.dataset.name}/{name}": value for name, value in metrics.items()})
        tables |= class_tables_of(part.evaluator, part.dataset.name)
    if comm.is_main_process() and not args.format_only:
        record = {"weights": str(weights), "command": env.command(), "eval": results, "classes": tables}
        atomic_json(folder / "metrics.json", record)
    domain.report_run(cfg)
    logging_rank(results_text(results) or "no metrics asked for")
    logging_rank(f"Results and pictures: {folder}")
    return 0


def build_test_sets(cfg: CfgNode, args: argparse.Namespace, domain: Any, folder: Path) -> list[TestedSet]:
    """The data sets of TEST.DATASETS with their evaluators and places of output, checked before anything is computed.

    Raises:
        ValueError: there is nothing to test on, a metric cannot be computed, or several processes would open windows.
        OSError: a file or folder cannot be written.
    """
    check_windows(args, comm.get_world_size())
    if not cfg.TEST.DATASETS:
        raise ValueError("TEST.DATASETS is empty: name the data sets to test on, e.g. TEST.DATASETS \"('my_val',)\"")
    datasets = [domain.build_dataset(cfg, is_train=False, names=(name,)) for name in cfg.TEST.DATASETS]
    given = output_prefixes(args.eval_options)
    count, whole = len(datasets), bool(args.out or args.save_preds or args.format_only or given)
    saved = folder / f"{get_weights(cfg.MISC.CKPT, cfg.TEST.WEIGHTS).stem}_predictions.pkl"
    out = args.out or (saved if args.save_preds else folder / "predictions.json")
    prefix = given.get("outfile_prefix") or given.get("jsonfile_prefix")
    texts = given.get("txtfile_prefix") or prefix
    sets = []
    for dataset in datasets:
        evaluator = domain.build_evaluator(cfg, dataset, () if args.format_only else args.metrics, keep_scores=whole)
        check_items(metric_items(args.eval_options), evaluator.result_names())
        beside, text_folder = (output_path(place, dataset.name, count) if place else None for place in (prefix, texts))
        show_dir = Path(args.show_dir, dataset.name if count > 1 else "") if args.show_dir else None
        sets.append(TestedSet(dataset, evaluator, output_path(out, dataset.name, count), beside, text_folder, show_dir))
    if "txtfile_prefix" in given and not any(getattr(part.evaluator, "writes_text", False) for part in sets):
        raise ValueError(
            "--eval-options txtfile_prefix is the folder of the text files of Cityscapes, which only the metric cityscapes "
            "writes: add it to EVAL.METRICS, or name the other files of predictions with jsonfile_prefix"
        )
    if given and not any(getattr(part.evaluator, "writes_files", True) for part in sets):
        raise ValueError(
            f"--eval-options {next(iter(given))} names files in the formats of other tools, and these metrics write none: "
            "--out FILE writes the predictions"
        )
    for part in sets:
        if args.out:
            domain.check_output_path(part.out)
        for place in (part.prefix and part.prefix.parent, part.folder and part.folder.parent, part.show_dir):
            if place is not None:
                place.mkdir(parents=True, exist_ok=True)
    return sets


def remove_pictures(folder: Path, datasets: Sequence[str]) -> None:
    """Remove what earlier tests of these data sets have drawn: a test need not draw the same, and the report shows all."""
    for name in datasets:
        for picture in folder.glob(f"{glob.escape(name)}_*.png"):
            picture.unlink()


def run_one(
    cfg: CfgNode, args: argparse.Namespace, model: nn.Module, domain: Any, device: torch.device, part: TestedSet
) -> dict[str, float]:
    """Test on one data set, and write and print what was found; the metrics on every process."""
    dataset, evaluator = part.dataset, part.evaluator
    visualizers: dict[str, Visualizer] = {}
    if cfg.VIS.ENABLED:
        visualizers["vis"] = domain.build_visualizer(cfg, dataset, evaluator)
    if args.show or part.show_dir:
        seconds = args.wait_time if args.show else None
        visualizers["all"] = domain.build_gallery(cfg, dataset, args.show_score_thr, part.show_dir, seconds)
    pictures = VisualizerGroup(list(visualizers.values()))
    loader = domain.make_test_data_loader(cfg, dataset)
    precision = amp_dtype(cfg, device)
    metrics = run_evaluation(
        model, loader, evaluator, domain.forward_test, device=device, amp_dtype=precision, visualizer=pictures
    )
    chosen = chosen_items(metrics or {}, metric_items(args.eval_options))
    if comm.is_main_process():
        logging_rank(f"{dataset.name}\n{evaluator.table()}")
    # Rank 0 writes and draws alone, for as long as it takes: what follows would make the others wait within the time limit.
    files = comm.broadcast(domain.write_predictions(part.out, evaluator, part.prefix, part.folder), patient=True)
    logging_rank(f"Predictions of {dataset.name}: {', '.join(map(str, [part.out, *files]))}")
    for name, picture in pictures.pictures().items():
        write_png(Path(cfg.MISC.CKPT) / "test" / "vis" / f"{dataset.name}_{name}.png", picture)
    comm.broadcast(None, patient=True)
    if part.show_dir is not None:
        logging_rank(f"A picture of each image: {part.show_dir}")
    return chosen


class VisualizerGroup:
    """Several visualizers as one."""

    def __init__(self, parts: Sequence[Visualizer]) -> None:
        self.parts = list(parts)

    def process(self, inputs: Any, outputs: Any) -> None:
        """Show every part the outputs of the model for one batch."""
        for part in self.parts:
            part.process(inputs, outputs)

    def pictures(self) -> dict[str, Any]:
        """The pictures of all parts. A collective: every process calls it."""
        return {name: picture for part in self.parts for name, picture in part.pictures().items()}


def check_items(items: Sequence[str], names: Sequence[str]) -> None:
    """Refuse ``metric_items`` that no metric returns.

    Raises:
        ValueError: names the item and what there is.
    """
    for item in items:
        if not any(_is_item(name, item) for name in names):
            raise ValueError(
                f"metric_items: nothing is named '{item}'.{did_you_mean(item, names)} There are: {', '.join(names) or 'none'}"
            )


def chosen_items(results: Mapping[str, float], items: Sequence[str]) -> dict[str, float]:
    """The results that ``metric_items`` names; all without items."""
    return {name: value for name, value in results.items() if not items or any(_is_item(name, item) for item in items)}


def _is_item(name: str, item: str) -> bool:
    """Whether a result is meant, by its name or by that of OpenMMLab: ``mAP_50`` is ``bbox_AP50``, ``AR@100`` ``bbox_AR100``."""
    short = re.sub(r"@\d+$", "", item) if re.match(r"AR_[sml]@", item) else item.replace("@", "")
    short = short.removeprefix("m").replace("_", "")
    return name == item or name.partition("_")[2] == short


def output_path(out: str | Path, dataset: str, count: int) -> Path:
    """File of predictions for one data set; with several, the name of the data set goes before the suffix."""
    path = Path(out)
    return path if count == 1 else path.with_name(f"{path.stem}_{dataset}{path.suffix}")
