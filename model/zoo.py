"""Names to networks."""
import functools
import inspect
from typing import Callable, NamedTuple

import mxnet as mx

from support.errors import InputError
from support.files import expanded
from support.names import nearest

from . import activation, refine, weights
from .cifar_resnet import CIFARResNetV2, replace_sites, replace_stages
from .imagenet_resnet import ResNet50, activated_stages, conv3x3, conv_stem
from .self_attention import AugmentedConv, LocalAttention, attention_stem

UNITS = {
    "relu": activation.ReLU, "leakyrelu": activation.LeakyReLU, "prelu": activation.PReLU,
    "elu": activation.ELU, "selu": activation.SELU, "gelu": activation.GELU, "swish": activation.Swish,
    "sine": activation.Sine, "xunit": activation.XUnit, "atac": activation.ATAC,
    "seactivation": activation.SEActivation, "nin": refine.NiN,
}
STEMS = {"attention": attention_stem, "conv": conv_stem}
GATHER_EXCITE = {"theta_minus": refine.GEThetaMinus, "theta": refine.GETheta, "theta_plus": refine.GEThetaPlus}


def defaults_of(constructor):
    """The keyword arguments of a constructor beside those that the host decides, with their defaults."""
    return {name: parameter.default for name, parameter in inspect.signature(constructor).parameters.items()
            if name not in ("channels", "stride", "size") and parameter.kind is parameter.POSITIONAL_OR_KEYWORD}


def unit_by_name(name):
    """The constructor of an activation unit; InputError listing the names for an unknown one."""
    if str(name).lower() not in UNITS:
        raise InputError(f"unknown unit {name!r}{nearest(name, UNITS)}; the units are {', '.join(UNITS)}")
    return UNITS[str(name).lower()]


class Model(NamedTuple):
    """A name's builder, a function of its arguments that returns the unit or module it repeats, its images' side."""

    build: Callable
    module: Callable
    image_size: int = 32


def _activated(unit, blocks=3, classes=10, replaced_sites=None, replace_from=None, act_layers=None, act_order=None,
               replace_act=None, **settings):
    """ResNet-20-v2 with a unit at every site, or at some and `replace_act` at the others."""
    unit = functools.partial(unit, **settings)
    rest = unit_by_name(replace_act or "relu")
    if replaced_sites is not None and act_layers is not None:
        raise InputError("replaced_sites (layer by layer) and act_layers (stage by stage) exclude each other")
    for name, value, needs in (("replace_from", replace_from, replaced_sites), ("act_order", act_order, act_layers)):
        if value is not None and needs is None:
            raise InputError(f"{name} needs {'replaced_sites' if name == 'replace_from' else 'act_layers'}")
    if replaced_sites is not None:
        unit = replace_sites(blocks, unit, replaced_sites, replace_from or "last", rest)
    elif act_layers is not None:
        unit = replace_stages(blocks, unit, act_layers, act_order or "bac", rest)
    elif replace_act is not None:
        raise InputError("replace_act needs replaced_sites or act_layers: without them every site has the unit")
    return CIFARResNetV2(blocks, classes, unit)


def _refined(refinement, blocks=3, classes=10, **settings):
    """ResNet-20-v2 with ReLU everywhere and a module on every residual branch."""
    return CIFARResNetV2(blocks, classes, refinement=functools.partial(refinement, **settings))


def _gather_excite(blocks=3, classes=10, variant="theta", input_size=32, **settings):
    return CIFARResNetV2(blocks, classes, refinement=functools.partial(_gather_excite_variant(variant), **settings),
                         input_size=input_size)


def _gather_excite_variant(variant):
    if variant not in list(GATHER_EXCITE):
        raise InputError(f"unknown gather-excite variant {variant!r}; the variants are {', '.join(GATHER_EXCITE)}")
    return GATHER_EXCITE[variant]


# ResNet-50. stride_first stands in front of what a caller may set: the names say it.

def _resnet50(stride_first, classes=1000, last_gamma=False):
    return ResNet50(classes, stride_first=stride_first, last_gamma=last_gamma)


def _activated_resnet50(unit, stride_first, classes=1000, act_layers=2, last_gamma=False, **settings):
    """ResNet-50 with a unit in place of both inner ReLUs of the bottlenecks of some stages."""
    return ResNet50(classes, activated_stages(functools.partial(unit, **settings), act_layers),
                    stride_first=stride_first, last_gamma=last_gamma)


def _refined_resnet50(refinement, stride_first, classes=1000, last_gamma=False, **settings):
    return ResNet50(classes, refinement=functools.partial(refinement, **settings), stride_first=stride_first,
                    last_gamma=last_gamma)


def _gather_excite_resnet50(stride_first, classes=1000, variant="theta_plus", input_size=224, last_gamma=False,
                            **settings):
    return ResNet50(classes, refinement=functools.partial(_gather_excite_variant(variant), **settings),
                    stride_first=stride_first, last_gamma=last_gamma, input_size=input_size)


def _augmented_resnet50(stride_first, classes=1000, input_size=224, last_gamma=False, **settings):
    """ResNet-50 with attention-augmented convolutions in stages 2 to 4."""
    augmented = functools.partial(AugmentedConv, **settings)
    return ResNet50(classes, spatial=[conv3x3] + [augmented] * 3, stride_first=stride_first, last_gamma=last_gamma,
                    input_size=input_size)


def _attentional_resnet50(stride_first, classes=1000, stem="attention", last_gamma=False, **settings):
    """ResNet-50 with local attention in place of every 3x3."""
    if stem not in list(STEMS):
        raise InputError(f"unknown stem {stem!r}; the stems are {', '.join(STEMS)}")
    return ResNet50(classes, spatial=functools.partial(LocalAttention, **settings), stem=STEMS[stem],
                    stride_first=stride_first, last_gamma=last_gamma)


def _resnet50_models(host, stride_first):
    """The nets of Table IV on one host, by name."""
    def build(builder, *fixed):
        return functools.partial(builder, *fixed, stride_first)

    made = {
        host: Model(build(_resnet50), lambda arguments: activation.ReLU),
        f"atac_{host}": Model(build(_activated_resnet50, activation.ATAC), lambda arguments: activation.ATAC),
        f"se_{host}": Model(build(_refined_resnet50, refine.SE), lambda arguments: refine.SE),
        f"ge_{host}": Model(build(_gather_excite_resnet50),
                            lambda arguments: _gather_excite_variant(arguments["variant"])),
        f"aa_{host}": Model(build(_augmented_resnet50), lambda arguments: AugmentedConv),
        f"fa_{host}": Model(build(_attentional_resnet50), lambda arguments: LocalAttention),
    }
    return {name: model._replace(image_size=224) for name, model in made.items()}


MODELS = {
    **{"resnet20_v2" if name == "relu" else f"{name}_resnet20_v2":
       Model(functools.partial(_activated, unit), lambda arguments, unit=unit: unit) for name, unit in UNITS.items()},
    "localsenet_resnet20_v2": Model(functools.partial(_refined, refine.LocalSE), lambda arguments: refine.LocalSE),
    "senet_resnet20_v2": Model(functools.partial(_refined, refine.SE), lambda arguments: refine.SE),
    "genet_resnet20_v2": Model(_gather_excite, lambda arguments: _gather_excite_variant(arguments["variant"])),
    **_resnet50_models("resnet50_v1b", stride_first=False),
    **_resnet50_models("resnet50_v1", stride_first=True),
}


def list_models():
    """The names that get_model knows."""
    return sorted(MODELS)


def image_size(name, arguments):
    """Side of the square images that the net of these keyword arguments takes: 32 for CIFAR's, 224 for ImageNet's.

    Where the net depends on it, its argument input_size says it. Raises as complete_arguments.
    """
    return complete_arguments(name, arguments).get("input_size", MODELS[str(name).lower()].image_size)


def complete_arguments(name, arguments):
    """A model's keyword arguments with every default filled in: what the net is, whatever the defaults become.

    Raises InputError for an unknown name, TypeError, naming the arguments there are, for one that the net does not
    have.
    """
    if str(name).lower() not in MODELS:
        raise InputError(f"unknown model {repr(name)[:60]}{nearest(name, MODELS)}; the models are "
                         f"{', '.join(list_models())}")
    model = MODELS[str(name).lower()]
    host = defaults_of(model.build)
    known = {**host, **defaults_of(model.module({**host, **arguments}))}
    for argument in arguments:
        if argument not in known:
            raise TypeError(f"{name} has no argument {argument!r}{nearest(argument, known)}; it has {', '.join(known)}")
    return {**known, **arguments}


def get_model(name, pretrained=False, classes=None, ctx=mx.cpu(), root=weights.SHIPPED, **kwargs):
    """Build a network by name.

    Parameters
    ----------
    name : one of `list_models()`, upper or lower case.
    pretrained : load the weights that root/manifest.json lists for this very net, or the name of those to load where
        it lists several; False leaves it uninitialized.
    classes : length of the logits; None for 10 (ResNet-20-v2) or 1000 (ResNet-50).
    ctx : device or devices of the pretrained weights.
    root : folder of manifest.json and the weights; the repository's params/ by default.
    kwargs : for ResNet-20-v2 blocks (default 3) and the settings of the unit: reduction and inner_relu (atac,
        seactivation; nin, localsenet, senet and genet have reduction), alpha (leakyrelu, elu), beta (swish),
        kernel_size (xunit), layers (nin), variant and input_size (genet). The units also take replaced_sites with
        replace_from ('last' or 'first'), or act_layers (0 to 4) with act_order ('bac' or 'pre'), for partial
        replacement, and replace_act, the unit of the other sites ('relu').
        For ResNet-50 (v1b: stride on the 3x3; v1: on the first 1x1) last_gamma, which starts every block as the
        identity, and: act_layers, the number of stages from the last (default 2, the released net's) or a list of
        stages, reduction and inner_relu (atac); reduction (se); variant (default 'theta_plus'), reduction and
        input_size (ge); input_size and the settings of AugmentedConv (aa); stem ('attention' or 'conv') and the
        settings of LocalAttention (fa).

    Raises InputError (a ValueError) for an unknown name, listing those there are, and for a value that is not
    allowed; TypeError for an argument that the net does not have.
    """
    arguments = complete_arguments(name, kwargs if classes is None else {"classes": classes, **kwargs})
    net = MODELS[str(name).lower()].build(**arguments)
    if pretrained:
        file = weights.file_of(expanded(root or weights.SHIPPED), str(name).lower(), arguments,
                               pretrained if isinstance(pretrained, str) else None, complete_arguments)
        weights.load_params(net, file, ctx, say=None)
    return net
