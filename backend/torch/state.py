"""Every number of a net in training as NumPy arrays by name, there and back: the names of backend.gluon.state.

`name`: a weight or a running statistic, by its structural name in Gluon. `optimizer/name.0`: its momentum.
"""
import numpy as np
import torch

from engine.steps import Diverged

from .graph import gluon_names


def tensors_of(net):
    """{Gluon's name: Parameter or buffer}."""
    state = net.state_dict(keep_vars=True)
    return {name: state[key] for key, name in gluon_names(state).items()}


def check_weights(net):
    """Raise Diverged if a weight is not finite."""
    for name, tensor in tensors_of(net).items():
        if not torch.isfinite(tensor).all():
            raise Diverged(f"{name} is no longer finite")


def momenta_of(net, optimizer):
    """{name: tensor}: momenta by the names of their arrays; without momentum none."""
    if not any(group["momentum"] for group in optimizer.param_groups):
        return {}
    return {f"optimizer/{name}.0": optimizer.momentum(tensor) for name, tensor in tensors_of(net).items()
            if tensor.requires_grad}


def arrays_of(net, optimizer):
    """All numbers by name, float32. Raises Diverged if a weight is not finite."""
    check_weights(net)
    return {name: _copied(tensor) for name, tensor in {**tensors_of(net), **momenta_of(net, optimizer)}.items()}


def _copied(tensor):
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous().numpy()


def forms_of(net, optimizer):
    """{name: (shape, type)} of what arrays_of gives."""
    return {name: (tuple(tensor.shape), np.dtype(np.float32))
            for name, tensor in {**tensors_of(net), **momenta_of(net, optimizer)}.items()}


@torch.no_grad()
def restore(arrays, net, optimizer):
    """Give a net and its optimizer what arrays_of gave, or the weights alone."""
    for name, tensor in tensors_of(net).items():
        tensor.copy_(torch.from_numpy(np.array(arrays[name])))
    for name, tensor in momenta_of(net, optimizer).items():
        if name in arrays:
            tensor.copy_(torch.from_numpy(np.array(arrays[name])))
