"""Stop anywhere, resume, and nothing in the end tells the run from one that was never stopped."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pet.config import get_base_cfg
from pet.engine import setup
from pet.engine.checkpoint_file import digest_path
from pet.engine.events import EventStorage
from pet.engine.hooks.base import Phase
from pet.engine.resume import report_config_changes
from pet.utils.files import file_digest
from tests.faults.compare import checkpoint_differences, rows, run_differences
from tests.faults.toy import BATCH, PER_EPOCH, UPDATES, KillAt, Killed, TermAt, ToyDataset, make_loader, toy_cfg, train

SIGTERM_STATUS = 128 + signal.SIGTERM


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``uninterrupted(**options)``: the folder of a run with these options that nothing disturbed."""
    done: dict[str, Path] = {}

    def run(**options: Any) -> Path:
        name = repr(sorted(options.items()))
        if name not in done:
            done[name] = train(tmp_path_factory.mktemp("uninterrupted"), **options).folder
        return done[name]

    return run


def differences(expected: Path, folder: Path) -> list[str]:
    return run_differences(expected, folder, tensorboard=False)


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the content of a checkpoint; without its checksum it is accepted as a file from elsewhere."""
    path = path.resolve()
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    digest_path(path).unlink()


# --------------------------------------------------------------------------------------------------------- bitwise


@pytest.mark.parametrize("stop", range(1, UPDATES + 1))
def test_stop_at_any_update_and_resume_is_bitwise_equal(stop: int, uninterrupted: Callable[..., Path], tmp_path: Path) -> None:
    stopped = train(tmp_path, [TermAt(stop)])
    assert (stopped.status, stopped.updates) == (SIGTERM_STATUS, stop)
    resumed = train(tmp_path)
    assert (resumed.status, resumed.updates) == (0, UPDATES - stop)
    assert differences(uninterrupted(), tmp_path) == []


@pytest.mark.parametrize("stops", [(3, 7), (5, 6), (1, 2, 5, 9, 11), (4, 4, 8, 8, 12)], ids=str)
def test_two_and_five_resumes_are_bitwise_equal(
    stops: tuple[int, ...], uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    for stop in stops:
        train(tmp_path, [TermAt(stop)])
    train(tmp_path)
    assert differences(uninterrupted(), tmp_path) == []


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 2), (2, 4), (4, 0)])
def test_number_of_workers_may_change_at_a_resume(
    before: int, after: int, uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    train(tmp_path, [TermAt(5)], DATA__LOADER_THREADS=before)
    train(tmp_path, DATA__LOADER_THREADS=after)
    assert differences(uninterrupted(), tmp_path) == []


@pytest.mark.parametrize(
    "options",
    [
        {"SOLVER__ACCUMULATE": 2},
        {"SOLVER__OPTIMIZER__TYPE": "ADAMW", "SOLVER__EMA__ENABLED": False},
        {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": "bfloat16"},
        {"SOLVER__NON_FINITE__POLICY": "skip"},
        {"TEST__PRECISE_BN__ENABLED": True, "TEST__PRECISE_BN__NUM_ITER": 2},
        {"EVAL__ENABLED": False, "SOLVER__SNAPSHOT_ITER": 0},
        {"EVAL__PERIOD_EPOCHS": None, "EVAL__PERIOD_ITERS": 5, "EVAL__BEST__MODE": "min"},
    ],
    ids=lambda options: ",".join(options),
)
def test_every_kind_of_run_resumes_bitwise_equal(
    options: dict[str, Any], uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    for stop in (2, 5, 10):
        train(tmp_path, [TermAt(stop)], **options)
    train(tmp_path, **options)
    if not options.get("EVAL__ENABLED", True):
        assert checkpoint_differences(uninterrupted(**options) / "model_latest.pth", tmp_path / "model_latest.pth") == []
        assert rows(uninterrupted(**options)) == rows(tmp_path)
        return
    assert differences(uninterrupted(**options), tmp_path) == []


def test_loss_scale_and_its_skipped_updates_resume_bitwise_equal(uninterrupted: Callable[..., Path], tmp_path: Path) -> None:
    options = {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": "float16", "SOLVER__AMP__INIT_SCALE": 2.0**22}
    expected = uninterrupted(**options)
    state = torch.load(expected / "model_latest.pth", weights_only=True)["scaler"]
    assert 0 < state["skipped_updates"] < UPDATES, "the first scale is meant to overflow a few times"
    for stop in (1, 3, 8):
        train(tmp_path, [TermAt(stop)], **options)
    train(tmp_path, **options)
    assert differences(expected, tmp_path) == []


def test_early_stopping_counts_on_over_a_resume(uninterrupted: Callable[..., Path], tmp_path: Path) -> None:
    options = {"EVAL__EARLY_STOPPING__ENABLED": True, "EVAL__EARLY_STOPPING__PATIENCE": 1, "EVAL__EARLY_STOPPING__MIN_DELTA": 1e6}
    expected = uninterrupted(**options)
    for stop in (3, 4, 6):
        train(tmp_path, [TermAt(stop)], **options)
    assert train(tmp_path, **options).updates == 2 * PER_EPOCH - 6
    assert differences(expected, tmp_path) == []
    assert train(tmp_path, **options).status == -1


def test_comparison_would_notice_a_random_state_that_is_not_restored(uninterrupted: Callable[..., Path], tmp_path: Path) -> None:
    def advance(content: dict[str, Any]) -> None:
        generator = torch.Generator()
        generator.set_state(content["rng"][0]["torch"])
        torch.rand(1, generator=generator)
        content["rng"][0]["torch"] = generator.get_state()

    train(tmp_path, [TermAt(5)])
    edit(tmp_path / "model_latest.pth", advance)
    train(tmp_path)
    found = differences(uninterrupted(), tmp_path)
    assert any("model.fc.weight" in name for name in found)
    assert any("rng.0.torch" in name for name in found)


# ----------------------------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize("phase", [Phase.UPDATE, Phase.SAVE, Phase.EVALUATE, Phase.WRITE], ids=lambda phase: phase.name)
@pytest.mark.parametrize("update", [1, 3, 4, 5, 8, UPDATES])
def test_kill_between_any_two_phases_is_repaired_by_resuming(
    update: int, phase: Phase, uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        train(tmp_path, [KillAt(update, phase)])
    train(tmp_path)
    assert differences(uninterrupted(), tmp_path) == []


def test_kill_during_an_evaluation_repeats_it(uninterrupted: Callable[..., Path], tmp_path: Path) -> None:
    batches = iter(range(100))

    def kill_in_second_evaluation() -> None:
        if next(batches) == 8:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path, on_eval_batch=kill_in_second_evaluation)
    assert [row["iteration"] for row in rows(tmp_path) if "eval" in row] == [PER_EPOCH]
    train(tmp_path)
    assert differences(uninterrupted(), tmp_path) == []


def test_sigterm_during_an_evaluation_ends_it_and_the_resumed_run_repeats_it(
    uninterrupted: Callable[..., Path], tmp_path: Path
) -> None:
    seen: list[int] = []

    def terminate() -> None:
        seen.append(1)
        if len(seen) == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = train(tmp_path, on_eval_batch=terminate)
    assert (stopped.status, stopped.updates, len(seen)) == (SIGTERM_STATUS, 2 * PER_EPOCH, 8)
    train(tmp_path)
    assert differences(uninterrupted(), tmp_path) == []


class TermWhileLeaving(TermAt):
    """Sends SIGTERM once more when the run is about to write its last checkpoint."""

    def after_train(self, storage: EventStorage) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_signal_that_is_repeated_does_not_cut_off_the_last_checkpoint(tmp_path: Path) -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    try:
        train(tmp_path, [TermWhileLeaving(5)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [], "the handler of the run was gone while it was still saving"


def test_metrics_of_the_lost_updates_are_cut_off(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path, [KillAt(8, Phase.UPDATE)])
    assert [row["iteration"] for row in rows(tmp_path)] == [1, 2, 4, 4, 6], "rows after the checkpoint of update 6 are there"
    with open(tmp_path / "metrics.json", "a") as handle:
        handle.write('{"iteration": 8, "half of a li')
    train(tmp_path, [TermAt(7)])
    assert [row["iteration"] for row in rows(tmp_path)] == [1, 2, 4, 4, 6]


# -------------------------------------------------------------------------------------------------------- position


def test_position_is_reached_without_reading_data(tmp_path: Path) -> None:
    dataset = ToyDataset()
    start = time.perf_counter()
    windows = iter(make_loader(toy_cfg(tmp_path), dataset, start_iter=10_000_001))
    assert dataset.reads == []
    next(windows)
    assert len(dataset.reads) == BATCH
    assert time.perf_counter() - start < 1.0


def test_resumed_run_reads_only_what_it_trains_on(uninterrupted: Callable[..., Path], tmp_path: Path) -> None:
    options = {"SOLVER__SCHEDULER__TOTAL_EPOCHS": None, "SOLVER__SCHEDULER__TOTAL_ITERS": 10_000_002, "EVAL__ENABLED": False}
    train(tmp_path, [TermAt(2)], **options)
    edit(tmp_path / "model_latest.pth", lambda content: content["scheduler"].update(iteration=10_000_001))
    start = time.perf_counter()
    resumed = train(tmp_path, **options)
    assert (resumed.status, resumed.updates, len(resumed.dataset.reads)) == (0, 2, 2 * BATCH)
    assert time.perf_counter() - start < 5.0


def test_finished_run_says_so_and_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.glob("*") if path.is_file()}
    with caplog.at_level("INFO", "pet"):
        again = train(tmp_path)
    assert (again.status, again.dataset.reads) == (-1, [])
    assert "This run is finished" in caplog.text
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.glob("*") if path.is_file()}


def test_longer_schedule_continues_a_finished_run(tmp_path: Path) -> None:
    train(tmp_path)
    assert train(tmp_path, SOLVER__SCHEDULER__TOTAL_EPOCHS=4).updates == PER_EPOCH


def test_changed_schedule_is_reported_and_wins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, [TermAt(5)])
    with caplog.at_level("INFO", "pet"):
        resumed = train(tmp_path, SOLVER__SCHEDULER__TOTAL_EPOCHS=4, SOLVER__OPTIMIZER__BASE_LR=0.01)
    assert "SOLVER.SCHEDULER.TOTAL_EPOCHS: 3 -> 4" in caplog.text
    assert "SOLVER.OPTIMIZER.BASE_LR: 0.05 -> 0.01" in caplog.text
    assert resumed.updates == 4 * PER_EPOCH - 5


def test_weights_that_a_resumed_run_does_not_load_are_said_to_be_unused(caplog: pytest.LogCaptureFixture) -> None:
    cfg = get_base_cfg()
    cfg.merge_from_list(["SOLVER.SCHEDULER.TOTAL_EPOCHS", 2])
    then = cfg.dump_resolved()
    cfg.merge_from_list(["TRAIN.WEIGHTS", "other.pth"], where="--load-from")
    with caplog.at_level(logging.INFO):
        report_config_changes(cfg, then)
    assert "TRAIN.WEIGHTS: '' -> 'other.pth' (NOT used" in caplog.text


def test_another_stream_of_samples_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, [TermAt(5)])
    train(tmp_path, [TermAt(6)], TRAIN__BATCH_SIZE=BATCH // 2)
    assert f"batch_size {BATCH} -> {BATCH // 2}" in caplog.text
    assert "samples of the running epoch may be repeated or left out" in caplog.text


def test_resume_from_an_older_file_repeats_from_there(uninterrupted: Callable[..., Path], tmp_path: Path) -> None:
    train(tmp_path, SOLVER__SNAPSHOT_KEEP=0)
    old = tmp_path / f"model_iter{PER_EPOCH}.pth"
    before = file_digest(old)
    digest_path(old).unlink()
    resumed = train(tmp_path, TRAIN__RESUME_FROM=str(old), SOLVER__SNAPSHOT_KEEP=0)
    assert resumed.updates == UPDATES - PER_EPOCH
    assert differences(uninterrupted(), tmp_path) == []
    assert file_digest(old) == before


def test_best_of_a_replayed_evaluation_is_the_file_that_was_resumed(tmp_path: Path) -> None:
    train(tmp_path, SOLVER__SNAPSHOT_KEEP=0)
    old = tmp_path / f"model_iter{PER_EPOCH}.pth"
    with pytest.raises(Killed):
        train(tmp_path, [KillAt(PER_EPOCH + 1, Phase.UPDATE)], TRAIN__RESUME_FROM=str(old))
    assert file_digest(tmp_path / "model_best.pth") == file_digest(old)


# ------------------------------------------------------------------------------------------------ nothing is guessed


@pytest.mark.parametrize(
    "part", ["format", "model", "optimizer", "scheduler", "scaler", "ema", "sampler", "rng", "hooks", "storage", "meta"]
)
def test_checkpoint_without_one_of_its_parts_is_refused_by_name(part: str, tmp_path: Path) -> None:
    train(tmp_path, [TermAt(2)])
    edit(tmp_path / "model_latest.pth", lambda content: content.pop(part))
    with pytest.raises(KeyError, match=rf"model_iter2\.pth.*no .*{part}"):
        train(tmp_path)


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        (("model", "fc.bias"), ValueError, "another architecture.*fc.bias"),
        (("ema", "weights", "fc.bias"), ValueError, "averages do not fit.*fc.bias"),
        (("hooks", "Best"), KeyError, "no state for.*Best"),
        (("rng", 0, "numpy"), KeyError, "random.*numpy"),
        (("rng", 0, "torch"), KeyError, "random.*torch"),
        (("scheduler", "iteration"), KeyError, "scheduler.*iteration"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_checkpoint_without_a_piece_of_a_part_is_refused_by_name(
    path: tuple[Any, ...], error: type[Exception], text: str, tmp_path: Path
) -> None:
    def remove(content: Any) -> None:
        for name in path[:-1]:
            content = content[name]
        del content[path[-1]]

    train(tmp_path, [TermAt(2)])
    edit(tmp_path / "model_latest.pth", remove)
    with pytest.raises(error, match=text):
        train(tmp_path)


def test_state_of_a_hook_that_does_not_run_is_refused(tmp_path: Path) -> None:
    train(tmp_path, [TermAt(2)])
    edit(tmp_path / "model_latest.pth", lambda content: content["hooks"].update(Ghost={"count": 1}))
    with pytest.raises(KeyError, match="no hook for.*Ghost"):
        train(tmp_path)


def test_part_that_nobody_restores_is_refused(tmp_path: Path) -> None:
    train(tmp_path, [TermAt(2)])
    edit(tmp_path / "model_latest.pth", lambda content: content.update(discriminator={"weight": torch.zeros(1)}))
    with pytest.raises(KeyError, match="no part for.*discriminator"):
        train(tmp_path)


@pytest.mark.parametrize(
    ("typed", "continues"),
    [
        ("python train.py --cfg x.yaml", "python train.py --cfg x.yaml --resume"),
        ("python train.py --cfg x.yaml --resume", "python train.py --cfg x.yaml --resume"),
        ("python train.py --resume old.pth --cfg x.yaml MISC.SEED 3", "python train.py --cfg x.yaml MISC.SEED 3 --resume"),
        ("python train.py --cfg x.yaml --resume MISC.SEED 3", "python train.py --cfg x.yaml MISC.SEED 3 --resume"),
        ("python train.py --cfg 'a b.yaml' --resume=old.pth", "python train.py --cfg 'a b.yaml' --resume"),
    ],
)
def test_command_that_continues_starts_from_the_newest_checkpoint(
    typed: str, continues: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PET_COMMAND", typed)
    assert setup.resume_hint() == f"Continue with: {continues}"
