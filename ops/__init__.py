"""Fused operators in C++ for MXNet on CPUs: what stands between two reads of memory is computed in one go.

A BatchNorm, the activation unit behind it and the convolution behind that are one operator, forward and backward,
and the activations of the CIFAR nets stay in blocks of 16 channels from the first layer to the last. In inference such
a net is one operator. The library is
compiled on the machine that runs it (`python -m ops.build`, which scripts/setup.sh calls); without it the Gluon
composition of the same layers runs. ops/src/operators.cc lists the operators.
"""
import os

from support import import_hook

import_hook.install()

# From this many readers of an array on (8 unless set), MXNet has its operators add to a gradient in place. It does not
# tell external operators to add, and they overwrite: there must be no such array. MXNet reads the number as it first
# differentiates anything.
SUM_CAP = "MXNET_EXEC_INPLACE_GRAD_SUM_CAP"
os.environ[SUM_CAP] = "1000000"
