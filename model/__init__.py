"""ATAC and its competitors as Gluon HybridBlocks.

    from model import get_model
    net = get_model("atac_resnet20_v2", blocks=3, classes=10)

A name, and MXNet with it, loads at its first use: the programs first read model.registry for their flags.
"""
import importlib

import ops  # noqa: F401 - it sets a variable that MXNet reads before its first gradient
from support import import_hook

import_hook.install()

_MODULES = {
    "model.activation": ("ATAC", "ELU", "GELU", "SELU", "Gated", "LeakyReLU", "NiN", "PReLU", "ReLU", "SEActivation",
                         "Sine", "Swish", "XUnit"),
    "model.array_names": (),
    "model.cifar_resnet": ("CIFARResNetV2", "replace_sites", "replace_stages", "sites"),
    "model.complexity": (),
    "model.graph_file": (),
    "model.imagenet_resnet": ("ResNet50", "activated_stages"),
    "model.refine": ("SE", "GETheta", "GEThetaMinus", "GEThetaPlus", "LocalSE"),
    "model.registry": ("complete_arguments", "image_size", "list_models"),
    "model.self_attention": ("AugmentedConv", "LocalAttention", "StemAttention"),
    "model.weights": ("load_params",),
    "model.zoo": ("get_model",),
    "backend.gluon.fused": ("fuse",),
    "backend.gluon.inference": ("inference",),
    "backend.torch.convert": ("from_torch", "to_torch"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name):
    if f"model.{name}" in _MODULES:
        return importlib.import_module(f"model.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_HOME[name])
    return getattr(module, name, module)  # inference is a module


def __dir__():
    return sorted({*globals(), *__all__})
