from __future__ import annotations

import logging

import pytest

from pet.engine.events import EventStorage
from pet.engine.hooks.base import Hook, HookList, Phase
from pet.engine.loop import run_loop
from tests.engine.toys import ToyLoader, run


class Recorder(Hook):
    def __init__(self, log: list[str], name: str = "", phase: Phase = Phase.UPDATE) -> None:
        self.log, self.name, self.phase = log, name, phase

    def before_train(self) -> None:
        self.log.append(f"{self.name}before_train")

    def before_epoch(self, storage: EventStorage) -> None:
        self.log.append(f"{self.name}before_epoch {storage.epoch}")

    def before_step(self, storage: EventStorage) -> None:
        self.log.append(f"{self.name}before_step {storage.iteration}")

    def after_backward(self, storage: EventStorage) -> None:
        self.log.append(f"{self.name}after_backward {storage.iteration}")

    def after_step(self, storage: EventStorage) -> None:
        self.log.append(f"{self.name}after_step {storage.iteration}")

    def after_epoch(self, storage: EventStorage) -> None:
        self.log.append(f"{self.name}after_epoch {storage.epoch}")

    def after_train(self, storage: EventStorage) -> None:
        self.log.append(f"{self.name}after_train {storage.failed}")


def test_stages_run_in_order_by_epoch():
    log: list[str] = []
    run([Recorder(log)], updates=4, iter_per_epoch=2)
    update = [[f"before_step {k}", f"after_backward {k}", f"after_step {k}"] for k in range(1, 5)]
    assert log == [
        "before_train",
        *["before_epoch 1", *update[0], *update[1], "after_epoch 1"],
        *["before_epoch 2", *update[2], *update[3], "after_epoch 2"],
        "after_train False",
    ]


def test_without_epochs_the_epoch_stages_do_not_run():
    log: list[str] = []
    run([Recorder(log)], updates=3, iter_per_epoch=0)
    assert not [entry for entry in log if "epoch" in entry]


def test_an_epoch_may_have_one_update():
    log: list[str] = []
    run([Recorder(log)], updates=3, iter_per_epoch=1)
    assert [entry for entry in log if "_epoch" in entry] == [f"{stage} {k}" for k in (1, 2, 3) for stage in ("before_epoch", "after_epoch")]


def test_table_of_hooks_is_logged_before_the_first_update(caplog):
    class Note(Hook):
        def before_step(self, storage: EventStorage) -> None:
            logging.getLogger("pet").info("an update begins")

    with caplog.at_level(logging.INFO, "pet"):
        run([Note()], updates=1)
    first, second = (record.getMessage() for record in caplog.records[:2])
    assert "before_step     Note (UPDATE)" in first
    assert second == "an update begins"


def test_hooks_run_in_phase_order_and_keep_their_order_inside_a_phase():
    log: list[str] = []
    hooks = [Recorder(log, name, phase) for name, phase in [("w", Phase.WRITE), ("u", Phase.UPDATE), ("t", Phase.TIMING), ("v", Phase.UPDATE)]]
    run(hooks, updates=1)
    assert [entry[0] for entry in log if "after_step" in entry] == ["t", "u", "v", "w"]


def test_a_stop_ends_the_run_at_the_boundary_of_its_update():
    class Stop(Hook):
        def after_step(self, storage: EventStorage) -> None:
            if storage.iteration == 3:
                storage.request_stop("enough")

    storage = run([Stop()], updates=100)
    assert storage.last_update == 3
    assert storage.stop is not None
    assert storage.stop.reason == "enough"


def test_every_hook_is_closed_and_the_first_error_survives_a_failing_close():
    log: list[str] = []

    class Fails(Hook):
        def before_step(self, storage: EventStorage) -> None:
            raise ValueError("the cause")

        def after_train(self, storage: EventStorage) -> None:
            raise OSError("closing failed")

    with pytest.raises(ValueError, match="the cause") as caught:
        run([Fails(), Recorder(log)])
    assert log[-1] == "after_train True"
    assert "closing failed" in caught.value.__notes__[0]
    assert caught.traceback[-1].name == "before_step"


def test_a_failing_close_alone_fails_the_run():
    class Fails(Hook):
        def after_train(self, storage: EventStorage) -> None:
            raise OSError("closing failed")

    with pytest.raises(OSError, match="closing failed"):
        run([Fails()])


def test_an_early_failure_in_before_train_closes_only_what_was_started():
    log: list[str] = []

    class Fails(Hook):
        def before_train(self) -> None:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run([Recorder(log, "a "), Fails(), Recorder(log, "b ")])
    assert log == ["a before_train", "a after_train True"]


def test_the_end_of_a_loader_before_the_horizon_is_an_error():
    class Short(ToyLoader):
        def __iter__(self):
            windows = super().__iter__()
            for _ in range(3):
                yield next(windows)

    with pytest.raises(RuntimeError, match="update 4"), EventStorage(1, max_iter=9) as storage:
        run_loop(lambda window, after_backward, storage: {}, Short(), [], storage)


def test_time_of_hooks_is_measured():
    hooks = HookList([Recorder([])])
    with EventStorage(1, max_iter=2) as storage:
        run_loop(lambda window, after_backward, storage: {}, ToyLoader(), hooks, storage)
    assert hooks.seconds[0] > 0


def test_metrics_of_the_step_reach_the_storage():
    storage = run([], updates=5)
    storage.flush()
    assert {"loss_cls", "acc1", "total_loss", "data_time"} <= storage.latest().keys()
