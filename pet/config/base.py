"""The keys every domain shares: the nine sections of Pet v0.7.

The help text is the comment of a key; validation, ``--help-config`` and the reference page come from this table.
Domains add their own keys with ``extend`` (see ``pet/tasks/cls/config.py``). Where a pair ``X_EPOCHS`` / ``X_ITERS``
exists, ``X_EPOCHS`` decides unless it is ``None``. "Update" means one optimizer update, however many micro-batches
it takes.
"""

from __future__ import annotations

from typing import Any

from pet.config.node import CfgNode
from pet.config.rules import check_shared
from pet.config.schema import key

# A table reads best with one key in one line.
# fmt: off
MISC: dict[str, Any] = {
    "VERSION": key("0.7a", "version of the config layout", choices=("0.7a",)),
    "CKPT": key("", "folder of the run: checkpoints, logs, pictures; empty: ckpts/<path of the YAML under cfgs/>"),
    "DEVICE": key("auto", "where to compute; auto takes a GPU if there is one", choices=("auto", "cuda", "mps", "cpu")),
    "CUDNN": key(True, "let cuDNN search for the fastest kernels (off with DETERMINISTIC)"),
    "DETERMINISTIC": key(False, "only deterministic kernels; an operator without one is an error"),
    "SEED": key(0, "seed of weights, order and augmentation", low=0),
    "DISPLAY_ITER": key(20, "updates between two log lines", low=1, unit="updates"),
    "STOP_CHECK_ITER": key(0, "updates between two agreements of all ranks whether to stop (one process: every update); 0: DISPLAY_ITER", low=0, unit="updates"),
    "PREEMPT": {
        "SIGNAL": key("USR1", "the warning a scheduler gives before it ends the job; like SIGTERM it saves and stops, and in a Slurm job it also requeues", choices=("USR1", "USR2", "TERM")),
        "REQUEUE": key("auto", "requeue the Slurm job after the warning, once the checkpoint is complete; auto: where this is a Slurm job; True: refuse to start elsewhere", type=object, choices=(True, False, "auto")),
    },
    "DIST_TIMEOUT": key(600, "seconds after which a collective that misses a rank is an error", low=1, unit="s"),
    "RDZV_TIMEOUT": key(300, "seconds to wait at the start until all processes and machines have come", low=1, unit="s"),
    "FIND_UNUSED_PARAMETERS": key(False, "allow parameters without a gradient in distributed training (slower)"),
    "LOG_SAMPLE_IDS": key(False, "write a hash of the ids of the samples of every update into the log file, to compare runs"),
    "PARALLEL": {
        "TYPE": key("ddp", "several processes: ddp (DistributedDataParallel, each has the whole model) or fsdp (fully_shard: parameters, gradients and optimizer state are spread over them)", choices=("ddp", "fsdp")),
        "BUFFERS": key("broadcast", "running statistics of BatchNorm: broadcast (those of rank 0, at a save and an evaluation), average (their mean, after every update), none (each process keeps its own)", choices=("broadcast", "average", "none")),
        "BUCKET_CAP_MB": key(25.0, "ddp: gradients that are exchanged at a time", above=0.0, unit="MiB"),
        "STATIC_GRAPH": key(False, "ddp: every update uses the same parts of the model, which may leave parameters out"),
        "COMM_HOOK": key("none", "ddp: gradients are exchanged as they are, in half precision, or as products of small matrices; approximate", choices=("none", "fp16", "bf16", "powersgd")),
        "POWERSGD": {
            "RANK": key(1, "width of the small matrices of powersgd", low=1),
            "START_ITER": key(1000, "exchanges of whole gradients before powersgd begins", low=2, unit="updates"),
        },
        "FSDP": {
            "SHARD": key((), "modules that are gathered at a time: patterns of names, e.g. backbone.body.layer4.*, or class names; empty: blocks of the backbone, neck, heads", element=str),
            "RESHARD_AFTER_FORWARD": key(True, "let gathered parameters go after the forward pass and gather them again for the backward pass; False: more memory, less traffic"),
            "MIXED_PRECISION": key(False, "gather parameters in the type of SOLVER.AMP: half the traffic and memory; not for models with batch normalisation"),
        },
    },
    "COMPILE": key(False, "compile the model with torch.compile"),
    "CONV1_RGB2BGR": key(False, "flip the input channels of the first convolution of loaded weights"),
    "DRY_RUN": key(False, "build everything, say what would happen, and end before the first update (--dry-run)"),
    "HOOKS": key([], 'own hooks, e.g. [{TYPE: "my_pkg.my_hooks.GradNorm", PERIOD: 20}]', element=dict),
    "PROFILER": {
        "ENABLED": key(False, "record a torch.profiler trace into <CKPT>/profile"),
        "START_ITER": key(10, "first update to record", low=1, unit="updates"),
        "NUM_ITER": key(5, "updates to record", low=1, unit="updates"),
    },
}

ANALYSER: dict[str, Any] = {
    "ENABLED": key(True, "print parameters, FLOPs and activations at start"),
    "DETAILS": key(False, "print the parameters of every module"),
}

EVAL: dict[str, Any] = {
    "ENABLED": key(True, "evaluate during training (--no-validate turns it off)"),
    "PERIOD_EPOCHS": key(1, "epochs between evaluations", type=int, low=1, optional=True, unit="epochs"),
    "PERIOD_ITERS": key(0, "updates between evaluations when PERIOD_EPOCHS is None; 0: only at the end", low=0, unit="updates"),
    "EMA": key(True, "evaluate the averaged weights when SOLVER.EMA is enabled"),
    "BEST": {
        "METRIC": key("", "metric that decides on model_best.pth, e.g. top1; empty: none is kept"),
        "MODE": key("max", "whether larger or smaller is better", choices=("max", "min")),
    },
    "EARLY_STOPPING": {
        "ENABLED": key(False, "stop when the metric of EVAL.BEST no longer improves"),
        "PATIENCE": key(5, "evaluations without improvement before the stop", low=1, unit="evaluations"),
        "MIN_DELTA": key(0.0, "smallest change that counts as improvement", low=0.0),
    },
    "RECORD": key([], "results of past runs, for the reader", element=dict),
}

VIS: dict[str, Any] = {
    "ENABLED": key(True, "write pictures of the data before the first update, of the results after the last evaluation and after a test, and report.html"),
    "NUM_IMAGES": key(16, "predictions to draw", low=1, high=1024, unit="images"),
}

DATA: dict[str, Any] = {
    "ROOT": key("", "folder that relative data paths start from; empty: environment variable PET_DATA, then data/"),
    "CATALOG": key({}, "own data sets: {my_train: {TYPE: image_folder_dataset, IMAGES: dir, ANNOTATIONS: file}}; TYPE may be an import path"),
    "DATASET_TYPE": key("", "TYPE of the entries of DATA.CATALOG that state none"),
    "DOWNLOAD": key(True, "fetch public data sets that are missing (checksum verified)"),
    "CHECK": key("fast", "data report at start: off; fast: labels and counts; full: also decode every image", choices=("off", "fast", "full")),
    "BAD_IMAGE": key("raise", "a training image that cannot be read: stop, or take another one instead (always the same); in testing it always stops", choices=("raise", "replace")),
    "PIXEL_MEAN": key((0.485, 0.456, 0.406), "mean of the pixels, in the range and channel order of FORMAT.IMAGE", element=float, length=3),
    "PIXEL_STD": key((0.229, 0.224, 0.225), "standard deviation of the pixels", element=float, length=3, above=0.0),
    "FORMAT": {
        "IMAGE": key("rgb", "channel order and range the model sees: rgb and bgr in 0-1, rgb255 and bgr255 in 0-255", choices=("rgb", "bgr", "rgb255", "bgr255")),
    },
    "OVERFIT_BATCHES": key(0, "train on the batches of this many first updates again and again, and evaluate on their pictures (--overfit-batch); 0: off", low=0, unit="batches"),
    "LOADER_THREADS": key(-1, "worker processes of the loader for each process; -1: min(4, cores / processes), 0: load in the main process", low=-1, high=256),
    "RESTART_WORKERS": key(0, "how often a loader starts its workers anew after one died, at the same sample; 0: the run ends", low=0, high=1000),
    "PREFETCH": key(2, "batches each worker prepares in advance", low=1, high=64, unit="batches"),
    "SAMPLER": {
        "TYPE": key("shuffle", "order of the training data: a new permutation each epoch; as stored; or rare classes repeated (RFTSAMPLER) in a new permutation", choices=("shuffle", "sequential", "repeat_factor")),
        "ASPECT_RATIO_GROUPING": key((), "bounds between groups of width / height; images of one group stay together, e.g. (1.0,) for upright and lying ones", element=float, above=0.0),
        "GROUP_SIZE": key(2, "images of one group that stay together; best what one process computes at a time", low=1, unit="images"),
        "RFTSAMPLER": {
            "REPEAT_THRESHOLD": key(0.001, "classes in a smaller share of the images are repeated", above=0.0, high=1.0),
            "POW": key(0.5, "exponent of threshold / share", above=0.0),
            "MIN_REPEAT_TIMES": key(1.0, "an image is shown at least so often in an epoch", above=0.0),
            "MAX_REPEAT_TIMES": key(10000.0, "and at most so often", above=0.0),
        },
    },
}

_INTERPOLATION = ("nearest", "linear", "cubic", "area", "lanczos")

TRAIN: dict[str, Any] = {
    "WEIGHTS": key("", "weights to start from: a file (checkpoint or plain state dict); empty: as MODEL.PRETRAINED says"),
    "ALLOW_MISMATCH": key((), "patterns (fnmatch) of tensors that may be missing, surplus or of another shape in WEIGHTS, e.g. global_head.*", element=str),
    "DATASETS": key((), "names of catalog data sets, concatenated", element=str),
    "BATCH_SIZE": key(32, "images of one update, over all processes and micro-batches", low=1, unit="images"),
    "AUTO_RESUME": key(True, "continue from model_latest.pth when the folder of the run has one"),
    "RESUME_FROM": key("", "checkpoint to continue from instead of the newest one of the folder (--resume PATH)"),
    "TRANSFORMS": key((), "names of the training transforms, in order, or import paths of classes", element=str),
    "RESIZE": {
        "SCALES": key((256,), "length of the shorter side, or (height, width) pairs with force_size", unit="pixels"),
        "MAX_SIZE": key(0, "limit of the longer side; 0: none", low=0, unit="pixels"),
        "SCALES_SAMPLING": key("choice", "how a scale is drawn", choices=("choice", "range", "scale_factor", "force_size")),
        "SCALE_FACTOR": key((1.0, 1.0), "range of the factor with scale_factor", element=float, length=2, above=0.0),
        "INTERPOLATION": key("linear", "interpolation", choices=_INTERPOLATION),
    },
    "RANDOM_CROP": {
        "CROP_SCALES": key(((32, 32),), "(height, width) of the crop; one is drawn", unit="pixels"),
        "PADDING": key(0, "border added on each side before the crop", low=0, unit="pixels"),
        "FILL": key((0, 0, 0), "colour of the border, RGB", element=int, length=3, low=0, high=255),
    },
    "CENTER_CROP": {"CROP_SCALES": key((224, 224), "(height, width) of the crop", element=int, length=2, low=1, unit="pixels")},
    "RANDOM_RESIZED_CROP": {
        "SIZE": key((224, 224), "(height, width) of the result", element=int, length=2, low=1, unit="pixels"),
        "SCALE": key((0.08, 1.0), "range of the area that is cut out, as a share of the image", element=float, length=2, above=0.0, high=1.0),
        "RATIO": key((0.75, 1.3333333333333333), "range of width / height of the cut", element=float, length=2, above=0.0),
        "INTERPOLATION": key("linear", "interpolation", choices=_INTERPOLATION),
    },
    "FLIP": {"PROB": key(0.5, "probability of random_horizontal_flip and random_vertical_flip", low=0.0, high=1.0)},
    "COLOR_JITTER": {
        "BRIGHTNESS": key(0.4, "largest relative change", low=0.0),
        "CONTRAST": key(0.4, "largest relative change", low=0.0),
        "SATURATION": key(0.4, "largest relative change", low=0.0),
        "HUE": key(0.0, "largest shift, as a share of the colour circle", low=0.0, high=0.5),
    },
    "AUTO_AUG": {"POLICY": key("imagenet", "AutoAugment policy", choices=("imagenet", "cifar10", "svhn"))},
    "RAND_AUG": {
        "NUM_OPS": key(2, "operations for each image", low=0),
        "MAGNITUDE": key(9, "strength of the operations, 0 to 30; m of a recipe that counts to 10 is 3 m here", low=0, high=30),
        "MAGNITUDE_STD": key(0.5, "standard deviation of the strength", low=0.0),
    },
    "RANDOM_ERASING": {
        "PROB": key(0.25, "probability", low=0.0, high=1.0),
        "AREA": key((0.02, 0.3333), "range of the erased share of the image", element=float, length=2, low=0.0, high=1.0),
        "RATIO": key((0.3, 3.3333), "range of height / width", element=float, length=2, above=0.0),
        "MODE": key("pixel", "fill with random pixels or with the mean colour", choices=("pixel", "mean")),
    },
    "MIXUP": {
        "ALPHA": key(0.8, "parameter of the beta distribution of mixup", above=0.0),
        "PROB": key(0.5, "probability of mixup for a sample", low=0.0, high=1.0),
    },
    "CUTMIX": {
        "ALPHA": key(1.0, "parameter of the beta distribution of cutmix", above=0.0),
        "PROB": key(0.5, "probability of cutmix for a sample that mixup left alone", low=0.0, high=1.0),
    },
}

TEST: dict[str, Any] = {
    "WEIGHTS": key("", "checkpoint to test; empty: model_best.pth, else model_latest.pth of the run"),
    "DATASETS": key((), "names of catalog data sets, each evaluated by itself", element=str),
    "IMS_PER_GPU": key(32, "images of a test batch of one process", low=1, unit="images"),
    "LIMIT": key(0, "pictures of each test set that are used, the first ones; 0: all", low=0, unit="images"),
    "TRANSFORMS": key((), "names of the test transforms, in order", element=str),
    "RESIZE": {
        "SCALE": key(256, "length of the shorter side, or (height, width)", type=object, unit="pixels"),
        "MAX_SIZE": key(0, "limit of the longer side; 0: none", low=0, unit="pixels"),
        "INTERPOLATION": key("linear", "interpolation", choices=_INTERPOLATION),
    },
    "CENTER_CROP": {"CROP_SCALES": key((224, 224), "(height, width) of the crop", element=int, length=2, low=1, unit="pixels")},
    "TTA": {
        "ENABLED": key(False, "test-time augmentation: predict each image in several views and merge the predictions (--tta)"),
        "SCALES": key((), "scales of the views, as TEST.RESIZE.SCALE (MAX_SIZE follows in proportion), e.g. (640, 800); empty: SCALE_FACTORS", unit="pixels"),
        "SCALE_FACTORS": key((1.0,), "scales of the views as factors of TEST.RESIZE.SCALE and MAX_SIZE", element=float, above=0.0),
        "FLIP": key(("horizontal",), "mirrored views beside the plain one of each scale; diagonal: both ways; (): none", element=str, choices=("horizontal", "vertical", "diagonal")),
    },
    "PRECISE_BN": {
        "ENABLED": key(False, "recompute BatchNorm statistics before saving and evaluating"),
        "PERIOD": key(0, "updates between two computations; 0: once an epoch, and at the end", low=0, unit="updates"),
        "NUM_ITER": key(200, "batches for the statistics", low=1, unit="batches"),
    },
}

SOLVER: dict[str, Any] = {
    "SNAPSHOT_EPOCHS": key(1, "epochs between checkpoints", type=int, low=1, optional=True, unit="epochs"),
    "SNAPSHOT_ITER": key(0, "updates between checkpoints when SNAPSHOT_EPOCHS is None; 0: only at the end", low=0, unit="updates"),
    "SNAPSHOT_KEEP": key(2, "newest checkpoints to keep; 0: all", low=0, unit="files"),
    "SNAPSHOT_ASYNC": key(True, "write checkpoints in the background, from a copy in host memory; False: the run waits for the disk"),
    "ACCUMULATE": key(1, "micro-batches of one update; each process computes BATCH_SIZE / processes / ACCUMULATE images at a time", low=1),
    "BASE_BATCH_SIZE": key(0, "batch size that BASE_LR is meant for; --auto-scale-lr multiplies BASE_LR by BATCH_SIZE / BASE_BATCH_SIZE; 0: unknown", low=0, unit="images"),
    "OPTIMIZER": {
        "TYPE": key("SGD", "optimizer", choices=("SGD", "ADAM", "ADAMW", "RMSPROP")),
        "BASE_LR": key(0.1, "learning rate at the end of the warm-up", above=0.0),
        "MOMENTUM": key(0.9, "momentum (SGD, RMSPROP)", low=0.0),
        "NESTEROV": key(False, "Nesterov momentum (SGD)"),
        "BETAS": key((0.9, 0.999), "decay of the moments (ADAM, ADAMW)", element=float, length=2, low=0.0, high=1.0),
        "ALPHA": key(0.99, "smoothing constant (RMSPROP)", low=0.0, high=1.0),
        "EPS": key(1e-8, "term added to the denominator (ADAM, ADAMW, RMSPROP)", above=0.0),
        "WEIGHT_DECAY": key(1e-4, "weight decay", low=0.0),
        "WEIGHT_DECAY_BIAS": key(None, "weight decay of biases; None: WEIGHT_DECAY", type=float, low=0.0),
        "WEIGHT_DECAY_NORM": key(None, "weight decay of normalisation layers; None: WEIGHT_DECAY", type=float, low=0.0),
        "WEIGHT_DECAY_EMBED": key(None, "weight decay of embeddings, position tables and class tokens; None: WEIGHT_DECAY", type=float, low=0.0),
        "BIAS_LR_FACTOR": key(1.0, "learning rate of biases, relative", above=0.0),
        "BACKBONE_LR_FACTOR": key(1.0, "learning rate of the backbone, relative", above=0.0),
        "CLIP_GRADIENTS": {
            "ENABLED": key(False, "clip gradients"),
            "CLIP_TYPE": key("full_model", "clamp each value, the norm of each parameter, or the norm of all", choices=("value", "norm", "full_model")),
            "CLIP_VALUE": key(1.0, "limit", above=0.0),
            "NORM_TYPE": key(2.0, "order of the norm; inf: the maximum", above=0.0, infinite=True),
        },
    },
    "SCHEDULER": {
        "TOTAL_EPOCHS": key(None, "length of the training", type=int, low=1, unit="epochs"),
        "TOTAL_ITERS": key(0, "length of the training when TOTAL_EPOCHS is None", low=0, unit="updates"),
        "POLICY": key("STEP", "learning-rate policy", choices=("STEP", "COSINE", "STEP_COSINE", "POLY", "CONSTANT", "ONECYCLE")),
        "STEPS": key((), "milestones of STEP and STEP_COSINE, in the unit of the total (epochs or updates)", element=float, low=0.0),
        "GAMMA": key(0.1, "factor at each milestone", above=0.0),
        "LR_POW": key(0.9, "exponent of POLY", above=0.0),
        "MIN_LR_FACTOR": key(0.0, "learning rate at the end of COSINE and POLY, relative", low=0.0, high=1.0),
        "WARM_UP_EPOCHS": key(None, "length of the warm-up", type=float, low=0.0, unit="epochs"),
        "WARM_UP_ITERS": key(0, "length of the warm-up when WARM_UP_EPOCHS is None", low=0, unit="updates"),
        "WARM_UP_FACTOR": key(0.1, "learning rate at the start of the warm-up, relative", low=0.0, high=1.0),
        "WARM_UP_METHOD": key("LINEAR", "rising from the factor, or staying at it", choices=("LINEAR", "CONSTANT")),
        "LOG_LR_CHANGE_THRESHOLD": key(1.1, "log a step of the learning rate by more than this ratio after the warm-up", low=1.0),
        "ONECYCLE": {
            "PCT_START": key(0.3, "share of the updates in which the rate rises", above=0.0, high=1.0),
            "DIV_FACTOR": key(25.0, "BASE_LR / rate at the start", above=0.0),
            "FINAL_DIV_FACTOR": key(1e4, "rate at the start / rate at the end", above=0.0),
        },
    },
    "AMP": {
        "ENABLED": key(False, "mixed precision (--amp)"),
        "DTYPE": key("auto", "type for autocast; auto: bfloat16 where the device has it, else float16", choices=("auto", "bfloat16", "float16")),
        "INIT_SCALE": key(65536.0, "first loss scale with float16", above=0.0),
    },
    "EMA": {
        "ENABLED": key(False, "keep an exponential moving average of the weights"),
        "DECAY": key(0.9998, "decay for each update", above=0.0, high=1.0),
        "WARM_UP": key(True, "start with a smaller decay: min(DECAY, (1 + n) / (10 + n)) after n updates"),
    },
    "NON_FINITE": {
        "POLICY": key("raise", "a loss that is NaN or infinite: stop; skip the update on all ranks (checks every update); or roll back to the newest checkpoint (checks on log steps), see docs/reliability.md", choices=("raise", "skip", "rollback")),
        "MAX_SKIPS": key(10, "skipped updates in a row after which skip stops as well", low=1, unit="updates"),
        "MAX_SKIPS_PER_1000": key(100, "skipped updates among the newest 1,000; with more of them skip stops as well", low=1, high=1000, unit="updates"),
        "MAX_ROLLBACKS": key(3, "rollbacks of a run after which rollback stops as well", low=1),
    },
}

MODEL: dict[str, Any] = {
    "BACKBONE": key("torchvision/resnet18", "backbone: torchvision/<name>, timm/<name> or one of ours, e.g. lenet5, cifar_resnet20"),
    "PRETRAINED": key(False, "start from the weights the library publishes (downloaded), unless TRAIN.WEIGHTS is given"),
    "BACKBONE_OPTIONS": key({}, "keyword arguments for the backbone's constructor, e.g. {drop_path_rate: 0.1}"),
    "FEATURES": key((), "feature levels of the backbone, by name or stage number; empty: the pooled vector that its library's own classifier sees"),
    "NORM": key("", "what to use for the batch normalisation of the backbone; empty: as its library builds it", choices=("", "BN", "SyncBN", "FrozenBN", "GN")),
    "FREEZE_AT": key(0, "freeze the first stages of the backbone; 0: none, 1: the stem, 2: stem and first stage, ...", low=0),
    "FREEZE_BACKBONE": key(False, "train without changing the backbone"),
    "NECK": key("", "neck between backbone and heads; empty: none"),
    "NECK_OPTIONS": key({}, "keyword arguments for the constructor of the neck"),
    "FREEZE_NECK": key(False, "train without changing the neck"),
    "GLOBAL_HEAD": {},
}

SECTIONS: dict[str, Any] = {
    "MISC": MISC,
    "ANALYSER": ANALYSER,
    "EVAL": EVAL,
    "VIS": VIS,
    "DATA": DATA,
    "TRAIN": TRAIN,
    "TEST": TEST,
    "SOLVER": SOLVER,
    "MODEL": MODEL,
}
# fmt: on


def get_base_cfg() -> CfgNode:
    """A fresh tree of the shared keys with their defaults."""
    cfg = CfgNode.from_schema(SECTIONS)
    cfg.add_check(check_shared)
    # Pet v0.7 could switch metrics off because every update paid for them; here they cost nothing between log lines.
    cfg.register_deprecated_key("TRAIN.METRICS_ON")
    return cfg
