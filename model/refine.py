"""The paper's competitors that are not activations: NiN goes deeper, the others refine the residual branch.

NiN is built as ``NiN(channels)`` and stands at activation sites. A refinement is built as
``refinement(channels, size=side of its square map)`` and stands after a block's second convolution, before the
addition; only gather-excite looks at the size.
"""
from numbers import Integral

from mxnet.gluon import nn

from support.errors import InputError

from .activation import ATAC, Gated, pointwise, reduced, whole


class NiN(nn.HybridSequential):
    """ReLU, 1x1 C->C/r, BN, ReLU, 1x1 C/r->C, BN, ReLU: the NiN-style block of Figure 4.

    The figure is lost; this reading has exactly ATAC's parameters and multiply-adds. ``layers=1`` is the other
    reading: ReLU, 1x1 C->C, BN, ReLU (docs/FIDELITY.md), which has no reduction.
    """

    def __init__(self, channels, reduction=2, layers=2, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(layers, Integral) or isinstance(layers, bool) or layers not in (1, 2):
            raise InputError(f"layers must be 1 or 2 (1x1 convolutions in the NiN block), got {layers!r}")
        if layers == 1 and reduction != 2:
            raise InputError("the NiN block of one layer has no reduction; leave it out")
        widths = [reduced(channels, reduction), channels] if layers == 2 else [whole("channels", channels)]
        with self.name_scope():
            self.add(nn.Activation("relu"))
            for before, width in zip([channels] + widths, widths):
                self.add(pointwise(width, before), nn.BatchNorm(in_channels=width), nn.Activation("relu"))


class LocalSE(ATAC):
    """1x1 C->C/r, BN, ReLU, 1x1 C/r->C, BN, sigmoid, times the input: ATAC's module as refinement (Figure 5).

    r = 1 gives one module a block as many parameters as ATAC's two.
    """

    def __init__(self, channels, size=None, reduction=1, **kwargs):
        super().__init__(channels, reduction, **kwargs)


def excitation(channels, reduction):
    """1x1 C->C/r, ReLU, 1x1 r/C->C, both with bias: the two layers that SE and GE-theta-plus share."""
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
    """Depthwise H x W to one number a channel, BN, sigmoid, times the input [Hu et al. 2018b]."""

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
