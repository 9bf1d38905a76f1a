"""This Python and what is installed for it: version, switches, MXNet's build, PyTorch, NumPy."""
import importlib.util
import os
import sys
import warnings

from .errors import InputError

SETUP = "bash scripts/setup.sh"
USE_VENV = f"run `{SETUP}`, then use .venv/bin/python"
CPU_BUILD, GPU_BUILD = "mxnet", "mxnet-cu112"
OLDEST_PYTHON = (3, 8)


def check_version(version=None):
    """Refuse a Python that is too old for this code."""
    version = tuple(version or sys.version_info)
    if version[:2] < OLDEST_PYTHON:
        raise InputError(f"Python {version[0]}.{version[1]} ({sys.executable}) is too old: install Python 3.8 or "
                         f"newer and run `PYTHON=python3.11 {SETUP}` with its name")


def check_role(environment=os.environ):
    """Refuse a role in which `import mxnet` would become a server and unpickle what it receives."""
    role = environment.get("DMLC_ROLE")
    if role in ("server", "scheduler"):
        raise InputError(f"DMLC_ROLE={role} is set in the environment and would turn this program into MXNet's {role}: "
                         "unset it")


def check_switches(optimize=sys.flags.optimize):
    """Refuse a Python without docstrings; under -W error, ignore MXNet's and GluonCV's own warnings."""
    if optimize >= 2:
        raise InputError("PYTHONOPTIMIZE=2 (python -OO) drops the docstrings that MXNet reads while it is imported: "
                         "unset it")
    if any(action == "error" for action, *_ in warnings.filters):
        for package in ("mxnet", "gluoncv"):
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=rf"{package}\b")


def version_of(package):
    """The installed version of a package, or None."""
    from importlib import metadata  # Python 3.8 has it; check_version comes first

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def has_mxnet(find_spec=importlib.util.find_spec):
    """Whether MXNet can be imported, for all that is known before."""
    spec = find_spec("mxnet")
    return spec is not None and spec.origin is not None  # no origin: only a folder called mxnet


def torch_alone(find_spec=importlib.util.find_spec):
    """Whether PyTorch is installed and MXNet is not."""
    return not has_mxnet(find_spec) and find_spec("torch") is not None


def installed_build(version_of=version_of, find_spec=importlib.util.find_spec):
    """The distribution of the installed MXNet: CPU_BUILD, GPU_BUILD, or "" for an unknown one."""
    builds = [build for build in (CPU_BUILD, GPU_BUILD) if version_of(build)]
    if len(builds) > 1:
        raise InputError(f"{CPU_BUILD} and {GPU_BUILD} are both installed for {sys.executable} and overwrite each "
                         f"other's files: run `{SETUP}`, which makes a clean .venv")
    if not has_mxnet(find_spec):
        state = f"{builds[0]} is installed without its files" if builds else "MXNet is not installed"
        cure = f"run `{SETUP} --auto`" if find_spec("torch") else USE_VENV  # --auto: after --torch, which is kept
        raise InputError(f"{state} for {sys.executable}: {cure}")
    return builds[0] if builds else ""


def numpy_version():
    """The installed version of NumPy. Refuses a Python without it."""
    version = version_of("numpy")
    if version is None:
        raise InputError(f"NumPy is not installed for {sys.executable}: {USE_VENV}")
    return version


def check_numpy(version=None, find_spec=importlib.util.find_spec):
    """Refuse a Python without NumPy or distutils; restore the names of a newer NumPy that MXNet and GluonCV use."""
    version = version or numpy_version()
    if sys.version_info >= (3, 12) and find_spec("distutils") is None:
        raise InputError("MXNet 1.9.1 needs distutils, which Python 3.12 removed and setuptools has: run "
                         f"`{SETUP}`, or `{sys.executable} -m pip install setuptools==80.9.0`")
    if tuple(int(part) for part in version.split(".")[:2]) >= (1, 24):
        import numpy

        from . import numpy_names

        numpy_names.restore(numpy)
