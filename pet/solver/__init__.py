"""Optimizer, learning-rate schedule and weight averaging."""

from pet.solver.ema import ModelEMA, build_ema
from pet.solver.lr_scheduler import LearningRateScheduler
from pet.solver.optimizer import Optimizer

__all__ = ["LearningRateScheduler", "ModelEMA", "Optimizer", "build_ema"]
