"""What the fused operators of ops/ can compute, and the arrays and attributes they take."""
import contextlib

from mxnet.gluon import nn

from model import activation, registry

NORM = ("gamma", "beta", "running_mean", "running_var")  # the order in which the operators take them


class Unfit(Exception):
    """The fused operators cannot compute this net or a part of it; the message is a clause that says which."""


def norm_settings(block, scaled=True):
    """A BatchNorm's (eps, momentum); raises Unfit if the operators cannot compute it.

    scaled: whether the operators multiply by its gamma; MXNet takes gamma as 1 in a BatchNorm(scale=False), whatever it
    holds. Beta is always added; center=False only means that it is not learned.
    """
    settings = block._kwargs if type(block) is nn.BatchNorm else {}
    if settings.get("axis") != 1 or settings["use_global_stats"] or settings["fix_gamma"] == scaled:
        raise Unfit(f"{block.name} is not a plain BatchNorm")
    return settings["eps"], settings["momentum"]


def plain_norm(block):
    """Whether a block is a BatchNorm that the operators can compute."""
    with contextlib.suppress(Unfit):
        return bool(norm_settings(block))
    return False


def _operators(parts):
    return {part.constructor: part.operator for part in parts if part.operator}


# What the operators know, by exact class: a subclass may compute something else.
UNITS = _operators(part for part in registry.CIFAR.parts.values() if part.place is registry.SITES)
REFINEMENTS = _operators(module for part in registry.CIFAR.parts.values() if part.place is not registry.SITES
                         for module in (part.variants or {None: part}).values())


def kind_of(unit, kinds=UNITS):
    """A unit, or a refinement of REFINEMENTS, as the attribute of an operator; raises Unfit if there is none for it."""
    if type(unit) not in kinds:
        raise Unfit(f"there is no fused {type(unit).__name__}")
    if type(unit) is activation.NiN and len(unit) != 7:  # 7: ReLU, then twice convolution, BatchNorm, ReLU
        raise Unfit("there is no fused NiN of one layer")
    return kinds[type(unit)].format(unit=unit)


def blocks_in(block):
    """A block and all blocks inside it."""
    yield block
    for child in block._children.values():
        yield from blocks_in(child)


def common_norm(block, unscaled=None):
    """The operators' attributes epsilon and momentum of all BatchNorms in a block; raises Unfit if they differ.

    unscaled: the BatchNorm without gamma.
    """
    settings = {norm_settings(part, scaled=part is not unscaled)
                for part in blocks_in(block) if isinstance(part, nn.BatchNorm)}
    if len(settings) > 1:
        raise Unfit("its BatchNorms differ in epsilon or momentum")
    return {name: repr(value) for name, value in zip(("epsilon", "momentum"), *settings)}


def layers_of(unit):
    """The layers inside a unit in the order of the data flow; a scalar unit has none."""
    return getattr(unit, "gate", unit if isinstance(unit, nn.HybridSequential) else ())


def unit_parameters(unit):
    """A unit's parameters in the order of the operators' arrays."""
    if isinstance(unit, activation.PReLU):
        return [unit.alpha]
    found = []
    for layer in layers_of(unit):
        if isinstance(layer, nn.Conv2D):
            found += [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
        elif isinstance(layer, nn.BatchNorm):
            found += norm_parameters(layer)
    return found


def norm_parameters(block):
    return [getattr(block, array) for array in NORM]


def around(convolution, block):
    """(parameters, attributes) of BN, AF, a 3x3 convolution, BN, AF in a residual block, as the operators take them."""
    parameters = (norm_parameters(block.bn1) + unit_parameters(block.act1) + [convolution.weight]
                  + norm_parameters(block.bn2) + unit_parameters(block.act2))
    return parameters, {"unit1": kind_of(block.act1), "unit2": kind_of(block.act2),
                        "stride": str(convolution._kwargs["stride"][0])}
