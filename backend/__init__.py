"""What computes a run: base.py is the interface, each folder here implements it with one framework."""
import importlib
import importlib.util

from support import cuda, python
from support.errors import InputError

NAMES = ("auto", "gluon", "torch")
INSTALL = "install it with: .venv/bin/python -m pip install -r requirements-torch.txt"


def choose(wanted="auto", on_gpu=True):
    """The module of a backend, and a sentence if there was something to choose, else None.

    auto : torch on a GPU that this MXNet cannot use, if PyTorch is there; else gluon. on_gpu: whether a GPU is asked
    for. Raises InputError for 'torch' without PyTorch.
    """
    there = importlib.util.find_spec("torch") is not None
    if wanted == "torch" and not there:
        raise InputError(f"--backend torch: PyTorch is not installed; {INSTALL}")
    name, sentence = wanted, None
    if wanted == "auto":
        gpus = cuda.gpu_capabilities() if on_gpu else []
        unfit = gpus and (python.installed_build() != python.GPU_BUILD or cuda.gpu_fault(cuda.OLDEST_CUDA, gpus))
        name = "torch" if unfit and there else "gluon"
        if unfit:
            sentence = f"this MXNet cannot use {cuda.listing(gpus)}: " + (
                "PyTorch computes (--backend gluon takes MXNet on the CPU)" if there else
                f"MXNet computes on the CPU; with PyTorch the GPU would: {INSTALL}")
    return importlib.import_module(f"backend.{name}"), sentence
