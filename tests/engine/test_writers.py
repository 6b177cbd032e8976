from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from pet.engine.events import EventStorage
from pet.engine.hooks.timer import IterationTimer
from pet.engine.hooks.writer import PeriodicWriter
from pet.engine.writers import ConsoleWriter, JSONWriter, PictureWriter, TensorBoardWriter
from tests.engine.toys import run


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_row_for_the_first_the_last_and_every_period(tmp_path):
    run([IterationTimer(), PeriodicWriter([JSONWriter(tmp_path / "metrics.json")])], updates=10, log_period=4)
    found = rows(tmp_path / "metrics.json")
    assert [row["iteration"] for row in found] == [1, 4, 8, 10]
    assert {"iteration", "epoch", "total_loss", "loss_cls", "data_time", "time"} <= found[0].keys()
    assert found[1]["epoch"] == 1.0


def test_an_epoch_shorter_than_the_period_is_still_logged(tmp_path):
    run([PeriodicWriter([JSONWriter(tmp_path / "m.json")])], updates=3, log_period=100, iter_per_epoch=1)
    assert [row["iteration"] for row in rows(tmp_path / "m.json")] == [1, 3]


def test_the_console_line_names_position_rate_losses_times_and_memory(caplog):
    caplog.set_level(logging.INFO, logger="pet")
    run([IterationTimer(), PeriodicWriter([ConsoleWriter("toy")])], updates=8)
    line = next(r.message for r in caplog.records if r.message.startswith("toy  epoch 2/2  iter 8/8"))
    for part in ("eta 0:00:00", "lr ", "loss ", "acc1 ", "time ", "data_time ", "mem "):
        assert part in line


def test_evaluations_are_rows_of_their_own(tmp_path):
    storage = EventStorage(start_iter=5, iter_per_epoch=5, log_period=20)
    hook = PeriodicWriter([JSONWriter(tmp_path / "m.json")])
    storage.put_evaluation({"val/top1": 50.0})
    hook.after_step(storage)
    hook.after_train(storage)
    assert rows(tmp_path / "m.json") == [{"iteration": 5, "epoch": 1.0, "eval": {"val/top1": 50.0}}]
    storage.step()
    assert storage.evaluations == []


def test_a_resumed_run_cuts_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "m.json"
    writer = JSONWriter(path)
    storage = EventStorage()
    storage.put_scalar("loss", 1.0)
    storage.flush()
    writer.write_scalars(storage)
    state = writer.state_dict()
    writer.write_scalars(storage)
    writer.close()
    resumed = JSONWriter(path, resume=True)
    resumed.load_state_dict(state)
    assert len(rows(path)) == 1
    resumed.write_scalars(storage)
    resumed.close()
    assert len(rows(path)) == 2


def test_a_file_shorter_than_at_the_checkpoint_is_reported(tmp_path, caplog):
    writer = JSONWriter(tmp_path / "m.json", resume=True)
    writer.load_state_dict({"offset": 100})
    writer.close()
    assert "shorter" in caplog.text


def test_rows_of_another_run_are_cut_between_lines(tmp_path, caplog):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 1}\n{"iteration": 2, "total_loss": 3.25}\n')
    JSONWriter(path, resume=True).load_state_dict({"offset": 25})
    assert path.read_text() == '{"iteration": 1}\n'
    assert "not the file of the checkpoint" in caplog.text


def test_pictures_become_files(tmp_path):
    storage = EventStorage()
    storage.put_image("val/predictions", np.zeros((4, 5, 3), np.uint8))
    hook = PeriodicWriter([PictureWriter(tmp_path / "vis")])
    hook.after_step(storage)
    hook.after_train(storage)
    assert (tmp_path / "vis" / "val_predictions.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_of_a_resumed_run_keeps_what_was_there(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, last in ((1, 4), (4, 6)):  # update 4 is made again
        storage, writer = EventStorage(first, max_iter=last), TensorBoardWriter(tmp_path)
        while storage.iteration <= last:
            storage.put_scalar("loss_cls", float(storage.iteration))
            storage.flush()
            writer.write_scalars(storage)
            storage.step()
        writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/loss_cls")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_holds_scalars_evaluations_and_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    storage = EventStorage()
    storage.put_scalar("loss_cls", 2.0)
    storage.flush()
    storage.put_evaluation({"val/top1": 50.0})
    storage.put_image("val/predictions", np.zeros((4, 5, 3), np.uint8))
    writer = TensorBoardWriter(tmp_path)
    writer.write_scalars(storage)
    writer.write_results(storage)
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Scalars("loss/loss_cls")[0].value == 2.0
    assert events.Scalars("eval/val/top1")[0].value == 50.0
    assert events.Tags()["images"] == ["val/predictions"]


def test_a_value_that_is_not_a_number_is_null_so_that_every_json_reader_takes_the_file(tmp_path):
    storage = EventStorage()
    storage.put_evaluation({"val/f1": float("nan")})
    writer = JSONWriter(tmp_path / "m.json")
    writer.write_results(storage)
    writer.close()

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    assert json.loads((tmp_path / "m.json").read_text(), parse_constant=refuse)["eval"] == {"val/f1": None}
