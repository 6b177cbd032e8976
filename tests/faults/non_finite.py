"""NaN and infinity: every rank decides alike, and nothing that is not finite stays behind (F19, F20)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from pet.data.structures import Batch
from pet.engine.checkpoint_file import numbered_checkpoints, read_checkpoint
from pet.engine.events import EventStorage, get_event_storage
from pet.engine.step import SkipPolicy, TrainStep
from pet.utils import comm
from tests.engine.toys import ToyBatch, make_batch, make_model, make_sgd
from tests.faults.catalog import Figure, fault
from tests.faults.compare import flatten, run_differences
from tests.faults.toy import UPDATES, Recorder, TermAt, train
from tests.helpers import run_ranks

POLICIES = ("raise", "skip", "rollback")

# ------------------------------------------------------------------------------------------------------------- F19


@dataclass(frozen=True)
class BadTerm:
    """Two loss terms; in one update the pictures of one rank are NaN, which reaches ``loss_cls`` and the BatchNorm statistics."""

    rank: int
    update: int

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        images = batch.images.float()
        if get_event_storage().iteration == self.update and comm.get_rank() == self.rank:
            images[-1] = float("nan")
        penalty = comm.unwrap(model).get_parameter("fc.weight").square().mean()
        loss = F.cross_entropy(model(images).float(), batch.targets["label"])
        return {"losses": {"loss_cls": loss, "loss_penalty": penalty}, "metrics": {}}


def _ends(folder: Path, policy: str, bad: BadTerm) -> dict[str, Any]:
    """Train with a NaN on one rank; what this rank has seen."""
    recorder, error, run = Recorder(), "", None
    options: dict[str, Any] = {"SOLVER__NON_FINITE__POLICY": policy, "MISC__DISPLAY_ITER": 2}
    try:
        run = train(folder / "run", [recorder], forward_train=bad, **options)
    except FloatingPointError as problem:
        error = str(problem)
    if policy == "rollback":  # stopped some updates after it went back, and continued
        for hooks in ([TermAt(bad.update + 2)], []):
            train(folder / "stopped", hooks, forward_train=bad, MISC__STOP_CHECK_ITER=1, **options)
    state = {} if run is None else {name: tensor.clone() for name, tensor in comm.unwrap(run.model).state_dict().items()}
    latest = {} if run is None or run.storage is None else run.storage.latest()
    return {"error": error, "state": state, "latest": latest, "ids": recorder.ids}


def _all_ends(rank: int, folder: Path, trials: list[tuple[str, BadTerm]]) -> list[dict[str, Any]]:
    return [_ends(folder / f"{place}", policy, bad) for place, (policy, bad) in enumerate(trials)]


def _faults_of(policy: str, bad: BadTerm, folder: Path, ranks: list[dict[str, Any]]) -> list[str]:
    """What is not as promised."""
    found = []
    first, second = ranks
    if first["error"] != second["error"]:
        found.append(f"the ranks end differently: {first['error']!r} and {second['error']!r}")
    updates = [int(path.stem.removeprefix("model_iter")) for path in numbered_checkpoints(folder / "run")]
    for path in numbered_checkpoints(folder / "run"):
        broken = [n for n, v in flatten(read_checkpoint(path)["model"]) if v.is_floating_point() and not torch.isfinite(v).all()]
        found += [f"{path.name}: {name} is not finite" for name in broken]
    for name, value in first["state"].items():
        if not torch.isfinite(value).all():
            found.append(f"{name} is not finite")
        if not torch.equal(value, second["state"][name]):
            found.append(f"{name} differs between the ranks")
    if policy == "raise":
        ids = f"{ranks[bad.rank]['ids_before']}"
        wanted = (f"loss_cls is not finite since update {bad.update} on rank {bad.rank}", ids)
        found += [f"the message lacks {text!r}: {first['error']}" for text in wanted if text not in first["error"]]
        if "loss_penalty" in first["error"] or not updates or max(updates) >= bad.update:
            found.append(f"saved {updates} with a NaN in update {bad.update}, message {first['error']}")
        return found
    counter = {"skip": "skipped_updates", "rollback": "rollbacks"}[policy]
    if first["error"] or first["latest"].get(counter) != 1 or max(updates) != UPDATES:
        found.append(f"{counter} is {first['latest'].get(counter)}, not 1; saved {updates}; {first['error']}")
    if policy == "rollback":
        found += [f"after a resume: {text}" for text in run_differences(folder / "run", folder / "stopped", tensorboard=False)]
    return found


@fault("F19", "NaN in one loss term on one rank: one decision everywhere, everything finite, the message names term and samples",
       small=6, full=6, several=True)  # fmt: skip
def nan_on_one_rank(count: int, seed: int, folder: Path) -> Figure:
    draw = random.Random(seed)
    # Log steps are the even updates and 1; checkpoints are taken after 3, 4, 6, 8, 9, 12.
    trials = [(policy, BadTerm(rank, draw.choice((5, 6, 7)))) for policy in POLICIES for rank in (0, 1)][:count]
    plan = [("skip", BadTerm(0, 0)), *trials]  # the first run has no NaN: its stream of samples is what the others must show
    plain, *ranks = zip(*run_ranks(2, _all_ends, folder, plan, timeout=240), strict=True)
    figure = Figure(0, len(trials), "as promised")
    for place, ((policy, bad), ends) in enumerate(zip(trials, ranks, strict=True), start=1):
        problems = []
        for end, alone in zip(ends, plain, strict=True):
            end["ids_before"] = alone["ids"][bad.update]
            if any(alone["ids"][update] != ids for update, ids in end["ids"].items()):
                problems.append("the stream of samples is another one")
        problems += _faults_of(policy, bad, folder / f"{place}", list(ends))
        figure.good += not problems
        figure.failures += [f"seed {seed}, {policy}, NaN on rank {bad.rank} in update {bad.update}: {text}" for text in problems]
    figure.extra = f"{len(figure.failures)} non-finite tensors or other differences"
    return figure


# ------------------------------------------------------------------------------------------------------------- F20


@dataclass(frozen=True)
class InfiniteGradients:
    """The gradients of one rank are infinite in some updates, the losses never are."""

    ranks: dict[int, int]  # update: rank

    def __call__(self, model: nn.Module, batch: ToyBatch) -> dict[str, Any]:
        logits = model(batch.images)
        if self.ranks.get(get_event_storage().iteration) == comm.get_rank():
            logits.register_hook(lambda gradient: torch.full_like(gradient, float("inf")))
        return {"losses": {"loss_cls": F.cross_entropy(logits.float(), batch.targets)}, "metrics": {}}


def _updates(ranks: dict[int, int], count: int, amp: bool, limit: int) -> tuple[list[int], str, int]:
    """Skipped updates, the error that ended the run, and tensors that are not finite."""
    model = nn.parallel.DistributedDataParallel(make_model())
    skipped, error = [], ""
    step = TrainStep(
        model,
        make_sgd(model, 0.01),
        InfiniteGradients(ranks),
        amp_dtype=torch.float16 if amp else None,
        init_scale=1024.0,
        skip=SkipPolicy(10, limit),
    )
    with EventStorage(1, 20, max_iter=count) as storage:
        for update in range(1, count + 1):
            try:
                step([make_batch(2 * (update % 50) + comm.get_rank())], lambda storage: None, storage)
            except FloatingPointError as problem:
                error = str(problem)
                break
            finally:
                skipped += [update] * storage.update_skipped
            storage.step()
    tensors = [*model.parameters(), *(value for state in step.optimizer.state.values() for value in state.values())]
    return skipped, error, sum(not bool(torch.isfinite(tensor).all()) for tensor in tensors if isinstance(tensor, torch.Tensor))


def _all_updates(rank: int, ranks: dict[int, int], count: int, limit: int) -> list[tuple[list[int], str, int]]:
    return [_updates(ranks, count, amp, most) for amp in (False, True) for most in (1000, limit)]


@fault("F20", "5 % of updates with infinite gradients, float32 and float16: both ranks skip the same ones, a limit ends the run",
       small=100, full=1000, several=True)  # fmt: skip
def infinite_gradients(count: int, seed: int, folder: Path) -> Figure:
    draw = random.Random(seed)
    bad = {update: draw.randrange(2) for update in sorted(draw.sample(range(1, count + 1), max(count // 20, 2)))}
    limit = len(bad) // 2
    first, second = run_ranks(2, _all_updates, bad, count, limit, timeout=240)
    figure = Figure(0, 2 * count, "updates decided alike and rightly")
    for place, name in enumerate(("float32", "float16")):
        (skipped, error, broken), (limited, message, broken_too) = first[2 * place : 2 * place + 2]
        differing = (set(skipped) ^ set(bad)) | (set(second[2 * place][0]) ^ set(bad))
        figure.good += count - len(differing)
        figure.failures += [
            f"seed {seed}, {name}, update {update}: skipped on one rank, or wrongly" for update in sorted(differing)
        ]
        if first != second or error or broken or broken_too:
            figure.failures.append(f"seed {seed}, {name}: the ranks differ, {broken + broken_too} tensors not finite, {error}")
        if limited != list(bad)[: limit + 1] or "SOLVER.NON_FINITE.MAX_SKIPS_PER_1000" not in message:
            figure.failures.append(f"seed {seed}, {name}: a limit of {limit} stopped after {len(limited)} skips: {message!r}")
    figure.extra = f"{len(bad)} skips on each rank, the limit of {limit} stops both, 0 non-finite parameters"
    return figure
