"""Arrays are looked at before MXNet gets them: one of another rank or size makes it write beyond its memory."""
from typing import NamedTuple, Optional

from mxnet.gluon import HybridBlock
from mxnet.ndarray import NDArray

from support.errors import InputError


class Takes(NamedTuple):
    """Which arrays a block takes: (N, channels, side, side), or (N, channels, H, W) if side is None.

    net : the block is a whole net, whose H and W are equal and multiples of `multiple`; else it is a part of one.
    """

    channels: int = 3
    side: Optional[int] = None
    multiple: int = 1
    net: bool = True

    def check(self, x):
        """Raise InputError if x is an NDArray that does not fit. A Symbol has no shape and passes."""
        if not isinstance(x, NDArray):
            return
        shape = x.shape
        if len(shape) != 4 or shape[1] != self.channels or 0 in shape or (self.net and shape[2] != shape[3]):
            raise InputError(f"{self._block} takes arrays (N, {self.channels}, {'S, S' if self.net else 'H, W'}), got "
                             f"one of shape {shape}{self._batch_missing(shape)}")
        if self.side is not None and shape[2:] != (self.side, self.side):
            raise InputError(f"{self._block} was built for {self.side} x {self.side}{self._cure(shape[2])} (got an "
                             f"array of shape {shape})")
        if shape[2] % self.multiple and self.side is None:
            raise InputError(f"{self._block} takes images whose side is a multiple of {self.multiple}, got an array of "
                             f"shape {shape}; resize the images")

    @property
    def _block(self):
        return "this net" if self.net else "this part of a net"

    def _batch_missing(self, shape):
        return "; x.expand_dims(0) makes one image a batch" if len(shape) == 3 and shape[0] == self.channels else ""

    def _cure(self, side):
        if not self.net:
            return ""
        return "; resize the images" if side % self.multiple else f"; get_model(..., input_size={side})"


def check(net, x):
    """Raise InputError if x does not fit what net takes; a net that is not ours may take anything."""
    takes = getattr(net, "takes", None)
    if takes is not None:
        takes.check(x)


def images_of(net, input_size, sizes, multiple=1):
    """What a host takes: images of input_size if one of its layers is `of_one_size`, else any multiple of `multiple`.

    sizes : of what input_size has to be a multiple.
    """
    parts = []
    net.apply(parts.append)
    if any(getattr(part, "of_one_size", False) for part in parts):
        return Takes(side=input_size, multiple=sizes)
    return Takes(multiple=multiple)


class Checked(HybridBlock):
    """A HybridBlock that checks its input in every call, imperative or hybridized, if it has set `takes`."""

    takes = None

    def forward(self, x, *args):
        check(self, x)
        return super().forward(x, *args)
