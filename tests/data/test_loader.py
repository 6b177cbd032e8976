"""Loaders: the same batches whatever the workers, processes and starting point; errors that name the sample."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal

import numpy as np
import pytest
import torch

from pet.data.datasets import MnistDataset, ShapesDataset, VisionDataset
from pet.data.loader import DeadWorkerError, EvalLoader, TrainLoader, default_workers
from pet.data.structures import BadImageError, Sample
from pet.data.transforms import build_transforms
from tests.helpers import run_ranks

SMALL = {"num_images": 50, "image_size": 16}


def jittered() -> list:
    return build_transforms(
        ["random_crop", "random_horizontal_flip", "color_jitter", "cutmix"],
        {"random_crop": {"crop_scales": (16, 16), "padding": 2}, "cutmix": {"num_classes": 10}},
    )


def take(loader: TrainLoader, count: int) -> list[torch.Tensor]:
    """Images, scores and ids of ``count`` updates; micro-batches joined."""
    windows = iter(loader)
    try:
        taken = list(itertools.islice(windows, count))
    finally:
        windows.close()
    assert all(len(w) == loader.accumulate for w in taken)
    batches = [b for w in taken for b in w]
    return [
        torch.cat([b.images for b in batches]),
        torch.cat([b.targets["scores"] for b in batches]),
        torch.cat([b.ids for b in batches]),
    ]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_workers_do_not_change_the_batches(num_workers):
    dataset = ShapesDataset("s", **SMALL)
    options = {"transforms": jittered(), "batch_size": 12, "seed": 3}
    reference = take(TrainLoader(dataset, num_workers=0, **options), 10)
    assert same(take(TrainLoader(dataset, num_workers=num_workers, **options), 10), reference)
    # Across an epoch border, with micro-batches, from the middle.
    late = take(TrainLoader(dataset, num_workers=num_workers, start_iter=4, accumulate=3, **options), 7)
    assert same(late, [part[3 * 12 :] for part in reference])


def ranks_part(rank: int, world_size: int) -> list[np.ndarray]:
    loader = TrainLoader(
        ShapesDataset("s", **SMALL), jittered(), 12, num_workers=1, world_size=world_size, rank=rank, accumulate=2
    )
    return [part.numpy() for part in take(loader, 5)]


@pytest.mark.distributed
def test_two_processes_share_the_batches_of_one():
    whole = ranks_part(0, 1)
    halves = run_ranks(2, ranks_part, 2)
    for one, first, second in zip(whole, *halves, strict=True):
        joined = np.concatenate([first.reshape(5, 6, -1), second.reshape(5, 6, -1)], 1)
        assert np.array_equal(joined.reshape(one.shape), one)


class Counting(ShapesDataset):
    """Counts its reads in this process."""

    reads = 0

    def read(self, index: int) -> Sample:
        Counting.reads += 1
        return super().read(index)


def test_reaching_a_position_reads_no_data():
    loader = TrainLoader(Counting("s", **SMALL), (), 10, num_workers=0, start_iter=1_000_003)
    windows = iter(loader)
    Counting.reads = 0
    next(windows)
    assert Counting.reads == 10
    assert (len(loader), loader.iter_per_epoch, loader.batch_size) == (5, 5, 10)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loaders_leave_the_global_generators_alone(num_workers):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    dataset = ShapesDataset("s", **SMALL)
    take(TrainLoader(dataset, jittered(), 10, num_workers=num_workers), 3)
    list(EvalLoader(dataset, (), 16, num_workers=num_workers))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1], before[2]) == (np.random.get_state()[1].tolist(), random.getstate())


def worker_pids(windows) -> set[int]:
    from pet.data.worker import WorkerProcess

    return {w.pid for w in WorkerProcess.started if w.is_alive()}


def test_workers_live_on_across_epochs():
    windows = iter(TrainLoader(ShapesDataset("s", **SMALL), (), 25, num_workers=2))
    next(windows)
    first = worker_pids(windows)
    for _ in range(9):
        next(windows)
    assert worker_pids(windows) == first
    assert len(first) == 2
    windows.close()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_sees_everything_once_on_any_number_of_processes(num_workers):
    dataset = ShapesDataset("s", is_train=False, **SMALL)
    whole = list(EvalLoader(dataset, (), 8, num_workers=num_workers))
    assert torch.cat([b.ids for b in whole]).tolist() == list(range(50))
    parts = [list(EvalLoader(dataset, (), 8, num_workers=num_workers, world_size=3, rank=r)) for r in range(3)]
    batches = sorted(sum(parts, []), key=lambda b: int(b.ids[0]))
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole, batches, strict=True))


def test_an_empty_share_is_an_empty_pass():
    assert list(EvalLoader(ShapesDataset("s", num_images=4, image_size=16), (), 8, num_workers=2, world_size=2, rank=1)) == []


def test_mnist_files_give_grey_batches(shared_data):
    dataset = MnistDataset("m", shared_data / "classification" / "mnist", is_train=False)
    batch = next(iter(EvalLoader(dataset, build_transforms(["resize"], {"resize": {"scales": 32}}), 64, num_workers=0)))
    assert batch.images.shape == (64, 3, 32, 32)
    assert torch.equal(batch.images[:, 0], batch.images[:, 2])
    assert batch.targets["label"][:5].tolist() == [7, 2, 1, 0, 4]


# --------------------------------------------------------------------------------------------------------- faults


class Faulty(VisionDataset):
    """40 samples; reading the ones in ``bad`` runs ``action``."""

    def __init__(self, bad: set[int], action) -> None:
        super().__init__("faulty", ["a", "b"], None)
        self.bad, self.action = bad, action

    def __len__(self) -> int:
        return 40

    def labels(self) -> np.ndarray:
        return np.zeros(40, np.int64)

    def read(self, index: int) -> Sample:
        if index in self.bad:
            self.action(index)
        return Sample(np.full((4, 4, 3), index, np.uint8), {"label": 0}, index)


def unreadable(index: int) -> None:
    raise BadImageError(f"dir/{index}.jpg", "truncated")


def stop(index: int) -> None:
    raise StopIteration


def type_error(index: int) -> None:
    raise TypeError("wrong thing")


def die(index: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def exhaust(loader, count: int = 8) -> None:
    windows = iter(loader)
    try:
        for _ in range(count):
            next(windows)
    finally:
        windows.close()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_image_stops_the_run_with_path_and_reason(num_workers):
    with pytest.raises(BadImageError, match="cannot read image dir/17.jpg: truncated; repair or remove it, "):
        exhaust(TrainLoader(Faulty({17}, unreadable), (), 5, num_workers=num_workers))


def replaced_run(num_workers: int) -> tuple[list[int], list, int]:
    loader = TrainLoader(Faulty({3, 17}, unreadable), (), 5, num_workers=num_workers, bad_image="replace")
    windows = iter(loader)
    batches = [next(windows)[0] for _ in range(16)]
    windows.close()
    assert all(int(i) == int(b.images[n, 0, 0, 0]) for b in batches for n, i in enumerate(b.ids))
    return torch.cat([b.ids for b in batches]).tolist(), [r for b in batches for r in b.replaced], loader.num_replaced


def test_a_bad_image_is_replaced_by_the_same_one_with_any_number_of_workers(caplog):
    ids, replaced, count = replaced_run(0)
    assert count == len(replaced) == 4  # two bad ones, two epochs
    assert {i for i, _ in replaced} == {3, 17}
    assert not {3, 17} & set(ids)
    assert (ids, replaced, count) == replaced_run(2)
    warnings = [r.message for r in caplog.records if "takes its place" in r.message]
    assert len(warnings) == 4  # each image once a loader
    assert any("dir/17.jpg: truncated" in w for w in warnings)


def test_when_nothing_can_be_read_replacing_gives_up():
    with pytest.raises(BadImageError, match="and neither can 20 drawn instead"):
        exhaust(TrainLoader(Faulty(set(range(40)), unreadable), (), 5, num_workers=0, bad_image="replace"))


def test_evaluation_never_replaces_a_bad_image():
    with pytest.raises(BadImageError, match="dir/17.jpg"):
        list(EvalLoader(Faulty({17}, unreadable), (), 5, num_workers=0))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_stop_iteration_in_a_data_set_does_not_end_the_epoch_silently(num_workers):
    with pytest.raises(RuntimeError, match=r"StopIteration while reading faulty\[17\] \(index 17\)"):
        exhaust(TrainLoader(Faulty({17}, stop), (), 5, num_workers=num_workers))


def test_any_other_error_names_the_sample():
    with pytest.raises(TypeError, match="wrong thing") as caught:
        exhaust(TrainLoader(Faulty({17}, type_error), (), 5, num_workers=2))
    assert "while reading faulty[17] (index 17 of faulty, epoch 0)" in str(caught.value)


@pytest.mark.faults
def test_a_killed_worker_is_reported_with_the_samples_it_may_have_been_reading():
    with pytest.raises(RuntimeError, match="a loader worker died: process .* killed by SIGKILL") as caught:
        exhaust(TrainLoader(Faulty({17}, die), (), 5, num_workers=2))
    message = str(caught.value)
    listed = re.search(r"index in faulty\): ([\d, ]+)", message)
    assert listed is not None
    assert "17" in listed.group(1).replace(" ", "").split(",")
    assert "MiB in /dev/shm" in message
    assert "DATA.LOADER_THREADS 0" in message


@pytest.mark.faults
def test_workers_that_die_again_are_started_anew_only_as_often_as_allowed(caplog):
    with pytest.raises(DeadWorkerError, match="killed by SIGKILL"):
        exhaust(TrainLoader(Faulty({17}, die), (), 5, num_workers=1, restart_workers=1))
    assert caplog.text.count("The workers are started anew (DATA.RESTART_WORKERS, 0 left)") == 1


def unsendable(samples, replaced):
    return lambda: None


@pytest.mark.faults
def test_a_batch_that_cannot_be_sent_ends_the_run_instead_of_being_awaited_for_ever():
    with pytest.raises(DeadWorkerError, match="exit status 1, its error is printed above"):
        exhaust(TrainLoader(Faulty(set(), die), (), 5, num_workers=1, collate=unsendable))


def test_the_default_number_of_workers_shares_the_cores():
    cores = len(os.sched_getaffinity(0))
    assert default_workers(1) == min(4, cores)
    assert default_workers(cores + 1) == 0
