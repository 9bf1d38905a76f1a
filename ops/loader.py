"""Load the compiled operators into MXNet."""
import os
import sys

import mxnet as mx
from mxnet import autograd, gluon

from . import SUM_CAP
from .build import library, sound

_loaded = None
_sums_are_right = None


class Unavailable(Exception):
    """The operators cannot be used here; the message is a clause that says why."""


def load(path=None):
    """Load the library (once), so that mx.nd and mx.sym have the operators. Raises Unavailable.

    path : a library in place of the one built for this machine.
    """
    global _loaded
    if _loaded is not None:
        return
    path = str(path or library())
    if not os.path.exists(path):
        raise Unavailable("the fused operators are not built for this machine (`bash scripts/setup.sh` does it)")
    if not sound(path):
        raise Unavailable(f"{path} is damaged; build it again: `bash scripts/setup.sh`")
    try:
        mx.library.load(path, verbose=False)
    except Exception as error:  # MXNetError, OSError: a damaged library may raise anything
        reason = str(error).strip().splitlines()[-1]
        raise Unavailable(f"{path} cannot be loaded ({reason}); build it again: "
                          f"`{sys.executable} -m ops.build --again`") from error
    _loaded = path


class _Readers(gluon.HybridBlock):
    """The sum of nine fused units of one array."""

    def hybrid_forward(self, F, x):
        x = F.identity(x)
        return F.add_n(*(F.atac_unit(x, unit="identity") for _ in range(9)))


def require_sums_of_gradients():
    """Raise Unavailable if MXNet would lose gradients of an array with many readers; tried out once."""
    global _sums_are_right
    if _sums_are_right is None:
        net, x = _Readers(), mx.nd.ones((1, 1, 1, 1))
        net.hybridize(static_alloc=True)
        x.attach_grad()
        with autograd.record():
            y = net(x)
        y.backward()
        _sums_are_right = x.grad.asscalar() == 9
    if not _sums_are_right:
        raise Unavailable(f"this process computed gradients before it imported the operators; import model first, or "
                          f"set {SUM_CAP}=1000000 in the environment")


def available():
    """(whether the operators can be used, a clause that says so)."""
    try:
        load()
    except Unavailable as error:
        return False, str(error)
    return True, f"fused operators of {os.path.basename(_loaded)}"
