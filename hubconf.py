"""The networks for torch.hub, with PyTorch and NumPy alone:

    torch.hub.load("DIRECTORY OF THIS REPOSITORY", "atac_resnet20_v2", source="local", blocks=1, pretrained=True)

Every name of list_models() is an entry point. It returns a torch.nn.Module whose state_dict has the names of the Gluon
net's parameters; images are (N, 3, 32, 32) for CIFAR and (N, 3, 224, 224) for ImageNet, normalized as the data set's
`mean` and `std` (engine/data). pretrained : True, or the name of weights in params/manifest.json; otherwise `seed`
draws the first weights. Other arguments are those of model.get_model. Raises ValueError for what does not exist.
"""
import functools as _functools

from backend.torch import nets as _nets
from backend.torch.convert import to_torch as _to_torch
from backend.torch.start import drawn as _drawn

dependencies = ["torch", "numpy"]


def _module(name, pretrained=False, seed=0, **arguments):
    """The module of a net in training mode, on the CPU."""
    net = _nets.get_model(name, pretrained, **arguments)
    if not pretrained:
        net.arrays = _drawn(net, seed)
    return _to_torch(net)


def _entry(name):
    entry = _functools.partial(_module, name)
    entry.__doc__ = f"{name} as a torch.nn.Module; see the docstring of hubconf.py."
    return entry


globals().update({_name: _entry(_name) for _name in _nets.list_models()})
