"""Fused operators in C++ for MXNet on CPUs: what stands between two reads of memory is computed in one go.

A BatchNorm, the activation unit behind it and the convolution behind that are one operator, forward and backward,
and the activations of the CIFAR nets stay in blocks of 16 channels from the first layer to the last. In inference such
a net is one operator. The library is
compiled on the machine that runs it (`python -m ops.build`, which scripts/setup.sh calls); without it the Gluon
composition of the same layers runs. ops/src/operators.cc lists the operators.
"""
