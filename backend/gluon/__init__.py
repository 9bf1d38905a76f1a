"""MXNet: devices, the step, the optimizer, scoring, the fused nets, inference and several workers."""
from support import import_hook

import_hook.install()
