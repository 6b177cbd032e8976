"""Config keys and transforms of OpenMMLab's tool boxes that people type, and what says the same in Pet."""

from __future__ import annotations

import re

_BATCH = "TRAIN.BATCH_SIZE (images of one update, over all processes)"
_TEST_BATCH = "TEST.IMS_PER_GPU"
_PORT = "the flag --master-port PORT of the launcher; by default a free port is chosen"
_RESUME = "the flag --resume [PATH]"

# Patterns of whole keys, the first that fits; mmcv 1.x and MMEngine names.
_KEYS: tuple[tuple[str, str], ...] = (
    (r"data\.(val|test)\.samples_per_gpu|data\.(val|test)_dataloader\.\w+|(val|test)_dataloader\.batch_size", _TEST_BATCH),
    (r"data\.(train\.)?samples_per_gpu|data\.train_dataloader\.samples_per_gpu|train_dataloader\.batch_size", _BATCH),
    (r"data\.workers_per_gpu|(train|val|test)_dataloader\.num_workers", "DATA.LOADER_THREADS"),
    (r"data(_root|\.\w+\.(ann_file|img_prefix|data_root|data_prefix))", "DATA.CATALOG, DATA.ROOT"),
    (r"(train|val|test)_dataloader\.dataset\..*", "DATA.CATALOG, DATA.ROOT"),
    (r"data\.(val|test)\..*", "TEST.DATASETS and the sections of TEST"),
    (r"data\.train\..*|train_pipeline.*", "TRAIN.DATASETS and TRAIN.TRANSFORMS"),
    (r"(val|test)_pipeline.*|tta_pipeline.*|tta_model.*", "TEST.TRANSFORMS and TEST.TTA (the flag --tta)"),
    (r"(optimizer|optim_wrapper\.optimizer)\.lr", "SOLVER.OPTIMIZER.BASE_LR"),
    (r"(optimizer|optim_wrapper\.optimizer)\.type", "SOLVER.OPTIMIZER.TYPE"),
    (r"(optimizer|optim_wrapper\.optimizer)\.momentum", "SOLVER.OPTIMIZER.MOMENTUM"),
    (r"(optimizer|optim_wrapper\.optimizer)\.weight_decay", "SOLVER.OPTIMIZER.WEIGHT_DECAY"),
    (r"optimizer_config\.grad_clip.*|optim_wrapper\.clip_grad.*", "SOLVER.OPTIMIZER.CLIP_GRADIENTS"),
    (r"optimizer_config\.cumulative_iters|optim_wrapper\.accumulative_counts", "SOLVER.ACCUMULATE"),
    (r"optimizer.*|optim_wrapper.*", "SOLVER.OPTIMIZER"),
    (r"fp16.*", "the flag --amp (SOLVER.AMP.ENABLED)"),
    (r"runner\.max_epochs|total_epochs|max_epochs|train_cfg\.max_epochs", "SOLVER.SCHEDULER.TOTAL_EPOCHS"),
    (r"runner\.max_iters|total_iters|max_iters|train_cfg\.max_iters", "SOLVER.SCHEDULER.TOTAL_ITERS"),
    (r"lr_config\.step|param_scheduler\..*milestones", "SOLVER.SCHEDULER.STEPS"),
    (r"lr_config\.warmup_iters", "SOLVER.SCHEDULER.WARM_UP_ITERS"),
    (r"lr_config\.warmup_ratio", "SOLVER.SCHEDULER.WARM_UP_FACTOR"),
    (r"lr_config\.policy", "SOLVER.SCHEDULER.POLICY"),
    (r"lr_config.*|param_scheduler.*|runner.*|train_cfg\.by_epoch", "SOLVER.SCHEDULER"),
    (r"auto_scale_lr\.base_batch_size", "SOLVER.BASE_BATCH_SIZE"),
    (r"auto_scale_lr.*", "the flag --auto-scale-lr"),
    (r"evaluation\.interval|train_cfg\.val_interval", "EVAL.PERIOD_EPOCHS (or EVAL.PERIOD_ITERS)"),
    (r"evaluation\.metric|(val|test)_evaluator.*", "EVAL.METRICS"),
    (r"evaluation\.save_best|default_hooks\.checkpoint\.save_best", "EVAL.BEST.METRIC"),
    (r"evaluation.*", "the section EVAL"),
    (r"(checkpoint_config|default_hooks\.checkpoint)\.interval", "SOLVER.SNAPSHOT_EPOCHS (or SOLVER.SNAPSHOT_ITER)"),
    (r"(checkpoint_config|default_hooks\.checkpoint)\.max_keep_ckpts", "SOLVER.SNAPSHOT_KEEP"),
    (r"(log_config|default_hooks\.logger)\.interval", "MISC.DISPLAY_ITER"),
    (r"custom_hooks.*", "MISC.HOOKS"),
    (r"work_dir", "the flag --work-dir DIR (MISC.CKPT)"),
    (r"load_from", "the flag --load-from PATH (TRAIN.WEIGHTS)"),
    (r"resume_from|resume", _RESUME),
    (r"seed|randomness\.seed", "the flag --seed N (MISC.SEED)"),
    (r"randomness\.deterministic", "the flag --deterministic (MISC.DETERMINISTIC)"),
    (r"dist_params\.port|env_cfg\.dist_cfg\.port", _PORT),
    (r"dist_params.*|env_cfg\.dist_cfg.*", _PORT),
    (r"find_unused_parameters", "MISC.FIND_UNUSED_PARAMETERS"),
    (r"cudnn_benchmark", "MISC.CUDNN"),
    (r"model\.pretrained|model\.backbone\.init_cfg.*", "MODEL.PRETRAINED, or TRAIN.WEIGHTS FILE"),
    (r"model\.backbone\.frozen_stages", "MODEL.FREEZE_AT"),
    (r"model\.backbone\.norm_cfg.*", "MODEL.NORM"),
    (r"model\.backbone.*", "MODEL.BACKBONE and MODEL.BACKBONE_OPTIONS"),
    (r"model\..*num_classes", "MODEL.NUM_CLASSES (detection), MODEL.GLOBAL_HEAD.CLS.NUM_CLASSES (classification)"),
    (r"model\.test_cfg.*|model\.train_cfg.*|model\.\w+_head.*|model\.neck.*", "the sections of MODEL"),
)  # fmt: skip

# Transforms of a pipeline, and those whose work needs no name in Pet.
FORMER_NAMES = {
    "Resize": "resize", "Normalize": "normalize", "RandomFlip": "random_horizontal_flip", "ImageToTensor": "to_tensor",
    "ToTensor": "to_tensor", "DefaultFormatBundle": "to_tensor",
}  # fmt: skip
DONE_BY_ITSELF = (
    "LoadImageFromFile", "LoadAnnotations", "LoadPanopticAnnotations", "FilterAnnotations", "Pad", "Collect", "PackDetInputs",
    "PackInputs", "PackClsInputs",
)  # fmt: skip


def pet_key(name: str) -> str:
    """What Pet has for a key of OpenMMLab's configs; empty if the name is none of theirs.

    Example:
        >>> pet_key("runner.max_epochs")
        'SOLVER.SCHEDULER.TOTAL_EPOCHS'
    """
    return next((ours for pattern, ours in _KEYS if re.fullmatch(pattern, name)), "")
