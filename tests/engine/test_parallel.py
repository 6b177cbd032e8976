"""Models on several processes: what the options of MISC.PARALLEL do, and what is refused before training."""

from __future__ import annotations

import pickle
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pet.config import ConfigError, check_cfg, get_base_cfg
from pet.data.loader import EvalLoader
from pet.engine import parallel
from pet.engine.checkpoint_file import COMMON, DIGESTS, LATEST, DamagedCheckpoint, read_checkpoint
from pet.engine.checkpointer import CheckPointer
from pet.engine.evaluation import Evaluation, EvaluationSet, run_evaluation
from pet.engine.events import EventStorage
from pet.engine.hooks.buffers import AverageBuffers
from pet.engine.step import TrainStep
from pet.evaluation import ClassificationEvaluator
from pet.solver.optimizer import Optimizer
from pet.utils import comm
from pet.utils.files import TEMPORARY, file_digest
from pet.utils.rng import seed_everything
from tests.engine.toys import CountingScheduler, ToyBatch
from tests.faults.toy import ToyDataset, ToyModel, forward_test, toy_cfg
from tests.helpers import run_ranks

CPU = torch.device("cpu")


# ------------------------------------------------------------------------------------------------- what the two ranks do


class Net(nn.Module):
    """Convolution, BatchNorm, classifier; and a branch that only some batches use.

    Args:
        branch: ``(rank, update) -> bool``: whether the branch takes part.
    """

    def __init__(self, branch: Callable[[int, int], bool] | None = None) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self._branch, self.calls = branch, 0
        self.extra = nn.Linear(8, 4) if branch is not None else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        features = F.relu(self.bn(self.conv(images))).mean((2, 3))
        logits = self.fc(features)
        if self.extra is not None and self._branch is not None and self._branch(comm.get_rank(), self.calls):
            logits = logits + self.extra(features)
        return logits


def forward_train(model: nn.Module, batch: ToyBatch) -> dict[str, Any]:
    return {"losses": {"loss": F.cross_entropy(model(batch.images), batch.targets)}, "metrics": {}}


def batch_of(update: int) -> ToyBatch:
    generator = torch.Generator().manual_seed(10 * update + comm.get_rank())
    return ToyBatch(torch.randn(4, 3, 8, 8, generator=generator), torch.arange(4), torch.arange(4))


def steps(model: nn.Module, cfg: Any, updates: int = 4, window: int = 1, hook: Any = None) -> list[float]:
    """Losses of this rank."""
    step = TrainStep(model, Optimizer(model, cfg.SOLVER.OPTIMIZER).build(), forward_train)
    losses = []
    for update in range(1, updates + 1):
        storage = EventStorage(update)
        losses.append(float(step([batch_of(update * window + part) for part in range(window)], lambda _: None, storage)["total_loss"]))
        if hook is not None:
            hook.after_step(storage)
    return losses


def trained(updates: int = 4, window: int = 1, net: nn.Module | None = None, **options: Any) -> dict[str, Any]:
    cfg = toy_cfg(Path(), **options)
    seed_everything(1, comm.get_rank())
    model = parallel.distribute(net or Net(), cfg, CPU)
    losses = steps(model, cfg, updates, window)
    return {"losses": losses, "state": {name: tensor.clone() for name, tensor in comm.unwrap(model).state_dict().items()}}


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return "nothing was said"


def buffers_of(folder: Path, policy: str) -> dict[str, list[float]]:
    """Running means of this rank after training, after an evaluation, and after a save."""
    cfg = toy_cfg(folder, MISC__PARALLEL__BUFFERS=policy)
    model = parallel.distribute(Net(), cfg, CPU)
    bare: Any = comm.unwrap(model)
    steps(model, cfg, hook=AverageBuffers(model) if policy == "average" else None)
    found = {"trained": bare.bn.running_mean.tolist()}
    share = policy != "none"
    run_evaluation(model, [], Nothing(), forward_test, share_buffers=share)
    found["evaluated"] = bare.bn.running_mean.tolist()
    path = CheckPointer(folder, share_buffers=share).save(
        model, Optimizer(model, cfg.SOLVER.OPTIMIZER).build(), CountingScheduler()
    )
    found["saved"] = read_checkpoint(path)["model"]["bn.running_mean"].tolist()
    return found


class Nothing:
    """Measures nothing."""

    def reset(self) -> None: ...

    def process(self, inputs: Any, outputs: Any) -> None: ...

    def evaluate(self) -> dict[str, float]:
        return {}


def exchanges_of_an_evaluation() -> tuple[dict[str, int], list[int], dict[str, float]]:
    """Calls of ``comm`` while two sets are tested, the batches of this rank, and the results."""
    counts: Counter[str] = Counter()

    def counted(name: str) -> Callable[..., Any]:
        call = getattr(comm, name)

        def wrapper(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return call(*arguments, **options)

        return wrapper

    model = ToyModel().eval()
    sets = []
    for name, size in (("first", 11), ("second", 1)):
        loader = EvalLoader(ToyDataset(size), batch_size=2, world_size=2, rank=comm.get_rank(), num_workers=0)
        sets.append(EvaluationSet(name, loader, ClassificationEvaluator(name, range(size), ["a", "b", "c", "d"])))
    evaluation = Evaluation(model, sets, lambda model, batch: {"scores": forward_test(model, batch).softmax(1)}, CPU)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("gather", "all_gather", "broadcast", "agree_max", "broadcast_tensors", "average_tensors", "synchronize", "meet"):
            patch.setattr(comm, name, counted(name))
        measured = evaluation()
    assert measured is not None
    return dict(counts), [len(part.loader) for part in sets], measured[0]


def do_everything(rank: int, folder: Path) -> dict[str, Any]:
    """All work of this module on one rank: starting two processes takes longer than the work."""
    hooks = ("none", "fp16", "bf16", "powersgd")
    accumulated = {"SOLVER__ACCUMULATE": 2}
    done = {
        "hooks": {
            name: trained(6, MISC__PARALLEL__COMM_HOOK=name, MISC__PARALLEL__POWERSGD__START_ITER=2) for name in hooks
        },
        "static": trained(MISC__PARALLEL__STATIC_GRAPH=True),
        "static unused": trained(net=Net(lambda rank, update: False), MISC__PARALLEL__STATIC_GRAPH=True),
        "buckets": [
            parallel.distribute(Net(), toy_cfg(folder, MISC__PARALLEL__BUCKET_CAP_MB=cap), CPU).bucket_bytes_cap for cap in (1.0, 25.0)
        ],
        "windows": {
            name: trained(window=2, **accumulated, MISC__PARALLEL__COMM_HOOK=name)["losses"] for name in ("none", "fp16")
        },
        "in turn": trained(net=Net(lambda rank, update: update % 2 == rank), MISC__FIND_UNUSED_PARAMETERS=True),
        "later": error_of(lambda: trained(net=Net(lambda rank, update: update < 3))),
        "window": error_of(lambda: trained(net=Net(lambda rank, update: False), window=2, **accumulated)),
        "buffers": {policy: buffers_of(folder / policy, policy) for policy in ("broadcast", "average", "none")},
        "evaluation": exchanges_of_an_evaluation(),
    }
    # Rank 0 waits for gradients that rank 1 does not have, until rank 1 has left.
    done["one rank"] = error_of(lambda: trained(net=Net(lambda rank, update: rank == 0)))
    comm.shutdown_distributed()
    return done


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_ranks(2, do_everything, tmp_path_factory.mktemp("parallel"), timeout=180)


# ------------------------------------------------------------------------------------------------------- the promises


@pytest.mark.distributed
@pytest.mark.parametrize(("hook", "rtol"), [("fp16", 1e-3), ("bf16", 1e-2), ("powersgd", 0.5)])
def test_compressed_gradients_train_all_ranks_alike(hook: str, rtol: float, ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        plain, compressed = rank["hooks"]["none"], rank["hooks"][hook]
        torch.testing.assert_close(compressed["losses"], plain["losses"], rtol=rtol, atol=0.0)
        assert compressed["losses"] != plain["losses"], "nothing was compressed"
        assert torch.equal(compressed["state"]["conv.weight"], ranks[0]["hooks"][hook]["state"]["conv.weight"])


@pytest.mark.distributed
def test_static_graph_trains_the_same_and_may_leave_parameters_out(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        plain = rank["hooks"]["none"]["losses"][:4]
        assert rank["static"]["losses"] == plain
        assert len(rank["static unused"]["losses"]) == 4


@pytest.mark.distributed
def test_bucket_size_reaches_torch(ranks: list[dict[str, Any]]) -> None:
    assert [rank["buckets"] for rank in ranks] == [[1 << 20, 25 << 20]] * 2


@pytest.mark.distributed
def test_windows_work_with_compression(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        torch.testing.assert_close(rank["windows"]["fp16"], rank["windows"]["none"], rtol=1e-3, atol=0.0)


@pytest.mark.distributed
def test_parameter_without_gradient_is_named_in_the_update_where_it_happens(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "2 trainable parameters got no gradient in update 3: extra.weight, extra.bias" in rank["later"]
        assert "2 trainable parameters got no gradient in update 1: extra.weight, extra.bias" in rank["window"]
    assert "got no gradient in update 1: extra.weight, extra.bias" in ranks[1]["one rank"]
    assert ranks[0]["one rank"] != "nothing was said"


@pytest.mark.distributed
def test_parts_may_be_used_in_turn_if_that_is_said(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["in turn"]["state"] for rank in ranks)
    assert torch.equal(first["extra.weight"], second["extra.weight"])


@pytest.mark.distributed
def test_buffers_follow_their_policy(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["buffers"] for rank in ranks)
    assert first["broadcast"]["trained"] != second["broadcast"]["trained"], "buffers travelled in the forward pass"
    assert first["broadcast"]["trained"] == first["broadcast"]["saved"] == second["broadcast"]["evaluated"]
    assert first["average"]["trained"] == second["average"]["trained"] == first["average"]["saved"]
    assert first["average"]["trained"] != first["broadcast"]["trained"]
    assert first["none"]["evaluated"] == first["none"]["trained"] != second["none"]["evaluated"]
    assert second["none"]["evaluated"] == second["none"]["trained"]


@pytest.mark.distributed
def test_evaluation_gathers_once_for_each_set_and_pads_nothing(ranks: list[dict[str, Any]]) -> None:
    (calls, first, results), (other_calls, second, other_results) = (rank["evaluation"] for rank in ranks)
    assert calls == other_calls == {"meet": 2, "broadcast_tensors": 2, "gather": 2, "agree_max": 2, "broadcast": 2}
    assert (first, second) == ([3, 1], [3, 0]), "six pictures and five, one and none"
    assert results["first/top1"] == other_results["first/top1"]
    assert results["second/top1"] in (0.0, 100.0)


# --------------------------------------------------------------------------------------------------- without processes


@pytest.mark.parametrize(
    ("options", "key", "text"),
    [
        ({"TYPE": "fsdp", "STATIC_GRAPH": True}, "STATIC_GRAPH", "option of ddp"),
        ({"TYPE": "fsdp", "COMM_HOOK": "fp16"}, "COMM_HOOK", "option of ddp"),
        ({"TYPE": "fsdp", "MISC.COMPILE": True}, "MISC.COMPILE", "does not work with fsdp"),
        ({"STATIC_GRAPH": True, "SOLVER.ACCUMULATE": 2}, "STATIC_GRAPH", "SOLVER.ACCUMULATE 1"),
        ({"STATIC_GRAPH": True, "MISC.FIND_UNUSED_PARAMETERS": True}, "STATIC_GRAPH", "finds unused parameters by itself"),
        ({"COMM_HOOK": "powersgd", "SOLVER.NON_FINITE.POLICY": "skip"}, "COMM_HOOK", "NaN"),
        ({"COMM_HOOK": "powersgd", "SOLVER.AMP.ENABLED": True}, "COMM_HOOK", "SOLVER.AMP.DTYPE bfloat16"),
        ({"TYPE": "fsdp", "FSDP.MIXED_PRECISION": True}, "FSDP.MIXED_PRECISION", "SOLVER.AMP.ENABLED True"),
        (
            {
                "TYPE": "fsdp",
                "SOLVER.OPTIMIZER.CLIP_GRADIENTS.ENABLED": True,
                "SOLVER.OPTIMIZER.CLIP_GRADIENTS.NORM_TYPE": float("inf"),
            },
            "CLIP_GRADIENTS.NORM_TYPE",
            "inf does not work with fsdp",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_options_that_exclude_one_another_are_refused_by_key(options: dict[str, Any], key: str, text: str) -> None:
    cfg = get_base_cfg()
    base = {"SOLVER.SCHEDULER.TOTAL_EPOCHS": 1, "TRAIN.DATASETS": ("x",)}
    given = {name if name.split(".")[0] in cfg else f"MISC.PARALLEL.{name}": value for name, value in options.items()}
    for name, value in {**base, **given}.items():
        cfg.merge_from_list([name, value])
    with pytest.raises(ConfigError, match=text) as caught:
        check_cfg(cfg)
    assert key in str(caught.value)


def test_units_are_the_blocks_of_backbones_and_the_heads() -> None:
    import timm
    import torchvision

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Module()
            self.backbone.body = torchvision.models.resnet18()
            self.neck = nn.Conv2d(8, 8, 1)
            self.heads = nn.ModuleDict({"box": nn.Linear(2, 2), "free": nn.ReLU()})

    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert [name for name, _ in parallel.sharding_units(torchvision.models.resnet18())] == blocks
    found = [name for name, _ in parallel.sharding_units(Detector())]
    assert found == [f"backbone.body.{name}" for name in blocks] + ["heads.box", "neck"]
    assert [name for name, _ in parallel.sharding_units(Detector(), heads=False)] == found[:-2]
    vit = timm.create_model("vit_tiny_patch16_224", depth=3)
    assert [name for name, _ in parallel.sharding_units(vit)] == ["blocks.0", "blocks.1", "blocks.2"]
    chosen = parallel.sharding_units(vit, ("blocks.1", "Attention"))
    assert [name for name, _ in chosen] == ["blocks.0.attn", "blocks.1.attn", "blocks.2.attn", "blocks.1"], "inner ones first"


def test_unit_without_a_forward_is_refused() -> None:
    model = nn.Sequential(nn.ModuleList([nn.Linear(2, 2)]))
    with pytest.raises(ValueError, match=r"0 is a ModuleList, which has no forward of its own; name its parts: 0\.\*"):
        parallel.sharding_units(model, ("0",))


def test_what_a_killed_process_left_of_a_folder_is_removed_at_the_next_start(tmp_path: Path) -> None:
    half = tmp_path / f"model_iter3.dcp{TEMPORARY}999999999"
    half.mkdir()
    (half / "__0_0.distcp").write_bytes(b"half")
    assert not CheckPointer(tmp_path).resume
    assert list(tmp_path.iterdir()) == []


def test_pointer_may_not_lead_to_a_folder_elsewhere(tmp_path: Path) -> None:
    elsewhere = hostile_folder(tmp_path / "model_iter1.dcp", Runs())
    run = tmp_path / "run"
    run.mkdir()
    (run / LATEST).symlink_to(elsewhere)
    with pytest.raises(ValueError, match="points outside its folder"):
        CheckPointer(run)


class Runs:
    """A pickle that would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('it ran')",))


def hostile_folder(folder: Path, index: Any) -> Path:
    """A sharded checkpoint whose index is ``index``; its checksums are right."""
    folder.mkdir()
    torch.save({"model": {"weight": torch.empty(2, device="meta")}}, folder / COMMON)
    (folder / ".metadata").write_bytes(pickle.dumps(index))
    names = (COMMON, ".metadata")
    (folder / DIGESTS).write_text("".join(f"{file_digest(folder / name)}  {name}\n" for name in names))
    return folder


def test_index_of_a_sharded_checkpoint_runs_nothing(tmp_path: Path) -> None:
    with pytest.raises(DamagedCheckpoint, match="it names builtins.exec, which is no part of an index"):
        read_checkpoint(hostile_folder(tmp_path / "model_iter1.dcp", Runs()))


def test_index_of_a_sharded_checkpoint_stays_in_its_folder(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    written = tmp_path / "written"
    with pytest.warns(UserWarning, match="single process"):
        dcp.save({"model.weight": torch.ones(2)}, storage_writer=dcp.FileSystemWriter(written), no_dist=True)
    index = FileSystemReader(written).read_metadata()
    for place in index.storage_data.values():
        place.relative_path = f"../written/{place.relative_path}"
    with pytest.raises(DamagedCheckpoint, match="its index names more than tensors in this folder"):
        read_checkpoint(hostile_folder(tmp_path / "model_iter1.dcp", index))
    shutil.rmtree(written)


def test_list_of_checksums_stays_in_its_folder(tmp_path: Path) -> None:
    folder = hostile_folder(tmp_path / "model_iter1.dcp", None)
    (tmp_path / "other").write_text("x")
    with open(folder / DIGESTS, "a") as file:
        file.write(f"{file_digest(tmp_path / 'other')}  ../other\n")
    with pytest.raises(DamagedCheckpoint, match=r"has no \.\./other"):
        read_checkpoint(folder)
