"""The weights alone, under the names of the module's attributes (safetensors): nothing in such a file can run."""
import safetensors
import safetensors.torch
import torch

from .about import About
from .nets import forward_of, module_with


def make(module, about):
    arrays = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    return [safetensors.torch.save(arrays, about.as_texts())]


def load(paths):
    with safetensors.safe_open(paths[0], "pt") as file:
        about = About.from_texts(file.metadata() or {}, paths[0])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    return forward_of(module_with(about, arrays)), about, f"PyTorch {torch.__version__} with the file's weights"
