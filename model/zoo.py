"""From names to networks: builds the nets that registry.py declares."""
import functools

import mxnet as mx

from support.errors import InputError

from . import weights
from .cifar_resnet import replace_sites, replace_stages
from .imagenet_resnet import activated_stages, conv3x3
from .registry import STEMS, complete_arguments, image_size, list_models, net_of, resolve, unit_by_name

__all__ = ["complete_arguments", "get_model", "image_size", "list_models"]


def get_model(name, pretrained=False, classes=None, ctx=mx.cpu(), root=weights.SHIPPED, **kwargs):
    """Build a network by name.

    Parameters
    ----------
    name : one of `list_models()`, upper or lower case.
    pretrained : True loads the weights that root/manifest.json lists for this very net; if it lists several, give the
        name of one. False leaves the net uninitialized.
    classes : length of the logits; None for 10 (ResNet-20-v2) or 1000 (ResNet-50).
    ctx : device or devices of the pretrained weights.
    root : folder of manifest.json and the weights; the repository's params/ by default.
    kwargs : `complete_arguments(name, {})` lists them with their defaults. ResNet-20-v2 has blocks (3) and the
        settings of its unit or module, such as reduction, inner_relu, alpha, beta, kernel_size, layers, variant and
        input_size. With a unit it also takes replaced_sites with replace_from ('last' or 'first'), or act_layers (0 to
        4) with act_order ('bac' or 'pre'), for partial replacement, and replace_act, the unit of the other sites
        ('relu').
        ResNet-50 (v1b: stride on the 3x3; v1: on the first 1x1) has last_gamma, which starts every block as the
        identity, and the settings of its unit or module. ATAC has act_layers, the number of stages from the last
        (default 2, as in the released net) or a list of stages. Local attention has stem ('attention' or 'conv').

    Raises InputError (a ValueError) for an unknown name, with a list of the names, and for a value that is not allowed;
    TypeError for an argument that the net does not have.
    """
    arguments = complete_arguments(name, kwargs if classes is None else {"classes": classes, **kwargs})
    net = _built(net_of(name), arguments)
    if pretrained:
        weights.load_pretrained(net, name, arguments, pretrained, root, ctx)
    return net


def _built(net, arguments):
    host, part = net
    module = part.module(arguments)
    constructor = functools.partial(module.constructor, **{name: arguments[name] for name in module.arguments})
    rest = {name: value for name, value in arguments.items() if name not in module.arguments and name != "variant"}
    return resolve(part.place.build)(functools.partial(resolve(host.path), **host.fixed), constructor, **rest)


# The places of the registry. Each puts a part into a host, which is a constructor that takes the other arguments.

def plain(host, unit, **arguments):
    return host(**arguments)


def on_branches(host, refinement, **arguments):
    """ReLU everywhere, and the module on every residual branch."""
    return host(refinement=refinement, **arguments)


def at_sites(host, unit, blocks, replaced_sites=None, replace_from=None, act_layers=None, act_order=None,
             replace_act=None, **arguments):
    """ResNet-20-v2 with the unit at every site, or at some sites and `replace_act` at the others."""
    rest = unit_by_name(replace_act or "relu").constructor
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
    return host(blocks=blocks, activation=unit, **arguments)


def in_last_stages(host, unit, act_layers, **arguments):
    """ResNet-50 with the unit in place of both inner ReLUs, in the bottlenecks of some stages."""
    return host(activation=activated_stages(unit, act_layers), **arguments)


def in_later_stages(host, layer, **arguments):
    """ResNet-50 with the layer in place of the 3x3 in stages 2 to 4."""
    return host(spatial=[conv3x3] + [layer] * 3, **arguments)


def everywhere(host, layer, stem, **arguments):
    """ResNet-50 with the layer in place of every 3x3."""
    if stem not in list(STEMS):
        raise InputError(f"unknown stem {stem!r}; the stems are {', '.join(STEMS)}")
    return host(spatial=layer, stem=resolve(STEMS[stem]), **arguments)
