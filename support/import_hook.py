"""Prepares the process as MXNet is loaded, not when somebody only looks whether it is there.

The packages that import MXNet call install(). In the project's .venv a bare `import mxnet` works too: the .pth file
that scripts/setup.sh leaves there has every Python that starts ask find_spec() where MXNet is, once it is asked for.
"""
import sys
from importlib.machinery import ModuleSpec, PathFinder

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


class Finder:
    """Finds MXNet, and one that is not installed too: loading that raises prepare()'s sentence about it."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "mxnet":
            return None
        return find_spec(name, path, target) or ModuleSpec(name, Finder)

    @staticmethod
    def create_module(spec):
        return None

    exec_module = staticmethod(prepared(lambda module: None))


def install():
    """Have whoever imports MXNet in this process find it prepared; once is enough."""
    if Finder not in sys.meta_path and "mxnet" not in sys.modules:
        sys.meta_path.insert(0, Finder)
