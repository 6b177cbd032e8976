"""Hooks extend the loop; see ``base.Hook`` for the stages and ``build.build_train_hooks`` for what runs by default."""

from pet.engine.hooks.base import Hook, HookList, Phase

__all__ = ["Hook", "HookList", "Phase"]
