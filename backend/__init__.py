"""What computes a run: base.py is the interface, and each folder implements it with one framework."""
import importlib
import importlib.util
import logging

from support import cuda, python
from support.errors import InputError

log = logging.getLogger(__name__)

INSTALL = "install it with: .venv/bin/python -m pip install -r requirements-torch.txt"


def choose(wanted="auto", on_gpu=True):
    """The module of a backend. Says in the log why it is not MXNet on a GPU that is there.

    auto : torch on a GPU that this MXNet cannot use, if PyTorch is there; else gluon. on_gpu: whether a GPU is asked
    for. Raises InputError for 'torch' without PyTorch.
    """
    there = importlib.util.find_spec("torch") is not None
    if wanted == "torch" and not there:
        raise InputError(f"--backend torch: PyTorch is not installed; {INSTALL}")
    name = wanted
    if wanted == "auto":
        gpus = cuda.gpu_capabilities() if on_gpu else []
        unfit = gpus and (python.installed_build() != python.GPU_BUILD or cuda.gpu_fault(cuda.OLDEST_CUDA, gpus))
        name = "torch" if unfit and there else "gluon"
        if unfit:
            log.info("this MXNet cannot use %s: %s", cuda.listing(gpus), "PyTorch computes" if there else
                     f"MXNet computes on the CPU; with PyTorch the GPU would ({INSTALL})")
    return importlib.import_module(f"backend.{name}")
