"""MXNet: devices, the step, the optimizer, scoring, the fused nets, inference and several workers."""
from support import import_hook

import_hook.install()

from .distributed import join
from .placement import devices, kind, present, training_type
from .program import prepare, scorer

__all__ = ["devices", "join", "kind", "prepare", "present", "scorer", "training_type"]
