"""Parameters, FLOPs and activations of a model."""

from pet.analyser.analyser import Analyser, RCNNAnalyser
from pet.analyser.counter import OperatorCounter

__all__ = ["Analyser", "OperatorCounter", "RCNNAnalyser"]
