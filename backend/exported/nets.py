"""The PyTorch modules that are exported: of Gluon nets or, without MXNet, of their graphs."""
import torch

from backend import networks
from backend.torch.convert import from_torch, to_torch


def module_of(net):
    """A net with its weights (Gluon's or a Graph) as a module for inference on the CPU."""
    return _for_inference(to_torch(net))


def module_with(about, state_dict):
    """The same for an About, with the weights of a state_dict. Raises InputError if they do not fit."""
    net = from_torch(networks().get_model(about.model, **about.arguments), state_dict)
    return _for_inference(to_torch(net))


def _for_inference(module):
    for each in module.modules():
        if isinstance(each, torch.nn.BatchNorm2d):
            each.num_batches_tracked = None  # only training counts batches
    return module.eval().requires_grad_(False)


def forward_of(module):
    """NumPy images -> NumPy logits."""
    def forward(images):
        with torch.inference_mode():
            return module(torch.from_numpy(images)).numpy()
    return forward
