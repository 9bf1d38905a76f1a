"""Fused operators in C++ for MXNet on CPUs: each computes several layers with few passes over memory.

A BatchNorm, the activation unit after it and the convolution after that are one operator, forward and backward. The
activations of the CIFAR nets stay in blocks of 16 channels from the first layer to the last. In inference such a net is
one operator. The library is compiled on the machine that runs it (`python -m ops.build`, which scripts/setup.sh calls);
without it, the same layers run as Gluon's operators. ops/src/operators.cc lists the operators; ops/README.md shows how
they are built.
"""
import os

from support import import_hook

import_hook.install()

# If an array has at least this many readers (default 8), MXNet's operators add to its gradient in place. MXNet does not
# tell external operators to add, so they would overwrite: no array may have so many readers. MXNet reads the number
# when it first computes a gradient.
SUM_CAP = "MXNET_EXEC_INPLACE_GRAD_SUM_CAP"
os.environ[SUM_CAP] = "1000000"
