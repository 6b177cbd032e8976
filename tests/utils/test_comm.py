from __future__ import annotations

import pytest
import torch
from torch import nn

from pet.utils import comm
from tests.helpers import run_ranks


def test_one_process_needs_no_group():
    assert comm.gather(3) == comm.all_gather(3) == [3]
    assert comm.broadcast("x") == "x"
    assert comm.agree_max(2) == 2
    assert (comm.get_rank(), comm.get_world_size(), comm.is_main_process()) == (0, 1, True)
    comm.synchronize()


def _collectives(rank: int) -> tuple[object, ...]:
    layer = nn.BatchNorm1d(2)
    layer.running_mean.fill_(float(rank))
    mean = torch.tensor([float(rank), 4.0])
    comm.broadcast_buffers(layer)
    comm.average_tensors([mean])
    return (
        comm.gather(rank),
        comm.all_gather(rank * 10),
        comm.broadcast(f"from {rank}"),
        comm.agree_max(rank),
        layer.running_mean.tolist(),
        mean.tolist(),
    )


@pytest.mark.distributed
def test_two_ranks_exchange():
    first, second = run_ranks(2, _collectives)
    assert (first[0], second[0]) == ([0, 1], [])
    assert first[1:] == second[1:] == ([0, 10], "from 0", 1, [0.0, 0.0], [0.5, 4.0])


def test_wrappers_are_taken_off():
    bare = nn.Linear(1, 1)
    assert comm.unwrap(bare) is bare
    assert comm.unwrap(torch.compile(bare)) is bare  # type: ignore[arg-type]
