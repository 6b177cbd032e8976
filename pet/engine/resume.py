"""What a resumed run tells about the differences to the run it continues."""

from __future__ import annotations

from typing import Any

from pet.config import CfgNode
from pet.config.loader import load_text
from pet.utils.logger import LOGGER, logging_rank

# What only the start of a run reads.
_START_ONLY = ("TRAIN.WEIGHTS", "TRAIN.ALLOW_MISMATCH", "MODEL.PRETRAINED", "MISC.CONV1_RGB2BGR")


class DataPosition:
    """The part of a checkpoint that says how the stream of samples was made; its position is the update itself.

    Args:
        loader: has ``batch_size``, ``iter_per_epoch`` and ``dataset``.
        seed: of the order.
    """

    def __init__(self, loader: Any, seed: int) -> None:
        self._now = {
            "seed": seed,
            "batch_size": int(loader.batch_size),
            "num_samples": len(loader.dataset),
            "iter_per_epoch": int(loader.iter_per_epoch),
        }

    def state_dict(self) -> dict[str, int]:
        """Seed, batch size, number of samples and updates of an epoch."""
        return dict(self._now)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Say what differs: then the stream continues at the same update, with other samples than it would have had."""
        changed = [f"{name} {state.get(name)} -> {now}" for name, now in self._now.items() if state.get(name) != now]
        if changed:
            LOGGER.warning(
                f"The stream of samples is not the one of the checkpoint: {', '.join(changed)}. The counter of updates goes on; "
                "samples of the running epoch may be repeated or left out"
            )


def report_config_changes(cfg: CfgNode, then: str) -> None:
    """Log every key that differs from the config text in the checkpoint; the present values are used."""
    before, now = (_flatten(load_text(text, "the config in the checkpoint").data) for text in (then, cfg.dump_resolved()))
    changed = [
        (key, before.get(key), now.get(key)) for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)
    ]
    if changed:
        rows = "\n".join(f"  {key}: {old!r} -> {new!r} ({_effect(key)}; {cfg_origin(cfg, key)})" for key, old, new in changed)
        logging_rank(f"The config differs from the one of the checkpoint:\n{rows}")


def _effect(key: str) -> str:
    if key in _START_ONLY:
        return "NOT used: the weights are those of the checkpoint; to start afresh choose another --work-dir"
    return "effective from now on"


def cfg_origin(cfg: CfgNode, key: str) -> str:
    """Where a key was set; keys inside a map have the origin of the map."""
    while key:
        try:
            return cfg.origin(key)
        except ValueError:
            key = key.rpartition(".")[0]
    return "unknown"


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    flat: dict[str, Any] = {}
    for name, value in node.items():
        flat.update(_flatten(value, f"{prefix}.{name}" if prefix else str(name)))
    return flat
