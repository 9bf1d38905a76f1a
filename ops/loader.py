"""Loading the compiled operators into MXNet."""
import os
import sys

import mxnet as mx

from .build import library, sound

_loaded = None


class Unavailable(Exception):
    """The operators cannot be used here; the message is a clause that says why."""


def load(path=None):
    """Load the library (once), so that mx.nd and mx.sym have the operators. Raises Unavailable.

    path : another library than the one built for this machine.
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
    except Exception as error:  # MXNetError, OSError: whatever a damaged library raises
        reason = str(error).strip().splitlines()[-1]
        raise Unavailable(f"{path} cannot be loaded ({reason}); build it again: "
                          f"`{sys.executable} -m ops.build --again`") from error
    _loaded = path


def available():
    """(whether the operators can be used, a clause that says so)."""
    try:
        load()
    except Unavailable as error:
        return False, str(error)
    return True, f"fused operators of {os.path.basename(_loaded)}"
