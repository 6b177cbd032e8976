"""Random numbers: one seed for the process, a pure function for every sample."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

# Streams keep generators apart that share seed and epoch (order of an epoch, augmentation of a sample, ...).
STREAM_ORDER, STREAM_SAMPLE, STREAM_SYNTHETIC = 0, 1, 2


def keyed_generator(seed: int, stream: int, *position: int) -> np.random.Generator:
    """A NumPy generator that is a pure function of its arguments.

    Args:
        seed: the experiment's seed, >= 0.
        stream: one of the ``STREAM_*`` constants.
        position: up to any number of non-negative integers, e.g. ``(epoch, index)``.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, stream, *position))))


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator behind every augmentation of sample ``index`` in ``epoch``.

    It depends on nothing else, so neither workers, processes nor a resume change an augmented sample.
    """
    return keyed_generator(seed, STREAM_SAMPLE, epoch, index)


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed Python, NumPy and torch; ranks get different streams (dropout differs between them)."""
    mixed = int(np.random.SeedSequence((seed, rank)).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


def get_rng_state() -> dict[str, Any]:
    """The state of all global generators of this process as tensors and plain values (safe to load)."""
    version, words, gauss = random.getstate()
    kind, keys, pos, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "kind": str(kind),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "pos": int(pos),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what ``get_rng_state`` returned; a missing part is a ``KeyError``."""
    missing = [name for name in ("python", "numpy", "torch") if name not in state]
    if missing:
        raise KeyError(f"the saved state of the random generators has no {', '.join(missing)}")
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(
        (numpy["kind"], numpy["keys"].numpy().astype(np.uint32), numpy["pos"], numpy["has_gauss"], numpy["cached"])
    )
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
