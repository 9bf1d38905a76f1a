"""MXNet: devices, the step, the optimizer, scoring, the fused nets, inference and several workers."""
from support import runtime

runtime.prepare()  # before anything here imports MXNet
