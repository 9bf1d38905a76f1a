"""ATAC and its competitors as Gluon HybridBlocks.

    from model import get_model
    net = get_model("atac_resnet20_v2", blocks=3, classes=10)
"""
import importlib

from support import runtime

runtime.prepare()  # before anything here imports MXNet

from .activation import (
    ATAC,
    ELU,
    GELU,
    SELU,
    Gated,
    LeakyReLU,
    PReLU,
    ReLU,
    SEActivation,
    Sine,
    Swish,
    XUnit,
)
from .cifar_resnet import CIFARResNetV2, replace_sites, replace_stages, sites
from .imagenet_resnet import ResNet50, activated_stages
from .refine import SE, GETheta, GEThetaMinus, GEThetaPlus, LocalSE, NiN
from .self_attention import AugmentedConv, LocalAttention, StemAttention
from .weights import load_params
from .zoo import complete_arguments, get_model, image_size, list_models

__all__ = [
    "ATAC", "AugmentedConv", "CIFARResNetV2", "ELU", "GELU", "GETheta", "GEThetaMinus", "GEThetaPlus", "Gated",
    "LeakyReLU", "LocalAttention", "LocalSE", "NiN", "PReLU", "ReLU", "ResNet50", "SE", "SEActivation", "SELU", "Sine",
    "StemAttention", "Swish", "XUnit", "activated_stages", "complete_arguments", "fuse", "get_model", "image_size",
    "list_models", "load_params", "replace_sites", "replace_stages", "sites",
]

# Loaded when they are asked for.
_ELSEWHERE = {"array_names": "model.array_names", "complexity": "model.complexity", "weights": "model.weights",
              "fuse": "backend.gluon.fused", "inference": "backend.gluon.inference",
              "to_torch": "backend.torch.convert", "from_torch": "backend.torch.convert"}


def __getattr__(name):
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_ELSEWHERE[name])
    return getattr(module, name, module)
