"""What computes a run: base.py is the interface, and each folder implements it with one framework."""
import importlib
import importlib.util
import logging

from support import cuda, python
from support.errors import InputError

log = logging.getLogger(__name__)

INSTALL = f"run `{python.SETUP} --torch`"


def choose(wanted="auto", on_gpu=True):
    """The module of a backend. Says in the log why it is not MXNet if that is not there, or not for this GPU.

    auto : torch without MXNet, or on a GPU that this MXNet cannot use if PyTorch is there; else gluon. on_gpu: whether
    a GPU is asked for. Raises InputError for a backend that is not installed.
    """
    there = importlib.util.find_spec("torch") is not None
    if wanted == "torch" and not there:
        raise InputError(f"--backend torch: PyTorch is not installed; {INSTALL}")
    if wanted == "gluon" or not there:
        python.installed_build()  # refuses a Python without MXNet
    name = wanted
    if wanted == "auto":
        alone = python.torch_alone()
        if alone:
            log.info("MXNet is not installed: PyTorch computes")
        name = "torch" if alone or _needs_torch(on_gpu, there) else "gluon"
    return importlib.import_module(f"backend.{name}")


def _needs_torch(on_gpu, there):
    """Whether a GPU is asked for that PyTorch can use and this MXNet cannot. there: whether PyTorch is installed."""
    gpus = cuda.gpu_capabilities() if on_gpu else []
    if not gpus or python.installed_build() == python.GPU_BUILD and not cuda.gpu_fault(cuda.OLDEST_CUDA, gpus):
        return False
    log.info("this MXNet cannot use %s: %s", cuda.listing(gpus), "PyTorch computes" if there else
             f"MXNet computes on the CPU; with PyTorch the GPU would ({INSTALL})")
    return there


def networks():
    """The package of the networks: model, or without MXNet backend.torch.nets, which has the same names."""
    return importlib.import_module("backend.torch.nets" if python.torch_alone() else "model")
