"""The same Faster R-CNN trained by Pet and by a loop in the style of torchvision's reference scripts, side by side.

    python -m benchmarks.detection_vs_torchvision [--iters 300] [--rounds 2] [--batch 4] [--workers 1] [--out result.json]

Data: the blood cells of ``$PET_DATA/detection/bccd_voc`` (default ``../shared/data``), 205 training and 60 validation images,
shorter side 240. Both start from the same random weights of torchvision's ResNet-18-FPN Faster R-CNN (Pet reads that file by
the names torchvision uses), and take the same number of updates with the same schedule (SGD, warm-up, two steps). Each run is a
process of its own; the two take turns, and the first changes from round to round. Images per second count the whole loop
with data, from the eleventh update on; AP is measured by the same evaluator on both.

The AP of two runs that see the pictures in another order, or draw other proposals, differs by points. ``--same-draws`` takes both
away: the loop trains on the pictures of Pet's loader, and both seed the generator before each choice of proposals, so what is
left is the engine. (Its images per second say nothing about the loop, which then uses our loader.)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from pet.engine.hooks.base import Hook

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("PET_DATA") or ROOT.parent / "shared" / "data").resolve()
CFG = ROOT / "cfgs/vision/custom/bccd.yaml"
SHORT, LONG, LR, SKIPPED = 240, 320, 0.01, 10
ENGINES = ("pet", "torchvision")


def steps(iters: int) -> tuple[int, int, int]:
    """Warm-up and milestones, in updates."""
    return min(50, iters // 6), iters * 3 // 4, iters * 11 // 12


def reference_model() -> Any:
    """Torchvision's Faster R-CNN with a ResNet-18-FPN and our sizes."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    options = {"weights": None, "norm_layer": _batch_norm(), "trainable_layers": 5, "returned_layers": [2, 3, 4]}
    backbone = resnet_fpn_backbone(backbone_name="resnet18", **options)
    anchors = AnchorGenerator(((16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 4)
    return FasterRCNN(
        backbone,
        4,
        SHORT,
        LONG,
        rpn_anchor_generator=anchors,
        rpn_post_nms_top_n_train=1000,
        box_batch_size_per_image=64,
    )


def _batch_norm() -> Any:
    from torch import nn

    return nn.BatchNorm2d


class SeedEachUpdate(Hook):
    """For ``--same-draws``: the choice of anchors and proposals depends on the number of the update alone."""

    def before_step(self, storage: Any) -> None:
        import torch

        torch.manual_seed(storage.iteration)


def pet_options(args: argparse.Namespace) -> dict[str, Any]:
    """What a run of Pet changes in the config of the blood cells."""
    warm_up, *milestones = steps(args.iters)
    options = {
        "SOLVER.SCHEDULER.TOTAL_EPOCHS": None,
        "SOLVER.SCHEDULER.TOTAL_ITERS": args.iters,
        "SOLVER.SCHEDULER.STEPS": tuple(milestones),
        "SOLVER.SCHEDULER.WARM_UP_ITERS": warm_up,
        "SOLVER.SCHEDULER.WARM_UP_FACTOR": 0.001,
        "SOLVER.SNAPSHOT_EPOCHS": None,
        "EVAL.PERIOD_EPOCHS": None,
        "EVAL.BEST.METRIC": "",
        "TRAIN.TRANSFORMS": ("resize", "random_horizontal_flip", "normalize"),
        "TRAIN.BATCH_SIZE": args.batch,
        "TRAIN.WEIGHTS": args.weights,
        "TRAIN.AUTO_RESUME": False,
        "MISC.DISPLAY_ITER": SKIPPED,
        "MISC.SEED": args.seed,
        "DATA.LOADER_THREADS": args.workers,
        "SOLVER.OPTIMIZER.BASE_LR": LR,
    }
    if args.same_draws:
        options["MISC.HOOKS"] = [{"TYPE": "benchmarks.detection_vs_torchvision.SeedEachUpdate"}]
    return options


def train_pet(args: argparse.Namespace) -> dict[str, float]:
    """One run of tools/vision/train_net.py; speed from metrics.json."""
    work_dir, options = Path(args.scratch) / "pet", pet_options(args)
    words = [word for key, value in options.items() for word in (key, str(value))]
    script = str(ROOT / "tools/vision/train_net.py")
    command = [sys.executable, script, "--cfg", str(CFG), "--work-dir", str(work_dir), *words]
    with open(work_dir.with_suffix(".log"), "w", encoding="utf-8") as log:
        subprocess.run(command, check=True, env={**os.environ, "PET_DATA": str(DATA)}, stdout=log, stderr=log)
    rows = [json.loads(line) for line in (work_dir / "metrics.json").read_text().splitlines()]
    times = [row["time"] for row in rows if "time" in row and row["iteration"] > SKIPPED]
    results = next(row["eval"] for row in reversed(rows) if "eval" in row)
    found = {name: results[f"bccd_val/bbox_{name}"] for name in ("AP", "AP50")}
    return {"images_per_s": args.batch / statistics.fmean(times), **found}


def train_torchvision(args: argparse.Namespace) -> dict[str, float]:
    """Samples as PIL images through torchvision's transforms; the model resizes; a synchronising log at each update."""
    import torch
    from torch.utils.data import DataLoader

    torch.manual_seed(args.seed)
    model = reference_model()
    model.load_state_dict(torch.load(args.weights, weights_only=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)
    warm_up, *milestones = steps(args.iters)
    rises = torch.optim.lr_scheduler.LinearLR(optimizer, 0.001, total_iters=warm_up)
    falls = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    loader: Any = DataLoader(_Cells(), args.batch, shuffle=True, num_workers=args.workers, collate_fn=_as_lists, drop_last=True)
    if args.same_draws:
        loader = _pictures_of_pet(args)
        numbers = count(1)
        model.backbone.register_forward_pre_hook(lambda *_: torch.manual_seed(next(numbers)) and None)
    done, start = 0, 0.0
    model.train()
    while done < args.iters:
        for images, targets in loader:
            if done == SKIPPED:
                start = time.perf_counter()
            losses = model(images, targets)
            total = sum(losses.values())
            total.item()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            rises.step()
            falls.step()
            done += 1
            if done == args.iters:
                break
    speed = args.batch * (args.iters - SKIPPED) / (time.perf_counter() - start)
    return {"images_per_s": speed, **_evaluate(model)}


def _pictures_of_pet(args: argparse.Namespace) -> Iterator[tuple[Any, Any]]:
    """The batches of Pet's loader as torchvision takes them, pixels from 0 to 1."""
    from pet.vision import build_dataset, get_base_cfg, infer_cfg, make_train_data_loader

    cfg = get_base_cfg()
    cfg.merge_from_file(CFG)
    options = {**pet_options(args), "DATA.ROOT": str(DATA)}
    cfg.merge_from_list([word for name, value in options.items() for word in (name, str(value))])
    infer_cfg(cfg)
    for (batch,) in make_train_data_loader(cfg, build_dataset(cfg)):
        sizes, boxes, labels = (batch.targets[name] for name in ("sizes", "boxes", "labels"))
        images = [image[:, :h, :w].float() / 255 for image, (h, w) in zip(batch.images, sizes, strict=True)]
        yield images, [{"boxes": b, "labels": found + 1} for b, found in zip(boxes, labels, strict=True)]


def _as_lists(samples: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*samples, strict=True))


def _cells(is_train: bool) -> Any:
    from pet.data.catalog import build_dataset

    names = ["Platelets", "RBC", "WBC"]
    split = {"TYPE": "voc_dataset", "IMAGES": "detection/bccd_voc", "CLASSES": names, "IMAGE_SET": "train" if is_train else "val"}
    return build_dataset(["cells"], is_train, catalog={"cells": split}, root=DATA)


class _Cells:
    """Training samples for torchvision: PIL image in, float tensor and target out."""

    def __init__(self) -> None:
        import torch
        from torchvision.transforms import v2

        self.dataset = _cells(is_train=True)
        self.transforms = v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip(0.5), v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        import torch
        from PIL import Image
        from torchvision import tv_tensors

        truth = self.dataset.annotations(index)
        image = Image.open(truth.file).convert("RGB")
        keep = ~(truth.crowd | truth.difficult)
        boxes = tv_tensors.BoundingBoxes(truth.boxes[keep], format="XYXY", canvas_size=(truth.height, truth.width))
        return self.transforms(image, {"boxes": boxes, "labels": torch.from_numpy(truth.labels[keep] + 1)})


def _evaluate(model: Any) -> dict[str, float]:
    import torch
    from PIL import Image
    from torchvision.transforms.v2 import functional as tv

    from pet.evaluation import CocoEvaluator

    dataset = _cells(is_train=False)
    evaluator = CocoEvaluator(dataset)
    model.eval()
    with torch.inference_mode():
        for index in range(len(dataset)):
            image = tv.to_image(Image.open(dataset.annotations(index).file).convert("RGB"))
            image = tv.to_dtype(image, torch.float32, scale=True)
            found = model([image])[0]
            found["labels"] = found["labels"] - 1
            evaluator.process(argparse.Namespace(ids=torch.tensor([index]), targets={}), {"instances": [found]})
    results = evaluator.evaluate()
    return {"AP": results["bbox_AP"], "AP50": results["bbox_AP50"]}


def main() -> None:
    """Run both engines in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--iters", type=int, default=300, help="updates of a run")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each engine")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1, help="loader processes")
    parser.add_argument("--out", type=Path, help="write all numbers as JSON")
    parser.add_argument("--child", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    parser.add_argument("--same-draws", action="store_true", help="same pictures and same choice of proposals on both sides")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(train_pet(args) if args.child == "pet" else train_torchvision(args)))
        return
    results = _take_turns(args)
    for engine in ENGINES:
        rows = results[engine]
        median = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        print(f"{engine:12s} " + "  ".join(f"{name} {value:.2f}" for name, value in median.items()))
    ratios = [p["images_per_s"] / t["images_per_s"] for p, t in zip(results["pet"], results["torchvision"], strict=True)]
    spread = f"(min {min(ratios):.2f}, max {max(ratios):.2f})"
    print(f"images per second, Pet / torchvision: median {statistics.median(ratios):.2f} {spread}")
    if args.out:
        args.out.write_text(json.dumps(results, indent=1))


def _take_turns(args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    import torch

    results: dict[str, list[dict[str, float]]] = {engine: [] for engine in ENGINES}
    for number in range(args.seed, args.seed + args.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            torch.manual_seed(number)
            weights = Path(scratch) / "start.pth"
            torch.save(reference_model().state_dict(), weights)
            for engine in ENGINES if number % 2 == 0 else reversed(ENGINES):
                options = {"iters": args.iters, "batch": args.batch, "workers": args.workers, "seed": number, "child": engine}
                options |= {"scratch": scratch, "weights": str(weights)}
                words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
                words += ["--same-draws"] if args.same_draws else []
                command = [sys.executable, "-m", "benchmarks.detection_vs_torchvision", *words]
                printed = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
                results[engine].append(json.loads(printed.splitlines()[-1]))
                print(f"seed {number} {engine}: {results[engine][-1]}", flush=True)
    return results


if __name__ == "__main__":
    main()
