"""The paper's competitors that refine the residual branch.

A refinement is built as ``refinement(channels, size=side of its square map)`` and stands after a block's last
convolution, before the addition; only gather-excite uses the size.
"""
from mxnet.gluon import nn

from support.errors import InputError

from .activation import ATAC, Gated, pointwise, reduced, whole


class LocalSE(ATAC):
    """1x1 C->C/r, BN, ReLU, 1x1 C/r->C, BN, sigmoid, times the input: ATAC's module as refinement (Figure 5).

    With r = 1 the one module of a block has as many parameters as ATAC's two.
    """

    def __init__(self, channels, size=None, reduction=1, **kwargs):
        super().__init__(channels, reduction, **kwargs)


def excitation(channels, reduction):
    """1x1 C->C/r, ReLU, 1x1 C/r->C, both with bias: the layers that SE and GE-theta-plus share."""
    inner = reduced(channels, reduction)
    return [pointwise(inner, channels, use_bias=True), nn.Activation("relu"),
            pointwise(channels, inner, use_bias=True)]


class SE(Gated):
    """Global average pool, 1x1 C->C/r, ReLU, 1x1 C/r->C, sigmoid, times the input [Hu et al. 2018]."""

    def __init__(self, channels, size=None, reduction=16, **kwargs):
        super().__init__(**kwargs)
        with self.gate.name_scope():
            self.gate.add(nn.GlobalAvgPool2D(), *excitation(channels, reduction), nn.Activation("sigmoid"))


class GEThetaMinus(Gated):
    """Global average pool, sigmoid, times the input: gather-excite without parameters [Hu et al. 2018b]."""

    def __init__(self, channels, size=None, **kwargs):
        super().__init__(**kwargs)
        whole("channels", channels)
        with self.gate.name_scope():
            self.gate.add(nn.GlobalAvgPool2D(), nn.Activation("sigmoid"))


def global_depthwise(channels, size):
    """Depthwise convolution over the whole size x size map, then BN: the learned gather of GE-theta."""
    whole("channels", channels)
    if size is None:
        raise InputError("gather-excite with parameters needs size, the side of its map")
    return [nn.Conv2D(channels, whole("size", size), groups=channels, use_bias=False, in_channels=channels),
            nn.BatchNorm(in_channels=channels)]


class GETheta(Gated):
    """Depthwise H x W to one number for each channel, BN, sigmoid, times the input [Hu et al. 2018b]."""

    of_one_size = True

    def __init__(self, channels, size=None, **kwargs):
        super().__init__(**kwargs)
        with self.gate.name_scope():
            self.gate.add(*global_depthwise(channels, size), nn.Activation("sigmoid"))


class GEThetaPlus(Gated):
    """Depthwise H x W, BN, 1x1 C->C/r, ReLU, 1x1 C/r->C, sigmoid, times the input [Hu et al. 2018b]."""

    of_one_size = True

    def __init__(self, channels, size=None, reduction=16, **kwargs):
        super().__init__(**kwargs)
        with self.gate.name_scope():
            self.gate.add(*global_depthwise(channels, size), *excitation(channels, reduction),
                          nn.Activation("sigmoid"))
