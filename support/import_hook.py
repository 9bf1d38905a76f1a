"""Prepares the process when MXNet is loaded, not when a program only looks for it.

The packages that import MXNet call install(). In the project's .venv a bare `import mxnet` works too: scripts/setup.sh
puts a .pth file there, and through it every Python asks find_spec() for MXNet.
"""
import sys
from importlib.machinery import ModuleSpec, PathFinder

from . import runtime
from .errors import InputError


def find_spec(name, path=None, target=None):
    """MXNet as Python finds it, with a loader that prepares the process first."""
    spec = PathFinder.find_spec(name, path, target)
    if spec is not None and hasattr(spec.loader, "exec_module"):
        spec.loader.exec_module = prepared(spec.loader.exec_module)
    return spec


def prepared(exec_module):
    """exec_module after prepare(), whose InputError becomes an ImportError, as an import may raise."""

    def exec_prepared(module):
        try:
            runtime.prepare()
        except InputError as fault:
            raise ImportError(str(fault)) from None
        exec_module(module)

    return exec_prepared


class Finder:
    """Finds MXNet. If MXNet is not installed, loading it raises prepare()'s message about that."""

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
    """Prepare the process at the next import of MXNet; one call is enough."""
    if Finder not in sys.meta_path and "mxnet" not in sys.modules:
        sys.meta_path.insert(0, Finder)
