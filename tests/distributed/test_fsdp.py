"""Two processes that share one model (fully_shard): the training of two that have it each, and checkpoints in parts."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pet.engine import parallel
from pet.engine.checkpoint_file import BEST, LATEST, DamagedCheckpoint, read_checkpoint, verify_checkpoint
from pet.engine.checkpointer import CheckPointer, get_weights
from pet.engine.evaluation import run_evaluation
from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook
from pet.engine.hooks.gradients import DropGradients
from pet.engine.step import SkipPolicy, TrainStep, make_clip
from pet.engine.weights import read_content
from pet.solver.ema import ModelEMA
from pet.solver.optimizer import Optimizer
from pet.utils import comm
from pet.utils.rng import seed_everything
from tests.engine.toys import CountingScheduler, ToyBatch
from tests.faults.compare import checkpoint_differences, rows, run_differences, state_differences
from tests.faults.toy import Recorder, toy_cfg, train
from tests.helpers import run_ranks

pytestmark = pytest.mark.distributed

FSDP = {"MISC__PARALLEL__TYPE": "fsdp"}
CPU = torch.device("cpu")


class StopAt(Hook):
    """Ends the run after an update."""

    def __init__(self, update: int) -> None:
        self._update = update

    def after_step(self, storage: EventStorage) -> None:
        if storage.iteration == self._update:
            storage.request_stop("the test", status=143, by_all_ranks=True)


# ---------------------------------------------------------------------------------------------- a model in TrainStep alone


def make_vit() -> nn.Module:
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, depth=2, embed_dim=24, num_heads=2, num_classes=4
    )


def make_shufflenet() -> nn.Module:
    import torchvision

    return torchvision.models.shufflenet_v2_x0_5(num_classes=4)


class TwoHeads(nn.Module):
    """The second head is used by the second rank, or never.

    Args:
        in_turn: each rank uses its own head.
    """

    def __init__(self, in_turn: bool) -> None:
        super().__init__()
        self._head = comm.get_rank() if in_turn else 0
        self.backbone, self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.first, self.second)[self._head](self.backbone(x.flatten(1)[:, :4]))


def batch_of(update: int, part: int, poison: bool = False) -> ToyBatch:
    generator = torch.Generator().manual_seed(100 * update + 10 * part + comm.get_rank())
    images = torch.randn(4, 3, 16, 16, generator=generator)
    return ToyBatch(images * float("nan") if poison else images, torch.arange(4), torch.arange(4))


def forward_train(model: nn.Module, batch: ToyBatch) -> dict[str, Any]:
    return {"losses": {"loss": F.cross_entropy(model(batch.images).float(), batch.targets)}, "metrics": {}}


def small_run(
    folder: Path,
    make: Callable[[], nn.Module],
    *,
    kind: str,
    window: int = 1,
    updates: int = 4,
    poison: int = 0,
    hook: Callable[[nn.Module, EventStorage], None] = lambda model, storage: None,
    amp: torch.dtype | None = None,
    clip: tuple[str, float] | None = ("full_model", 1.0),
    **options: Any,
) -> dict[str, Any]:
    """Train without hooks; the losses and norms of this rank, and the weights and averages that all ranks together hold."""
    cfg = toy_cfg(folder, MISC__PARALLEL__TYPE=kind, SOLVER__OPTIMIZER__BASE_LR=0.02, **options)
    seed_everything(0, comm.get_rank())  # ranks draw other weights; those of rank 0 count
    model = parallel.distribute(make(), cfg, CPU, amp)
    ema = ModelEMA(model, 0.5, warm_up=False)
    optimizer = Optimizer(model, cfg.SOLVER.OPTIMIZER).build()
    skip = SkipPolicy(5) if poison else None
    step = TrainStep(
        model, optimizer, forward_train, amp_dtype=amp, clip=make_clip(*clip) if clip else None, skip=skip, init_scale=1024.0
    )
    losses, norms = [], []
    for update in range(1, updates + 1):
        storage = EventStorage(update)
        bad = update == poison and comm.get_rank() == 1
        batches = [batch_of(update, part, poison=bad and part == window - 1) for part in range(window)]
        metrics = step(batches, lambda storage: hook(model, storage), storage)
        if not storage.update_skipped:
            ema.update()
            losses.append(float(metrics["total_loss"]))
            norms.append(float(metrics.get("grad_norm", 0.0)))
    parameters = {name: comm.whole(tensor).clone() for name, tensor in comm.unwrap(model).named_parameters()}
    averages = {name: comm.whole(tensor).clone() for name, tensor in ema.state_dict()["weights"].items()}
    return {"losses": losses, "norms": norms, "weights": parameters, "averages": averages}


def freeze_backbone(model: nn.Module) -> nn.Module:
    for parameter in list(model.parameters())[:3]:
        parameter.requires_grad_(False)
    return model


PAIRS: dict[str, dict[str, Any]] = {
    "vit": {"make": make_vit},
    "shufflenet": {"make": make_shufflenet},
    "window of three": {"make": make_vit, "window": 3},
    "frozen parts": {"make": lambda: freeze_backbone(make_vit())},
    "clipped by value": {"make": make_vit, "clip": ("value", 1e-3)},
    "clipped one by one": {"make": make_vit, "clip": ("norm", 0.05)},
    "AdamW": {"make": make_vit, "SOLVER__OPTIMIZER__TYPE": "ADAMW"},
    "skipped update": {"make": make_vit, "window": 2, "poison": 2},
    "parts in turn": {"make": lambda: TwoHeads(in_turn=True), "MISC__FIND_UNUSED_PARAMETERS": True, "clip": None},
    "kept after forward": {"make": make_vit, "MISC__PARALLEL__FSDP__RESHARD_AFTER_FORWARD": False},
    "blocks by name": {"make": make_vit, "MISC__PARALLEL__FSDP__SHARD": ("blocks.*.mlp", "Attention")},
    "float16": {"make": make_vit, "amp": torch.float16},
    "bfloat16": {"make": make_vit, "amp": torch.bfloat16},
}
IN_HALF = ("float16", "bfloat16")


def both_kinds(folder: Path) -> dict[str, dict[str, Any]]:
    return {name: {kind: small_run(folder, kind=kind, **options) for kind in ("ddp", "fsdp")} for name, options in PAIRS.items()}


def drop(model: nn.Module, storage: EventStorage) -> None:
    DropGradients(model, "head.*", until_iter=9).after_backward(storage)


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was said"


class Count:
    """Counts pictures, on all ranks."""

    def reset(self) -> None:
        self.seen = 0

    def process(self, inputs: ToyBatch, outputs: torch.Tensor) -> None:
        self.seen += len(outputs)

    def evaluate(self) -> dict[str, float]:
        return {"pictures": float(sum(comm.all_gather(self.seen)))}


def evaluate_unevenly(folder: Path) -> tuple[dict[str, float] | None, list[float]]:
    """Rank 0 tests three batches, rank 1 none; then the training goes on."""
    cfg = toy_cfg(folder, **FSDP)
    model: Any = parallel.distribute(make_vit(), cfg, CPU)
    loader = [batch_of(0, part) for part in range(3 if comm.get_rank() == 0 else 0)]
    metrics = run_evaluation(model, loader, Count(), lambda model, batch: model(batch.images))
    step = TrainStep(model, Optimizer(model, cfg.SOLVER.OPTIMIZER).build(), forward_train)
    return metrics, [float(step([batch_of(1, 0)], lambda _: None, EventStorage(n))["total_loss"]) for n in (1, 2)]


def fail_to_write(folder: Path) -> tuple[str, str]:
    """Rank 1 meets a full disk in the second save; the error, and what the folder then continues from."""
    from torch.distributed.checkpoint import FileSystemWriter

    cfg = toy_cfg(folder, **FSDP)
    model = parallel.distribute(make_vit(), cfg, CPU)
    optimizer, scheduler = Optimizer(model, cfg.SOLVER.OPTIMIZER).build(), CountingScheduler()
    checkpointer = CheckPointer(folder, asynchronous=True)
    scheduler.step()
    checkpointer.save(model, optimizer, scheduler)
    checkpointer.wait()

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        if comm.get_rank() == 1:
            patch.setattr(FileSystemWriter, "write_data", full)
        scheduler.step()
        checkpointer.save(model, optimizer, scheduler)
        said = error_of(checkpointer.wait)
    comm.synchronize()
    return said, Path(CheckPointer(folder).resumed_from).resolve().name


def go_back(folder: Path) -> bool:
    """Save, train, restore; whether weights and momenta are the saved ones."""
    cfg = toy_cfg(folder, **FSDP)
    model = parallel.distribute(make_vit(), cfg, CPU)
    optimizer = Optimizer(model, cfg.SOLVER.OPTIMIZER).build()
    checkpointer = CheckPointer(folder)
    step = TrainStep(model, optimizer, forward_train)
    step([batch_of(1, 0)], lambda _: None, EventStorage(1))
    scheduler = CountingScheduler()
    scheduler.step()
    checkpointer.save(model, optimizer, scheduler)
    before = [comm.local(p).clone() for p in model.parameters()]
    step([batch_of(2, 0)], lambda _: None, EventStorage(2))
    changed = any(not torch.equal(comm.local(p), b) for p, b in zip(model.parameters(), before, strict=True))
    return changed and checkpointer.go_back(model, optimizer) == 1 and all(
        torch.equal(comm.local(p), b) for p, b in zip(model.parameters(), before, strict=True)
    )


def recorded(folder: Path, stop: int | None = None, **options: Any) -> dict[int, list[int]]:
    recorder = Recorder()
    train(folder, [recorder, *([StopAt(stop)] if stop else [])], MISC__DISPLAY_ITER=1, plain=True, **options)
    return recorder.ids


def runs(folder: Path) -> None:
    """Whole runs with loader, hooks and checkpoints."""
    for name, options in (("adam", {"SOLVER__OPTIMIZER__TYPE": "ADAMW"}), ("sgd", {"SOLVER__ACCUMULATE": 2})):
        train(folder / name, **options, **FSDP)
        for stop in (3, 6, 0):
            # one in the background, one while the run waits
            train(folder / f"{name}_cut", [StopAt(stop)], SOLVER__SNAPSHOT_ASYNC=stop != 3, **options, **FSDP)
    recorded(folder / "ddp")
    recorded(folder / "fsdp", **FSDP)
    recorded(folder / "from_ddp", stop=5)
    recorded(folder / "from_ddp", **FSDP)
    recorded(folder / "to_one", stop=5, **FSDP)
    recorded(folder / "from_one", **FSDP)
    recorded(folder / "damaged", stop=7, **FSDP)


def damage(folder: Path) -> None:
    if comm.is_main_process():
        shard = (folder / "damaged" / LATEST).resolve() / "__1_0.distcp"
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    comm.synchronize()


def do_everything(rank: int, folder: Path) -> dict[str, Any]:
    """All work of this module on one rank: starting two processes takes longer than the work."""
    pairs = both_kinds(folder / "pairs")
    runs(folder)
    damage(folder)
    recorded(folder / "damaged", **FSDP)
    half = sum(comm.local(p).numel() for p in parallel.distribute(make_vit(), toy_cfg(folder, **FSDP), CPU).parameters())
    mixed = {"MISC__PARALLEL__FSDP__MIXED_PRECISION": True, "SOLVER__AMP__ENABLED": True}
    return {
        "pairs": pairs,
        "half": half,
        "dropped": small_run(folder, make_vit, kind="fsdp", hook=drop)["weights"],
        "mixed": small_run(folder, make_vit, kind="fsdp", amp=torch.bfloat16, **mixed)["losses"],
        "uneven": evaluate_unevenly(folder),
        "full disk": fail_to_write(folder / "full"),
        "back": go_back(folder / "back"),
        "errors": {
            "unused": error_of(lambda: small_run(folder, lambda: TwoHeads(in_turn=False), kind="fsdp")),
            "norm": error_of(lambda: small_run(folder, make_shufflenet, kind="fsdp", amp=torch.bfloat16, **mixed)),
            "unit": error_of(lambda: small_run(folder, make_vit, kind="fsdp", MISC__PARALLEL__FSDP__SHARD=("blocs.*",))),
        },
    }


@dataclass(frozen=True)
class Outcome:
    """What the ranks returned, and the folder of their runs."""

    ranks: list[dict[str, Any]]
    folder: Path


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("fsdp")
    recorded(folder / "from_one", stop=5)
    ranks = run_ranks(2, do_everything, folder, timeout=240)
    recorded(folder / "to_one")
    return Outcome(ranks, folder)


# ------------------------------------------------------------------------------------------------------- the promises


@pytest.mark.parametrize("name", PAIRS)
def test_sharded_training_has_the_losses_of_replicas(name: str, outcome: Outcome) -> None:
    rtol = 2e-2 if name in IN_HALF else 1e-5
    for rank in outcome.ranks:
        ddp, fsdp = (rank["pairs"][name][kind] for kind in ("ddp", "fsdp"))
        assert len(ddp["losses"]) == (3 if name == "skipped update" else 4)
        torch.testing.assert_close(fsdp["losses"], ddp["losses"], rtol=rtol, atol=0.0)
        torch.testing.assert_close(fsdp["norms"], ddp["norms"], rtol=max(rtol, 1e-4), atol=0.0)
        for part in ("weights", "averages"):
            assert fsdp[part].keys() == ddp[part].keys()
            # Adam divides tiny gradients by their size
            atol = 2e-2 if name in (*IN_HALF, "AdamW", "shufflenet") else 1e-5
            torch.testing.assert_close(fsdp[part], ddp[part], rtol=1e-4, atol=atol)


def test_each_process_holds_its_share(outcome: Outcome) -> None:
    total = sum(p.numel() for p in make_vit().parameters())
    shares = [rank["half"] for rank in outcome.ranks]
    assert sum(shares) == total
    assert max(shares) < 0.6 * total


def test_gathered_parameters_in_half_precision_train(outcome: Outcome) -> None:
    for rank in outcome.ranks:
        torch.testing.assert_close(rank["mixed"], rank["pairs"]["bfloat16"]["ddp"]["losses"], rtol=5e-2, atol=0.0)


def test_a_hook_may_drop_gradients(outcome: Outcome) -> None:
    first, second = (rank["dropped"] for rank in outcome.ranks)
    seed_everything(0, 0)
    begun = dict(make_vit().named_parameters())
    assert torch.equal(first["head.weight"], begun["head.weight"])
    assert not torch.equal(first["blocks.0.mlp.fc1.weight"], begun["blocks.0.mlp.fc1.weight"])
    assert state_differences(first, second) == []


def test_ranks_may_test_different_numbers_of_pictures_or_none(outcome: Outcome) -> None:
    for rank in outcome.ranks:
        metrics, losses = rank["uneven"]
        assert metrics == {"pictures": 12.0}
        assert losses[1] != losses[0], "training goes on after the evaluation"


def test_what_cannot_be_is_refused_by_name(outcome: Outcome) -> None:
    for rank in outcome.ranks:
        errors = rank["errors"]
        assert "2 trainable parameters got no gradient in update 1: " in errors["unused"]
        assert "MISC.FIND_UNUSED_PARAMETERS True" in errors["unused"]
        assert "MIXED_PRECISION does not work with batch normalisation, which the model has in conv1.1" in errors["norm"]
        assert "'blocs.*' is neither a module of the model nor the class of one. Did you mean" in errors["unit"]


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_run_that_was_cut_inside_an_epoch_ends_bitwise_equal(name: str, outcome: Outcome) -> None:
    assert (outcome.folder / name / LATEST).resolve().suffix == ".dcp"
    assert run_differences(outcome.folder / name, outcome.folder / f"{name}_cut", tensorboard=False) == []


@pytest.mark.parametrize("name", ["fsdp", "from_ddp", "to_one", "from_one"])
def test_kind_and_number_of_processes_may_change_at_a_resume(name: str, outcome: Outcome) -> None:
    expected, found = rows(outcome.folder / "ddp"), rows(outcome.folder / name)
    assert [row["iteration"] for row in found] == [row["iteration"] for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        if "total_loss" in ours:
            assert abs(ours["total_loss"] - theirs["total_loss"]) < 1e-5


def test_damaged_shard_is_found_and_the_checkpoint_before_it_used(outcome: Outcome) -> None:
    folder = outcome.folder / "damaged"
    for ours, theirs in zip(rows(folder), rows(outcome.folder / "fsdp"), strict=True):
        assert ours == theirs
    verify_checkpoint(folder / LATEST)


def test_folder_can_be_tested_and_merged_into_one_file(outcome: Outcome, tmp_path: Path) -> None:
    from pet.engine.checkpoint_info import merge, show, verify

    folder = outcome.folder / "fsdp"
    assert get_weights(folder) == folder / BEST
    merge(folder / BEST, tmp_path / "whole.pth")
    assert checkpoint_differences(folder / BEST, tmp_path / "whole.pth") == []
    weights = read_content(tmp_path / "whole.pth")["model"]
    alone = read_content(outcome.folder / "ddp" / BEST)["model"]
    torch.testing.assert_close(weights, alone, rtol=1e-4, atol=1e-5)
    assert verify(folder / LATEST) == "all of its files match SHA256SUMS"
    assert "optimizer" in show(folder / LATEST)


def test_old_folders_go_and_the_best_stays(outcome: Outcome) -> None:
    for name in ("adam", "sgd", "fsdp"):
        folder = outcome.folder / name
        kept = {path.name for path in folder.glob("*.dcp*")}
        assert kept == {"model_iter9.dcp", "model_iter12.dcp", (folder / BEST).resolve().name}
        assert (folder / LATEST).resolve().name == "model_iter12.dcp"


def test_full_disk_on_one_rank_is_told_by_all_and_loses_nothing(outcome: Outcome) -> None:
    for rank in outcome.ranks:
        said, continued = rank["full disk"]
        assert "No space left on device" in said
        assert "MiB free" in said or "rank 0 could not save" in said
        assert continued == "model_iter1.dcp"


def test_run_can_go_back_to_its_checkpoint(outcome: Outcome) -> None:
    assert [rank["back"] for rank in outcome.ranks] == [True, True]


@pytest.mark.parametrize("missing", ["state.pth", "__1_0.distcp", ".metadata", "SHA256SUMS"])
def test_folder_without_one_of_its_files_is_refused_by_name(missing: str, outcome: Outcome, tmp_path: Path) -> None:
    import shutil

    copied = tmp_path / "model_iter12.dcp"
    shutil.copytree(outcome.folder / "fsdp" / "model_iter12.dcp", copied)
    (copied / missing).unlink()
    with pytest.raises(DamagedCheckpoint, match=missing if missing != "SHA256SUMS" else "no sharded checkpoint"):
        read_checkpoint(copied)
