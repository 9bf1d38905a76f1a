"""Checks arrays before MXNet gets them: an array of a wrong rank or size makes it write beyond its memory."""
from typing import NamedTuple, Optional

from mxnet.gluon import HybridBlock
from mxnet.ndarray import NDArray
from mxnet.symbol import Symbol

from support.errors import InputError


class Takes(NamedTuple):
    """Which arrays (N, channels, H, W) a block takes: H = W = side or, if side is None, multiples of `multiple`.

    block : the block's name in sentences; "net" for a net of get_model.
    """

    channels: int = 3
    side: Optional[int] = None
    multiple: int = 1
    block: str = "net"

    def check(self, x):
        """Raise InputError if x does not fit. A Symbol has no shape and passes."""
        if isinstance(x, Symbol):
            return
        if not isinstance(x, NDArray):
            raise InputError(f"this {self.block} takes an MXNet array, got a {type(x).__name__}; mx.nd.array makes one")
        shape = x.shape
        if len(shape) != 4 or shape[1] != self.channels or 0 in shape:
            axes = "H, W" if self.side is None else "S, S"
            one_image = len(shape) == 3 and shape[0] == self.channels
            raise InputError(f"this {self.block} takes arrays (N, {self.channels}, {axes}), got one of shape {shape}"
                             f"{'; x.expand_dims(0) makes one image a batch' if one_image else ''}")
        if self.side is not None and shape[2:] != (self.side, self.side):
            raise InputError(f"this {self.block} was built for {self.side} x {self.side}{self._cure(*shape[2:])} (got "
                             f"an array of shape {shape})")
        if self.side is None and (shape[2] % self.multiple or shape[3] % self.multiple):
            raise InputError(f"this {self.block} takes images whose sides are multiples of {self.multiple}, got an "
                             f"array of shape {shape}; resize the images")

    def _cure(self, height, width):
        if self.block != "net":
            return ""
        possible = height == width and height % self.multiple == 0
        return f"; get_model(..., input_size={height})" if possible else "; resize the images"


def check(net, x):
    """Raise InputError if net does not take x; a net that is not ours takes anything."""
    takes = getattr(net, "takes", None)
    if takes is not None:
        takes.check(x)


def images_of(net, input_size, sizes, multiple=1):
    """The Takes of a host: images of input_size if one of its layers is `of_one_size`, else any multiple of `multiple`.

    sizes : the number that must divide input_size.
    """
    parts = []
    net.apply(parts.append)
    if any(getattr(part, "of_one_size", False) for part in parts):
        return Takes(side=input_size, multiple=sizes)
    return Takes(multiple=multiple)


class Checked(HybridBlock):
    """A HybridBlock that checks its input in every call, imperative or hybridized, if `takes` is set."""

    takes = None

    def forward(self, x, *args):
        check(self, x)
        return super().forward(x, *args)
