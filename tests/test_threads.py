"""Numbers of threads in the environment, and switches of Python's, that would break MXNet as it is imported."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import python, threads
from support.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
LOADED = ("from support import runtime; runtime.prepare(); import mxnet, os, sys; sys.modules['torch'] = None; "
          "import gluoncv; "  # beside PyTorch 2 it refuses to load
          "print(os.environ['OMP_NUM_THREADS'], mxnet.nd.array([1, 2]).sum().asscalar())")


@pytest.mark.parametrize("value, number", [
    ("3", "3"), (" 2 ", "2"), ("2,1", "2"), ("4, 3,2", "4"), ("1024", "1024"), ("", ""), ("abc", None), ("1e2", None),
    ("0", None), ("-1", None), ("1025", None), ("99999", None), ("2,", None), ("2,x", None), ("\u0663", None)])
def test_a_number_of_threads_is_read_or_refused(value, number):
    environment = {"OMP_NUM_THREADS": value}
    if number is None:
        with pytest.raises(InputError, match="^OMP_NUM_THREADS='.*' in the environment is not a number of threads: g"):
            threads.check(environment)
    else:
        threads.check(environment)
        assert environment == {"OMP_NUM_THREADS": number}


def test_mxnets_own_numbers_of_threads_are_no_lists():
    threads.check({"MXNET_CPU_WORKER_NTHREADS": "2", "MXNET_OMP_MAX_THREADS": "0", "MXNET_HOME": "abc"})
    for name in ("MXNET_CPU_WORKER_NTHREADS", "MXNET_OMP_MAX_THREADS"):
        with pytest.raises(InputError, match=f"^{name}='2,1' .* from 0 to 1,024, or unset it$"):
            threads.check({name: "2,1"})


def loaded(*switches, **environment):
    done = subprocess.run([sys.executable, *switches, "-c", LOADED], cwd=ROOT, env={**os.environ, **environment},
                          capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr.strip().splitlines()


def test_mxnet_loads_with_the_first_number_of_a_list_and_where_warnings_are_errors():
    assert loaded("-W", "error", OMP_NUM_THREADS="2,1") == (0, "2 3.0\n", [])


def test_a_script_says_what_keeps_mxnet_from_loading():
    for environment, words in (({"OMP_NUM_THREADS": "abc"}, "OMP_NUM_THREADS='abc' in the environment is not a"),
                               ({"PYTHONOPTIMIZE": "2"}, "PYTHONOPTIMIZE=2 (python -OO) drops the docstrings")):
        done = subprocess.run([sys.executable, "evaluate.py", "--pretrained", "x"], cwd=ROOT,
                              env={**os.environ, **environment}, capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.startswith(f"evaluate.py: {words}"), done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_docstrings_may_be_there_or_not_needed():
    python.check_switches(0)
    python.check_switches(1)
    with pytest.raises(InputError, match="unset it"):
        python.check_switches(2)
