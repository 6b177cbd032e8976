"""Every command of the documentation works, on data and for a time that suit a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import Command, all_blocks, all_commands
from tests.docs.workspace import QUICKSTART, config_of, make_workspace, run_python, small
from tests.helpers import REPOSITORY

DETECTOR = " ".join(f"{folder}/vision/shapes/faster_rcnn_quickstart{end}" for folder, end in (("cfgs", ".yaml"), ("ckpts", "/model_best.pth")))
VIDEO = "needs a video or a camera; tests/tools/test_demos.py runs it"
NETWORK = "fetches 25 GB; tests/data/test_download_sets.py fetches small files from a server of its own"
CONVERTED = "needs the data set; tests/data/test_convert.py converts small ones"
SHAPES = "cfgs/tasks/cls/shapes/resnet_quickstart.yaml"
SCRIPTS = "is a shell script; tests/tools/test_dist_scripts.py and tests/distributed/test_nodes.py run it"
COCO = "cfgs/vision/mscoco/e2e_faster_rcnn_R-50-FPN_1x.yaml"
# Commands that are not run here, with the reason.
NOT_RUN = {
    f"mpirun -np 8 --hostfile hosts python tools/vision/train_net.py --launcher mpi --cfg {COCO}": "needs Open MPI and GPUs; "
    "tests/cluster/test_mpi.py runs it with two processes",
    "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint node0:29500 tools/vision/train_net.py --cfg "
    f"{COCO}": "needs two machines with GPUs",
    "python -m tests.cluster.slurm install": "installs; make cluster runs it",
    "python -m tests.cluster.slurm run sbatch --output=job.log train.sbatch": "needs Slurm; tests/cluster/test_slurm.py submits such jobs",
    f"./tools/dist_train.sh {SHAPES} 2 --amp": SCRIPTS,
    f"./tools/dist_test.sh {SHAPES} ckpts/tasks/cls/shapes/resnet_quickstart/model_best.pth 2 --out results.pkl": SCRIPTS,
    f"CUDA_VISIBLE_DEVICES=0,1 ./tools/dist_train.sh {SHAPES} 2 --work-dir ckpts/one": SCRIPTS,
    f"CUDA_VISIBLE_DEVICES=2,3 PORT=29501 ./tools/dist_train.sh {SHAPES} 2 --work-dir ckpts/two": SCRIPTS,
    f"NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 PORT=29500 ./tools/dist_train.sh {SHAPES} 2": SCRIPTS,
    f"NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 PORT=29500 ./tools/dist_train.sh {SHAPES} 2": SCRIPTS,
    f"python tools/train.py {SHAPES} --nproc 2 --nnodes 2 --node_rank 0 --master_addr 10.0.0.1 --master_port 29500": "needs two "
    "machines; tests/distributed/test_nodes.py plays them",
    f"python tools/train.py {SHAPES} --nproc 2 --max_restarts 3": "tests/distributed/test_nodes.py kills a process of such a run",
    "make quickstart": "installs into .venv; what it runs then is in getting_started.md",
    "make test": "is this suite",
    "pip install -e .": "installs",
    "python -m tests.faults --out faults.json": "an hour; tests/faults/test_campaigns.py tries everything less often",
    "python -m tests.faults F02 F14 --seed 7": "minutes; tests/faults/test_campaigns.py tries everything less often",
    "python -m tests.faults --table faults.json": "needs the file of an hour; tests/faults/test_campaigns.py writes a table",
    "python tools/selftest.py": "minutes; tests/tools/test_selftest.py makes one of its checks",
    "python tools/selftest.py corrupt full-disk --work-dir /scratch/me": "tests/tools/test_selftest.py makes one of its checks",
    "tensorboard --logdir ckpts": "a server that does not end",
    "python tools/offline_eval.py cfgs/tasks/cls/shapes/resnet_quickstart.yaml predictions.pkl --metrics accuracy f1_score": "needs the "
    "file of a test; tests/tools/test_openmmlab_cli.py runs it after one",
    "jupyter lab docs/inference_demo.ipynb": "a server that does not end; test_notebook.py runs the notebook",
    f"python tools/demo/video_demo.py clip.mp4 {DETECTOR} --out drawn.mp4": VIDEO,
    f"python tools/demo/video_gpuaccel_demo.py clip.mp4 {DETECTOR} --nvdecode --out drawn.mp4": VIDEO,
    f"python tools/demo/webcam_demo.py {DETECTOR} --camera-id 0": VIDEO,
    "python tools/misc/download_dataset.py --dataset-name coco2017 --save-dir data/coco --unzip --delete --threads 4": NETWORK,
    "python tools/dataset_converters/cityscapes.py ./data/cityscapes --nproc 8 --out-dir ./data/cityscapes/annotations": CONVERTED,
    "python tools/dataset_converters/pascal_voc.py ./data/VOCdevkit -o ./data/voc_coco --out-format coco": CONVERTED,
}
# What a command says for the reader to replace, and what stands for it here. GPUs become processes on the CPU.
STANDS_FOR = {"FILE": QUICKSTART, "photo.jpg": "mine/val/ants/0.png"}
CPU = {"0": ["--gpu_id", "cpu"], "0,1": ["--nproc", "2"]}

# Flags with which a training script trains nothing.
NO_TRAINING = {"--explain", "--help-config", "--check", "--dry-run"}

Trained = Callable[[str, Path], None]


def arguments(command: Command) -> list[str]:
    """What follows ``python``; empty for another program."""
    words = [STANDS_FOR.get(word, word) for word in command.words]
    if "--gpu_id" in words:
        at = words.index("--gpu_id")
        words[at : at + 2] = CPU[words[at + 1]]
    if words[0] == "torchrun":
        return ["-m", "torch.distributed.run", *words[1:]]
    return words[1:] if words[0] == "python" else []


def distinct_commands() -> list[Command]:
    """The commands to run; those that come to the same here are one."""
    found = {
        (command.env, *(arguments(command) or command.words)): command
        for command in reversed(all_commands())
        if command.text not in NOT_RUN
    }
    return list(reversed(found.values()))


def continues_a_run(words: list[str]) -> bool:
    """Whether a command needs what training has written."""
    return "--resume" in words or any("test_net" in word or word == "tools/test.py" or word.startswith("ckpts/") for word in words)


def trained_by(words: list[str]) -> str:
    """The YAML whose run a command continues: that of --cfg, else that of a folder below ckpts."""
    if config_of(words):
        return config_of(words)
    named = [Path(word.removeprefix("ckpts/")) for word in words if word.startswith("ckpts/")]
    folders = [folder for path in named for folder in (path, *path.parents)]  # a file of a run, or the folder itself
    own = [f"cfgs/{folder}.yaml" for folder in folders if (REPOSITORY / f"cfgs/{folder}.yaml").is_file()]
    return own[0] if own else QUICKSTART


def cases() -> Iterator[Any]:
    for command in distinct_commands():
        several = {"--nproc", "torch.distributed.run"} & set(arguments(command))
        yield pytest.param(command, id=command.text, marks=[pytest.mark.distributed] if several else [])


@pytest.mark.parametrize("command", list(cases()))
def test_command_works(command: Command, tmp_path: Path, trained: Trained) -> None:
    text, words = command.text, arguments(command)
    assert words, f"{command.where}: '{text}' starts no Python program; list it in NOT_RUN with the reason"
    page = command.where.partition(":")[0]
    workspace = make_workspace(tmp_path / "repository", [b for b in all_blocks() if b.file and b.page == page])
    if continues_a_run(words):
        trained(trained_by(words), workspace)
    if config_of(words):
        words = small(words, updates=3)
    status, output = run_python(words, workspace, dict(command.env))
    assert status == 0, f"{command.where}: {text}\n{output}"
    assert "Traceback" not in output, output
    if "train_net" in text and not NO_TRAINING & set(words):
        assert "Finished: 3 updates done" in output, output


def test_excuses_are_for_commands_that_exist() -> None:
    assert set(NOT_RUN) <= {command.text for command in all_commands()}
