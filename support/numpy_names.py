"""Restores names that MXNet 1.9.1 and GluonCV 0.10.5 use and newer NumPys have removed, with their old meanings.

NumPy 1.24 removed the first of them, NumPy 2.0 most, NumPy 2.4 the last. NumPy 2.3 removed array.tostring(). A method
cannot be restored, so the one file of MXNet that calls it is changed as it loads. tests/test_numpy_names.py compares
all this with the installed sources of both packages.
"""
import functools
import sys
import types
from importlib.machinery import PathFinder, SourceFileLoader

PLAIN = {"bool": bool, "int": int, "float": float}
NUMBERS = {"NAN": float("nan"), "NaN": float("nan"), "Inf": float("inf"), "PINF": float("inf"), "NINF": -float("inf"),
           "PZERO": 0.0, "NZERO": -0.0}
RENAMED = {"alltrue": "all", "sometrue": "any", "product": "prod", "round_": "round", "trapz": "trapezoid"}
FINANCIAL = ("mirr", "npv", "pmt", "ppmt", "pv", "rate")  # without a meaning since NumPy 1.20; MXNet only lists them


def restore(numpy):
    """Give the module numpy the names that it lacks. A name that NumPy has keeps NumPy's meaning."""
    for name, meaning in old_names(numpy).items():
        if name not in vars(numpy):  # hasattr would warn
            setattr(numpy, name, meaning)
    if not hasattr(numpy.ndarray, "tostring") and RecordFinder not in sys.meta_path:
        sys.meta_path.insert(0, RecordFinder)


def old_names(numpy):
    """{name: its meaning in NumPy 1.23}; functions are the installed NumPy's."""
    # Each name has its own function, because MXNet keeps a table by function, in which np.any is not np.sometrue.
    found = {name: functools.partial(getattr(numpy, today if hasattr(numpy, today) else name))
             for name, today in RENAMED.items()}
    found.update(PLAIN)
    found.update(NUMBERS)
    found.update({name: functools.partial(_refuse, name) for name in FINANCIAL})
    found["msort"] = functools.partial(numpy.sort, axis=0)
    found["in1d"] = functools.partial(_in1d, numpy)
    found["compat"] = types.SimpleNamespace(basestring=str)
    return found


def _in1d(numpy, ar1, ar2, assume_unique=False, invert=False):
    return numpy.isin(numpy.ravel(ar1), ar2, assume_unique, invert)


def _refuse(name, *arguments, **named):
    raise RuntimeError(f"numpy.{name} was removed in NumPy 1.20; the library numpy-financial has it")


class RecordFinder:
    """Finds mxnet.recordio as Python does, and loads it with the method's newer name."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        spec = PathFinder.find_spec(name, path, target) if name == "mxnet.recordio" else None
        if spec is not None:
            spec.loader = _RecordLoader(name, spec.origin)
        return spec


class _RecordLoader(SourceFileLoader):
    def get_code(self, fullname):
        return self.source_to_code(self.get_data(self.path).replace(b".tostring()", b".tobytes()"), self.path)
