"""Checks of several shared keys together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from pet.config.node import DEFAULT, CfgNode
from pet.config.problem import Problem, show
from pet.config.upstream import DONE_BY_ITSELF
from pet.utils.suggest import did_you_mean

# Pairs of which the first decides unless it is None.
EPOCHS_OR_ITERS = (
    ("EVAL.PERIOD_EPOCHS", "EVAL.PERIOD_ITERS"),
    ("SOLVER.SNAPSHOT_EPOCHS", "SOLVER.SNAPSHOT_ITER"),
    ("SOLVER.SCHEDULER.TOTAL_EPOCHS", "SOLVER.SCHEDULER.TOTAL_ITERS"),
    ("SOLVER.SCHEDULER.WARM_UP_EPOCHS", "SOLVER.SCHEDULER.WARM_UP_ITERS"),
)
_RANGES = (
    "TRAIN.RESIZE.SCALE_FACTOR",
    "TRAIN.RANDOM_RESIZED_CROP.SCALE",
    "TRAIN.RANDOM_RESIZED_CROP.RATIO",
    "TRAIN.RANDOM_ERASING.AREA",
    "TRAIN.RANDOM_ERASING.RATIO",
)
_SCHEDULER = "SOLVER.SCHEDULER"
PIPELINES = ("TRAIN.TRANSFORMS", "TEST.TRANSFORMS")
# Those of pet.data.transforms, which cannot be asked here: it imports torch.
TRANSFORM_NAMES = (
    "auto_aug", "center_crop", "color_jitter", "copy_paste", "cutmix", "det_mixup", "efficient_det_resize_crop",
    "min_iou_random_crop", "mixup", "mosaic", "normalize", "photometric_distort", "rand_aug", "random_crop", "random_erasing",
    "random_horizontal_flip", "random_resized_crop", "random_vertical_flip", "resize", "ssd_crop_and_expand", "to_tensor",
)  # fmt: skip


def transform_names(cfg: CfgNode) -> list[Problem]:
    """Transforms that do not exist; what else is said about such a pipeline would mislead."""
    return [Problem(key, text) for key in PIPELINES for text in _unknown_transforms(cfg.value(key))]


def _unknown_transforms(names: Sequence[str]) -> Iterator[str]:
    surplus = [name for name in names if name in DONE_BY_ITSELF]
    if surplus:
        rest = tuple(name for name in names if name not in surplus)
        yield f"{', '.join(surplus)}: done by itself here, so leave it out: {show(rest)}"
    for name in names:
        if name not in (*TRANSFORM_NAMES, *surplus) and "." not in name:
            hint = did_you_mean(name, TRANSFORM_NAMES)
            yield f"no transform is named '{name}'.{hint} Known: {', '.join(TRANSFORM_NAMES)}, and import paths of classes"


def check_shared(cfg: CfgNode) -> list[Problem]:
    """Problems of the keys every domain shares; each names the keys it depends on."""
    rules = (
        _units, _length, _steps, _warm_up, _accumulation, _early_stopping, _pixels, _normalisation, _ranges, _scales, _views,
        _catalog, _backbone, _hooks, _parallel,
    )  # fmt: skip
    return [problem for rule in rules for problem in rule(cfg)]


def _units(cfg: CfgNode) -> list[Problem]:
    """A length in updates has no effect while the one in epochs is set."""
    return [
        Problem(iters, f"has no effect, because {epochs} decides; set {epochs} None, or {iters} 0", related=(epochs,))
        for epochs, iters in EPOCHS_OR_ITERS
        if cfg.value(iters) > 0 and cfg.value(epochs) is not None
    ]


def _length(cfg: CfgNode) -> list[Problem]:
    epochs, iters = cfg.SOLVER.SCHEDULER.TOTAL_EPOCHS, cfg.SOLVER.SCHEDULER.TOTAL_ITERS
    if epochs is not None or iters > 0:
        return []
    message = f"the length of the training is missing; set it in epochs, or set {_SCHEDULER}.TOTAL_ITERS"
    return [Problem(f"{_SCHEDULER}.TOTAL_EPOCHS", message, related=(f"{_SCHEDULER}.TOTAL_ITERS",))]


def _steps(cfg: CfgNode) -> list[Problem]:
    scheduler = cfg.SOLVER.SCHEDULER
    if scheduler.POLICY not in ("STEP", "STEP_COSINE"):
        return []
    unit = "ITERS" if scheduler.TOTAL_EPOCHS is None else "EPOCHS"
    total = scheduler[f"TOTAL_{unit}"]
    steps, key = scheduler.STEPS, f"{_SCHEDULER}.STEPS"
    if any(later <= earlier for earlier, later in zip((0.0, *steps), steps, strict=False)):
        return [Problem(key, "milestones must be above 0 and rise")]
    if total and steps and steps[-1] >= total:
        message = f"milestone {steps[-1]:g} is not before the end of the training; milestones count in the unit of the total"
        return [Problem(key, message, related=(f"{_SCHEDULER}.TOTAL_{unit}",))]
    return []


def _warm_up(cfg: CfgNode) -> list[Problem]:
    """Lengths in different units are compared by the scheduler, which knows the number of updates in an epoch."""
    scheduler = cfg.SOLVER.SCHEDULER
    in_epochs = scheduler.WARM_UP_EPOCHS is not None
    if in_epochs != (scheduler.TOTAL_EPOCHS is not None):
        return []
    unit = "EPOCHS" if in_epochs else "ITERS"
    warm_up, total = scheduler[f"WARM_UP_{unit}"], scheduler[f"TOTAL_{unit}"]
    if not total or warm_up < total:
        return []
    return [Problem(f"{_SCHEDULER}.WARM_UP_{unit}", "must be shorter than the training", related=(f"{_SCHEDULER}.TOTAL_{unit}",))]


def _accumulation(cfg: CfgNode) -> list[Problem]:
    batch, parts = cfg.TRAIN.BATCH_SIZE, cfg.SOLVER.ACCUMULATE
    if batch % parts == 0:
        return []
    below = batch - batch % parts
    message = f"must be a multiple of SOLVER.ACCUMULATE, e.g. {f'{below} or ' if below else ''}{below + parts}"
    return [Problem("TRAIN.BATCH_SIZE", message, related=("SOLVER.ACCUMULATE",))]


def _early_stopping(cfg: CfgNode) -> list[Problem]:
    if not cfg.EVAL.EARLY_STOPPING.ENABLED:
        return []
    key, problems = "EVAL.EARLY_STOPPING.ENABLED", []
    if not cfg.EVAL.BEST.METRIC:
        problems.append(Problem(key, "needs the name of a metric in EVAL.BEST.METRIC, e.g. top1", related=("EVAL.BEST.METRIC",)))
    if not cfg.EVAL.ENABLED:
        problems.append(Problem(key, "needs evaluations during training", related=("EVAL.ENABLED",)))
    return problems


def _pixels(cfg: CfgNode) -> list[Problem]:
    """A mean of the other range would train, badly, without a word."""
    mean, image = cfg.DATA.PIXEL_MEAN, cfg.DATA.FORMAT.IMAGE
    large = image.endswith("255")
    if large and any(mean) and max(mean) <= 1:
        message = "is a mean for pixels in 0-1; multiply mean and std by 255, or use " + image.removesuffix("255")
    elif not large and max(mean) > 1:
        message = f"is a mean for pixels in 0-255; divide mean and std by 255, or use {image}255"
    else:
        return []
    return [Problem("DATA.PIXEL_MEAN", message, related=("DATA.FORMAT.IMAGE",))]


def _normalisation(cfg: CfgNode) -> list[Problem]:
    """The model normalises in training and testing alike, so both lists must agree."""
    if not (cfg.TRAIN.TRANSFORMS and cfg.TEST.TRANSFORMS):
        return []
    in_train, in_test = ("normalize" in names for names in (cfg.TRAIN.TRANSFORMS, cfg.TEST.TRANSFORMS))
    if in_train == in_test:
        return []
    wrong, other = ("TEST", "TRAIN") if in_train else ("TRAIN", "TEST")
    message = f"has no normalize, but {other}.TRANSFORMS has; the network would see other pixels in testing than in training"
    return [Problem(f"{wrong}.TRANSFORMS", message, related=(f"{other}.TRANSFORMS",))]


def _ranges(cfg: CfgNode) -> list[Problem]:
    return [
        Problem(key, "is a range: the first number must not be larger than the second")
        for key in _RANGES
        if cfg.value(key)[0] > cfg.value(key)[1]
    ]


def _scales(cfg: CfgNode) -> list[Problem]:
    key, sampling = "TRAIN.RESIZE.SCALES", cfg.TRAIN.RESIZE.SCALES_SAMPLING
    scales, related = cfg.TRAIN.RESIZE.SCALES, (f"{key}_SAMPLING",)
    if not scales:
        return [Problem(key, "at least one scale is needed")]
    if sampling == "force_size" and not all(_is_pair(scale) for scale in scales):
        return [Problem(key, "force_size needs (height, width) pairs; write [[256, 256]]", related=related)]
    if sampling in ("choice", "range", "scale_factor") and not all(_is_length(scale) for scale in scales):
        return [Problem(key, f"{sampling} needs lengths of the shorter side, ints above 0; write [256]", related=related)]
    if sampling == "range" and (len(scales) != 2 or scales[0] > scales[1]):
        return [Problem(key, "range needs the smallest and the largest length; write [256, 320]", related=related)]
    return []


def _views(cfg: CfgNode) -> list[Problem]:
    """The views of test-time augmentation."""
    key, tta = "TEST.TTA", cfg.TEST.TTA
    if not tta.ENABLED:
        return []
    problems = []
    if not tta.SCALES and not tta.SCALE_FACTORS:
        problems.append(Problem(f"{key}.SCALE_FACTORS", f"at least one scale is needed: (1.0,), or lengths in {key}.SCALES"))
    if tta.SCALES and cfg.origin(f"{key}.SCALE_FACTORS") != DEFAULT:
        problems.append(Problem(f"{key}.SCALE_FACTORS", f"is another way to write {key}.SCALES; set one of them"))
    if not all(_is_length(scale) or _is_pair(scale) for scale in tta.SCALES):
        message = "needs lengths of the shorter side, ints above 0, or (height, width) pairs; factors belong to SCALE_FACTORS"
        problems.append(Problem(f"{key}.SCALES", message))
    if (tta.SCALES or set(tta.SCALE_FACTORS) - {1.0}) and "resize" not in cfg.TEST.TRANSFORMS:
        message = (
            "scales need the transform resize in TEST.TRANSFORMS, which has none; e.g. TEST.TRANSFORMS \"('resize', "
            "'normalize')\" with TEST.RESIZE.SCALE, the length of the shorter side; or leave the scales out: flips need no resize"
        )
        problems.append(Problem(f"{key}.SCALES" if tta.SCALES else f"{key}.SCALE_FACTORS", message, related=("TEST.TRANSFORMS",)))
    doubled = [name for name in ("SCALES", "SCALE_FACTORS", "FLIP") if len(set(tta[name])) < len(tta[name])]
    return problems + [Problem(f"{key}.{name}", "names a view twice, which would count double") for name in doubled]


def _is_length(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(_is_length(side) for side in value)


def _catalog(cfg: CfgNode) -> list[Problem]:
    problems = []
    for name, entry in cfg.DATA.CATALOG.items():
        key = f"DATA.CATALOG.{name}"
        if not isinstance(entry, dict):
            message = "expected a map such as {TYPE: image_folder_dataset, IMAGES: dir}"
            problems.append(Problem(key, message, cfg.origin("DATA.CATALOG"), show(entry)))
        elif "TYPE" not in entry and not cfg.DATA.DATASET_TYPE:
            message = "has no TYPE, e.g. TYPE: image_folder_dataset; or set DATA.DATASET_TYPE for all entries"
            problems.append(Problem(key, message, cfg.origin("DATA.CATALOG")))
    return problems


def _backbone(cfg: CfgNode) -> list[Problem]:
    model, problems = cfg.MODEL, []
    if model.PRETRAINED and model.NORM == "GN":
        message = "published weights were trained with batch normalisation; GN needs PRETRAINED False"
        problems.append(Problem("MODEL.NORM", message, related=("MODEL.PRETRAINED",)))
    if model.FREEZE_NECK and not model.NECK:
        problems.append(Problem("MODEL.FREEZE_NECK", "there is no neck to freeze", related=("MODEL.NECK",)))
    return problems


def _hooks(cfg: CfgNode) -> list[Problem]:
    wrong = [entry for entry in cfg.MISC.HOOKS if not isinstance(entry.get("TYPE"), str)]
    return [Problem("MISC.HOOKS", f'{show(entry)} has no TYPE, e.g. {{TYPE: "my_pkg.my_hooks.GradNorm"}}') for entry in wrong]


def _parallel(cfg: CfgNode) -> list[Problem]:
    """What torch would refuse, or compute wrongly, once the processes run."""
    misc, solver = cfg.MISC, cfg.SOLVER
    options, name, clip = misc.PARALLEL, "MISC.PARALLEL", solver.OPTIMIZER.CLIP_GRADIENTS
    sharded, low_rank = options.TYPE == "fsdp", options.COMM_HOOK == "powersgd"
    rules = (
        (sharded and misc.COMPILE, "MISC.COMPILE", "does not work with fsdp; set it False", f"{name}.TYPE"),
        (sharded and options.STATIC_GRAPH, f"{name}.STATIC_GRAPH", "is an option of ddp; set it False", f"{name}.TYPE"),
        (sharded and options.COMM_HOOK != "none", f"{name}.COMM_HOOK", "is an option of ddp; set it none", f"{name}.TYPE"),
        (
            options.STATIC_GRAPH and solver.ACCUMULATE > 1,
            f"{name}.STATIC_GRAPH",
            "fails inside torch with several micro-batches; set SOLVER.ACCUMULATE 1, or it False",
            "SOLVER.ACCUMULATE",
        ),
        (
            options.STATIC_GRAPH and misc.FIND_UNUSED_PARAMETERS,
            f"{name}.STATIC_GRAPH",
            "finds unused parameters by itself; set MISC.FIND_UNUSED_PARAMETERS False",
            "MISC.FIND_UNUSED_PARAMETERS",
        ),
        (
            low_rank and solver.NON_FINITE.POLICY != "raise",
            f"{name}.COMM_HOOK",
            "powersgd keeps what it left out for the next update, NaN too, so such an update cannot be skipped; use fp16 or bf16",
            "SOLVER.NON_FINITE.POLICY",
        ),
        (
            low_rank and solver.AMP.ENABLED and solver.AMP.DTYPE != "bfloat16",
            f"{name}.COMM_HOOK",
            "powersgd cannot be used with loss scaling, whose overflows it would keep; set SOLVER.AMP.DTYPE bfloat16",
            "SOLVER.AMP.DTYPE",
        ),
        (
            sharded and clip.ENABLED and clip.CLIP_TYPE != "value" and math.isinf(clip.NORM_TYPE),
            "SOLVER.OPTIMIZER.CLIP_GRADIENTS.NORM_TYPE",
            "inf does not work with fsdp, where a process may hold nothing of a small parameter; use 2.0",
            f"{name}.TYPE",
        ),
        (
            options.FSDP.MIXED_PRECISION and not solver.AMP.ENABLED,
            f"{name}.FSDP.MIXED_PRECISION",
            "takes its type from SOLVER.AMP; set SOLVER.AMP.ENABLED True",
            "SOLVER.AMP.ENABLED",
        ),
    )
    return [Problem(key, message, related=(other,)) for broken, key, message, other in rules if broken]
