"""ATAC and its competitors as Gluon HybridBlocks.

    from model import get_model
    net = get_model("atac_resnet20_v2", blocks=3, classes=10)
"""
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
from .refine import SE, GETheta, GEThetaMinus, GEThetaPlus, LocalSE, NiN
from .zoo import complete_arguments, get_model, list_models, load_params

__all__ = [
    "ATAC", "CIFARResNetV2", "ELU", "GELU", "GETheta", "GEThetaMinus", "GEThetaPlus", "Gated", "LeakyReLU",
    "LocalSE", "NiN", "PReLU", "ReLU", "SE", "SEActivation", "SELU", "Sine", "Swish", "XUnit", "complete_arguments",
    "get_model", "list_models", "load_params", "replace_sites", "replace_stages", "sites",
]
