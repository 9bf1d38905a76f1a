"""MXNet: devices, the step, the optimizer, scoring, the fused nets, inference and several workers."""
from support import runtime

runtime.prepare()  # before anything here imports MXNet

from .distributed import join
from .placement import devices, kind, training_type
from .program import prepare, scorer

__all__ = ["devices", "join", "kind", "prepare", "scorer", "training_type"]
