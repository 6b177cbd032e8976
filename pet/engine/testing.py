"""Testing a trained model: weights, evaluation on every test set, files of results."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pet.config import CfgNode
from pet.engine.checkpoint_file import read_checkpoint
from pet.engine.checkpointer import get_weights
from pet.engine.evaluation import results_text, run_evaluation
from pet.engine.setup import amp_dtype
from pet.engine.weights import extract_state, load_weights, read_weights
from pet.utils import comm
from pet.utils.files import atomic_json
from pet.utils.images import write_png
from pet.utils.logger import logging_rank


def add_test_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The flags of test scripts."""
    parser.add_argument("--out", metavar="FILE", help="write predictions and metrics to a .json, .yaml or .pkl file")
    parser.add_argument("--eval", "--metrics", dest="metrics", nargs="+", metavar="M", help="metrics instead of EVAL.METRICS")
    return parser


def load_test_weights(cfg: CfgNode, model: nn.Module) -> Path:
    """Load TEST.WEIGHTS, else the best or latest checkpoint of the run; averages instead of weights if the run evaluates them.

    Everything must fit: a part left at random would give a number that means nothing.
    """
    path = get_weights(cfg.MISC.CKPT, cfg.TEST.WEIGHTS)
    averages: dict[str, torch.Tensor] = {}
    if path.suffix == ".safetensors":
        state = read_weights(path)
    else:
        content = read_checkpoint(path)
        state = extract_state(content, str(path))
        if cfg.EVAL.EMA and "ema" in content:
            averages = content["ema"]["weights"]
    kind = "averaged weights (EMA)" if averages else "weights"
    report = load_weights(model, {**state, **averages}, source=str(path))
    logging_rank(f"Testing the {kind} of {path}: {report.summary()}")
    return path


def run_test(cfg: CfgNode, args: argparse.Namespace, model: nn.Module, domain: Any, device: torch.device) -> int:
    """Evaluate on every data set of TEST.DATASETS; prints tables, writes metrics, predictions and pictures; the exit status.

    Files in ``<CKPT>/test``: ``metrics.json`` (``{"weights": path, "eval": {"<data set>/<metric>": number}}``), pictures in
    ``vis``, and ``predictions.json`` without the scores of all classes, which only ``--out`` writes.
    """
    if not cfg.TEST.DATASETS:
        raise ValueError("TEST.DATASETS is empty: name the data sets to test on, e.g. TEST.DATASETS \"('my_val',)\"")
    sets = [domain.build_dataset(cfg, is_train=False, names=(name,)) for name in cfg.TEST.DATASETS]
    folder, results = Path(cfg.MISC.CKPT) / "test", {}
    outs = [output_path(args.out or folder / "predictions.json", dataset.name, len(sets)) for dataset in sets]
    if args.out:
        for out in outs:
            domain.check_output_path(out)
    weights = load_test_weights(cfg, model)
    model.to(device)
    if comm.is_main_process():
        folder.mkdir(parents=True, exist_ok=True)
    for dataset, out in zip(sets, outs, strict=True):
        evaluator = domain.build_evaluator(cfg, dataset, args.metrics, keep_scores=bool(args.out))
        visualizer = domain.build_visualizer(cfg, dataset, evaluator) if cfg.VIS.ENABLED else None
        loader = domain.make_test_data_loader(cfg, dataset)
        metrics = run_evaluation(
            model, loader, evaluator, domain.forward_test, device=device, amp_dtype=amp_dtype(cfg, device), visualizer=visualizer
        )
        results.update({f"{dataset.name}/{name}": value for name, value in (metrics or {}).items()})
        if comm.is_main_process():
            logging_rank(f"{dataset.name}\n{evaluator.table()}")
        domain.write_predictions(out, evaluator)
        logging_rank(f"Predictions of {dataset.name}: {out}")
        pictures = visualizer.pictures() if visualizer is not None else {}
        for name, picture in pictures.items():
            write_png(folder / "vis" / f"{dataset.name}_{name}.png", picture)
    if comm.is_main_process():
        atomic_json(folder / "metrics.json", {"weights": str(weights), "eval": results})
    logging_rank(results_text(results) or "no metrics asked for")
    logging_rank(f"Results and pictures: {folder}")
    return 0


def output_path(out: str | Path, dataset: str, count: int) -> Path:
    """File of predictions for one data set; with several, the name of the data set goes before the suffix."""
    path = Path(out)
    return path if count == 1 else path.with_name(f"{path.stem}_{dataset}{path.suffix}")
