"""What NumPy has dropped: exactly those that the installed MXNet and GluonCV ask for, with NumPy's own meanings."""
import ast
import functools
import importlib.util
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path

import mxnet
import numpy
import pytest

from support import numpy_names

ROOT = Path(__file__).resolve().parent.parent
OLD = numpy_names.old_names(numpy)
# They need PyTorch and AutoGluon, which nothing here installs.
UNUSED = ("gluoncv/torch/", "gluoncv/auto/")
# What NumPy 1.23.5 has and some of 1.24 to 2.5.5 lack.
DROPPED = set(re.findall(r"\w+", """
    ALLOW_THREADS AxisError BUFSIZE CLIP ComplexWarning DataSource ERR_CALL ERR_DEFAULT ERR_IGNORE ERR_LOG
    ERR_PRINT ERR_RAISE ERR_WARN FLOATING_POINT_SUPPORT FPE_DIVIDEBYZERO FPE_INVALID FPE_OVERFLOW FPE_UNDERFLOW Inf
    Infinity MAXDIMS MAY_SHARE_BOUNDS MAY_SHARE_EXACT ModuleDeprecationWarning NAN NINF NZERO NaN PINF PZERO RAISE
    RankWarning SHIFT_DIVIDEBYZERO SHIFT_INVALID SHIFT_OVERFLOW SHIFT_UNDERFLOW Tester TooHardError
    UFUNC_BUFSIZE_DEFAULT UFUNC_PYVALS_NAME VisibleDeprecationWarning WRAP add_docstring add_newdoc
    add_newdoc_ufunc alltrue asfarray bool bool8 byte_bounds bytes0 cast cfloat chararray clongfloat
    compare_chararrays compat complex complex_ cumproduct deprecate deprecate_with_doc disp fastCopyAndTranspose
    find_common_type float float_ format_parser fv get_array_wrap geterrobj in1d infty int int0 ipmt irr issctype
    issubclass_ issubsctype kernel_version longcomplex longfloat lookfor mat math maximum_sctype mirr msort nbytes
    nper npv numarray obj2sctype object object0 oldnumeric os pmt ppmt product pv rate recfromcsv recfromtxt round_
    row_stack safe_eval sctype2char sctypes set_numeric_ops set_string_function seterrobj singlecomplex sometrue
    source str str0 string_ sys tracemalloc_domain trapz uint0 unicode unicode_ use_hugepage void0 warnings who
"""))
METHODS = {"itemset", "newbyteorder", "ptp", "tostring"}  # of arrays, dropped by NumPy 2.0 and 2.3
OWN = [name for name in OLD if name in vars(numpy) and not isinstance(vars(numpy)[name], functools.partial)]


def sources():
    """(name, syntax tree) of every file of MXNet and GluonCV that speaks of NumPy."""
    for package in ("mxnet", "gluoncv"):
        folder = Path(importlib.util.find_spec(package).origin).parent
        for path in sorted(folder.rglob("*.py")):
            name, text = f"{package}/{path.relative_to(folder)}", path.read_text(encoding="utf-8", errors="replace")
            if "numpy" in text and not name.startswith(UNUSED):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of backslashes in their docstrings
                    yield name, ast.parse(text)


def asked_for(tree):
    """The names that a file takes from the module numpy itself, by whatever name it has imported it."""
    modules, names = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(alias.asname or "numpy" for alias in node.names
                           if alias.name == "numpy" or alias.name.startswith("numpy.") and not alias.asname)
        elif isinstance(node, ast.ImportFrom) and node.module == "numpy" and not node.level:
            names.update(alias.name for alias in node.names)
    by_name = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            names.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr" \
                and isinstance(node.args[0], ast.Name) and node.args[0].id in modules:
            by_name = True
    if by_name:  # getattr(np, name), where the names are in a list at the file's top
        lists = (node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.List))
        strings = (ast.literal_eval(each) for each in lists)
        names.update(name.split(".")[0] for each in strings for name in each)
    return names


@pytest.fixture(scope="module")
def asked():
    return set().union(*(asked_for(tree) for _, tree in sources()))


def test_the_names_are_exactly_those_that_mxnet_and_gluoncv_ask_for(asked):
    assert {"array", "bool", "mirr", "sometrue", "linalg"} <= asked  # each way of asking was seen
    assert set(OLD) == asked & DROPPED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        missing = {name for name in asked - set(OLD) if not hasattr(numpy, name)}
    assert not missing, f"NumPy {numpy.__version__} lacks these, which are asked for"


def test_a_method_that_arrays_have_lost_is_called_in_one_file_alone_which_loads_without_it():
    called = {(name, node.func.attr) for name, tree in sources() for node in ast.walk(tree)
              if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS}
    assert called == {("mxnet/recordio.py", "tostring")}
    spec = numpy_names.RecordFinder.find_spec("mxnet.recordio", mxnet.__path__)
    recordio = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recordio)
    assert not any("tostring" in function.__code__.co_names for function in (recordio.pack, recordio.pack_img))
    packed = recordio.pack((0, [7.0, 8.0], 1, 0), b"image")
    assert packed.endswith(numpy.array([7, 8], "float32").tobytes() + b"image")
    assert numpy_names.RecordFinder.find_spec("mxnet.image", mxnet.__path__) is None


DATA = numpy.array([[3.0, 0.0, 2.5], [1.0, 7.25, 0.0]])
CALLS = {"alltrue": (DATA, 0), "sometrue": (DATA, 0), "product": (DATA, 1), "round_": (DATA,), "msort": (DATA,),
         "trapz": (DATA, None, 2.0), "in1d": (DATA, [0, 7.25], False, True)}


@pytest.mark.parametrize("name", OWN)
def test_the_meanings_are_those_of_a_numpy_that_still_has_the_name(name):
    own, ours = vars(numpy)[name], OLD[name]
    if name in CALLS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            expected = own(*CALLS[name])
        found = ours(*CALLS[name])
        assert found.dtype == expected.dtype and numpy.array_equal(found, expected)
    elif name in numpy_names.FINANCIAL:
        for function in (own, ours):
            with pytest.raises(RuntimeError, match=f"{name}.*NumPy.* 1.20"):
                function(1, 2, 3)
    elif name == "compat":
        assert issubclass(own.basestring, ours.basestring)
    elif name != "bool" or numpy.__version__ < "2":  # NumPy 2 has a bool of its own
        assert str(own) == str(ours)


def test_a_name_that_numpy_has_keeps_its_meaning_and_the_others_are_given_back():
    module = types.ModuleType("numpy")
    vars(module).update({name: value for name, value in vars(numpy).items() if name not in OLD})
    module.bool, module.trapezoid = numpy.bool_, numpy.sum  # as a NumPy 2
    numpy_names.restore(module)
    assert module.bool is numpy.bool_ and module.float is float and module.in1d([[1, 2]], [2]).tolist() == [False, True]
    assert set(OLD) <= set(vars(module))


def test_numpy_elsewhere_in_the_process_is_as_it_was():
    code = """
import numpy
before = dict(vars(numpy))
from support import runtime
runtime.prepare()
import numpy as np
from support import numpy_names
print(sorted(set(vars(np)) - set(before) - set(numpy_names.old_names(np))))
assert all(vars(np)[name] is value for name, value in before.items())
from numpy import *
assert float is type(0.5) and int is type(1), "the star brings the old names"
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
