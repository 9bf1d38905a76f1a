"""PyTorch: the step, the optimizer and scoring, on the graphs of the Gluon nets."""
from .placement import devices, kind, present, training_type
from .program import prepare, scorer
from .team import join

__all__ = ["devices", "join", "kind", "prepare", "present", "scorer", "training_type"]
