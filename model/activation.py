"""The activation units, which take the place of a ReLU.

Every unit is built as ``unit(channels, ...)`` and maps an array (N, C, H, W) to one of the same shape. In the paper's
view (Section III-A) all of them are gates, X' = G(X) * X (Equation 1): a scalar activation computes G from one number,
an attentional one from the channels around it.
"""
import math
from numbers import Integral, Real

from mxnet import initializer
from mxnet.gluon import HybridBlock, nn

from support.errors import InputError


def whole(name, value, least=1):
    """Return value as an int. Raises InputError unless it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def finite(name, value, least=-math.inf):
    """Return value as a float. Raises InputError unless it is a finite number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < least:
        bound = "" if least == -math.inf else f" of at least {least:g}"
        raise InputError(f"{name} must be a finite number{bound}, got {value!r}")
    return float(value)


def truth(name, value):
    """Return value. Raises InputError unless it is True or False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {value!r}")
    return value


def reduced(channels, reduction):
    """Return C/r. Raises InputError unless r is a whole number of at least 1 that divides C."""
    channels, reduction = whole("channels", channels), whole("reduction", reduction)
    if channels % reduction:
        divisors = ", ".join(str(r) for r in range(1, channels + 1) if channels % r == 0)
        raise InputError(f"reduction={reduction} does not divide channels={channels}; "
                         f"allowed here are {divisors}")
    return channels // reduction


# Scalar activations. They act on each number alone; they take `channels` so that all units have the same constructor.

class ReLU(nn.Activation):
    """max(x, 0) [Nair and Hinton 2010]."""

    def __init__(self, channels, **kwargs):
        super().__init__("relu", **kwargs)


class LeakyReLU(nn.LeakyReLU):
    """x where x > 0, else alpha x; alpha = 0.1 is the paper's example (Section II-A)."""

    def __init__(self, channels, alpha=0.1, **kwargs):
        super().__init__(finite("alpha", alpha, least=0), **kwargs)


class PReLU(HybridBlock):
    """Leaky ReLU with one learned slope for all channels, 0.25 at the start [He et al. 2015].

    MXNet's own PReLU (1.9.1) is not used: in a hybridized net it works in place and multiplies the gradient of the
    slope by the slope.
    """

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.alpha = self.params.get("alpha", shape=(1,), init=initializer.Constant(0.25))

    def hybrid_forward(self, F, x, alpha):
        return F.relu(x) - F.broadcast_mul(F.relu(-x), F.reshape(alpha, (1, 1, 1, 1)))


class ELU(nn.ELU):
    """x where x > 0, else alpha (e^x - 1) [Clevert et al. 2016]."""

    def __init__(self, channels, alpha=1.0, **kwargs):
        super().__init__(finite("alpha", alpha), **kwargs)


class SELU(HybridBlock):
    """1.0507 ELU(x, alpha=1.6733), the self-normalizing ELU [Klambauer et al. 2017].

    MXNet's own SELU (1.9.1) is not used: for x < 0 its gradient is lambda (alpha + y) instead of lambda alpha + y.
    """

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)

    def hybrid_forward(self, F, x):
        return 1.0507009873554805 * F.LeakyReLU(x, act_type="elu", slope=1.6732632423543772)


class GELU(nn.GELU):
    """x Phi(x) with the exact Gaussian distribution function (erf) [Hendrycks and Gimpel 2016]."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)


class Swish(nn.Swish):
    """x sigmoid(beta x) [Ramachandran et al. 2018]; the paper uses beta = 1."""

    def __init__(self, channels, beta=1.0, **kwargs):
        super().__init__(finite("beta", beta), **kwargs)


class Sine(HybridBlock):
    """sin(x), the SIREN unit: the gate sin(x)/x times x [Sitzmann et al. 2020]."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)

    def hybrid_forward(self, F, x):
        return F.sin(x)


# Learned gates.

class Gated(HybridBlock):
    """G(X) * X (Equation 1): subclasses fill `gate`; its output (N, C, H, W) or (N, C, 1, 1) multiplies the input."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.gate = nn.HybridSequential(prefix="gate_")

    def hybrid_forward(self, F, x):
        return F.broadcast_mul(x, self.gate(x))


def pointwise(channels, in_channels, use_bias=False):
    """1x1 convolution from in_channels to channels."""
    return nn.Conv2D(channels, kernel_size=1, use_bias=use_bias, in_channels=in_channels)


class ATAC(Gated):
    """1x1 C->C/r, BN, ReLU, 1x1 C/r->C, BN, sigmoid, times the input (Equations 4 and 5).

    Parameters: reduction r must divide channels. ``inner_relu=False`` leaves out the ReLU, as the authors' code does
    without --useReLU; the paper always has it. The unit adds (2/r) C^2 + (4/r + 4) C numbers; (2/r + 2) C of them are
    BatchNorm's running statistics.
    """

    def __init__(self, channels, reduction=2, inner_relu=True, **kwargs):
        super().__init__(**kwargs)
        inner = reduced(channels, reduction)
        truth("inner_relu", inner_relu)
        with self.gate.name_scope():
            self._pool()
            self.gate.add(pointwise(inner, channels), nn.BatchNorm(in_channels=inner))
            if inner_relu:
                self.gate.add(nn.Activation("relu"))
            self.gate.add(pointwise(channels, inner), nn.BatchNorm(in_channels=channels),
                          nn.Activation("sigmoid"))

    def _pool(self):
        """Add a pool to the gate; ATAC has none: its attention sees each position alone (Table I, point-wise)."""

    @property
    def inner_relu(self):
        """Whether there is a ReLU inside."""
        return any(isinstance(layer, nn.Activation) and layer._act_type == "relu" for layer in self.gate)


class SEActivation(ATAC):
    """Global average pool, 1x1 C->C/r, BN, ReLU, 1x1 C/r->C, BN, sigmoid, times the input (Figure 3).

    ATAC without its locality: one weight for each channel of the whole map. Parameters as in ATAC.
    """

    def _pool(self):
        self.gate.add(nn.GlobalAvgPool2D())


class Gaussian(HybridBlock):
    """exp(-x^2)."""

    def hybrid_forward(self, F, x):
        return F.exp(-F.square(x))


class XUnit(Gated):
    """BN, ReLU, depthwise k x k with bias, BN, exp(-d^2), times the input [Kligvasser et al. 2018].

    The paper names no kernel size; k = 9 is from the xUnit paper (docs/FIDELITY.md).
    """

    def __init__(self, channels, kernel_size=9, **kwargs):
        super().__init__(**kwargs)
        whole("channels", channels)
        if whole("kernel_size", kernel_size) % 2 == 0:
            raise InputError(f"kernel_size must be odd so that the map keeps its size, got {kernel_size}")
        with self.gate.name_scope():
            self.gate.add(nn.BatchNorm(in_channels=channels), nn.Activation("relu"),
                          nn.Conv2D(channels, kernel_size, padding=kernel_size // 2, groups=channels,
                                    in_channels=channels),
                          nn.BatchNorm(in_channels=channels), Gaussian())


class NiN(nn.HybridSequential):
    """ReLU, 1x1 C->C/r, BN, ReLU, 1x1 C/r->C, BN, ReLU: the NiN-style block of Figure 4.

    This project worked without the drawing; this reading has exactly ATAC's parameters and multiply-adds.
    ``layers=1`` is the other reading, without a reduction: ReLU, 1x1 C->C, BN, ReLU (docs/FIDELITY.md).
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
