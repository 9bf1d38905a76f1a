"""Names that MXNet 1.9.1 and GluonCV 0.10.5 take from NumPy and newer NumPys have dropped, with their old meanings.

NumPy 1.24 dropped the first of them, NumPy 2.0 most, NumPy 2.4 the last. tests/test_numpy_names.py compares the list
with the installed sources of both packages.
"""
import functools
import types

PLAIN = {"bool": bool, "int": int, "float": float}
NUMBERS = {"NAN": float("nan"), "NaN": float("nan"), "Inf": float("inf"), "PINF": float("inf"), "NINF": -float("inf"),
           "PZERO": 0.0, "NZERO": -0.0}
RENAMED = {"alltrue": "all", "sometrue": "any", "product": "prod", "round_": "round", "trapz": "trapezoid"}
FINANCIAL = ("mirr", "npv", "pmt", "ppmt", "pv", "rate")  # without a meaning since NumPy 1.20; MXNet only lists them


def restore(numpy):
    """Give the module numpy those of these names that it lacks. A name that NumPy itself has keeps NumPy's meaning."""
    for name, meaning in old_names(numpy).items():
        if name not in vars(numpy):  # hasattr would warn
            setattr(numpy, name, meaning)


def old_names(numpy):
    """{name: what it meant in NumPy 1.23}; functions are NumPy's of today."""
    # A function of its own for each: MXNet keeps a table by function, where np.any is not np.sometrue.
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
