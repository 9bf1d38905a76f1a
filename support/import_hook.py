"""Makes a bare `import mxnet` work in the project's .venv.

The .pth file that scripts/setup.sh leaves there has every Python that starts ask this module where MXNet is, once it
is asked for; all else it finds as ever. The process is prepared when MXNet is loaded, not when somebody only looks
whether it is there.
"""
from importlib.machinery import PathFinder

from . import runtime
from .errors import InputError


def find_spec(name, path=None, target=None):
    """MXNet as Python itself finds it, with a loader that prepares the process first."""
    spec = PathFinder.find_spec(name, path, target)
    if spec is not None and hasattr(spec.loader, "exec_module"):
        spec.loader.exec_module = prepared(spec.loader.exec_module)
    return spec


def prepared(exec_module):
    """The same after prepare(), whose sentence becomes an ImportError: what an import may raise."""

    def exec_prepared(module):
        try:
            runtime.prepare()
        except InputError as fault:
            raise ImportError(str(fault)) from None
        exec_module(module)

    return exec_prepared
