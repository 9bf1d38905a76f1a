"""Any net, with parts of it as fused operators: its units of layers, and the middles of bottlenecks."""
import contextlib

import mxnet as mx
from mxnet.gluon import SymbolBlock, nn

from model.imagenet_resnet import Bottleneck, conv3x3

from . import fusable
from .fusable import UNITS, Unfit, blocks_in, common_norm, kind_of, layers_of, norm_parameters, unit_parameters

# Most channels of a unit that is faster as an operator of its own: CIFAR's units are (docs/PERFORMANCE.md). ResNet-50's
# units (256 and 512 channels) were slower in training, which needs the covariance of every pair of channels.
WIDEST = 64
# The same for the middle of a bottleneck in inference: 512 channels on maps of 7x7 pixels were slower.
WIDEST_MIDDLE = 256


def layered_units(net):
    """The units of a net that deserve an operator of their own: those with several layers."""
    found = []
    for block in blocks_in(net):
        if type(block) in UNITS and layers_of(block) and unit_parameters(block)[-1].shape[0] <= WIDEST:
            with contextlib.suppress(Unfit):
                kind_of(block)
                common_norm(block)
                found.append(block)
    return found


@contextlib.contextmanager
def replacing(method, blocks):
    """Within the block, replace a method: blocks is a list of (block, function) pairs."""
    for block, function in blocks:
        setattr(block, method, function)
    try:
        yield
    finally:
        for block, _ in blocks:
            delattr(block, method)


def with_units(net, training):
    """net's graph with an operator for each unit of layers, and the BatchNorm before it if only the unit reads that."""
    suffix = "" if training else "_inference"
    norms = {id(block): block for block in blocks_in(net) if fusable.plain_norm(block)}
    settings = fusable.norm_settings
    before = {}  # name of a BatchNorm's symbol: (its input, the block)
    merged = []

    def norm_forward(block):
        plain = type(block).hybrid_forward

        def forward(F, x, **arrays):
            result = plain(block, F, x, **arrays)
            before[result.name] = (x, block)
            return result
        return forward

    def unit_forward(unit):
        def forward(F, x):
            attributes, parameters = {"unit": kind_of(unit), **common_norm(unit)}, unit_parameters(unit)
            source, norm = before.get(x.name, (x, None))
            if norm is not None and x.name not in shared and settings(norm) == settings(first_norm(unit)):
                merged.append(x.name)
                x, attributes, parameters = source, {**attributes, "norm": "1"}, norm_parameters(norm) + parameters
            if training and x.name == data.name:  # the operator could not add to the gradient of the images
                x = F.identity(x)
            return getattr(F, f"atac_unit{suffix}")(x, *(parameter.var() for parameter in parameters), **attributes)
        return forward

    units = layered_units(net)
    hooks = [(block, norm_forward(block)) for block in norms.values()]
    hooks += [(unit, unit_forward(unit)) for unit in units]
    shared = set()
    while True:
        data = mx.sym.var("data", dtype="float32")
        with replacing("hybrid_forward", hooks):
            graph = net(data)
        # A merged BatchNorm that is still in the graph has other readers: it would move its statistics twice.
        left = set(merged) & {name.rpartition("_output")[0] for name in graph.get_internals().list_outputs()}
        if not left:
            return SymbolBlock(graph, data, params=net.collect_params())
        shared |= left
        merged.clear()
        before.clear()


def first_norm(unit):
    return next(layer for layer in layers_of(unit) if isinstance(layer, nn.BatchNorm))


def middles(net):
    """The bottlenecks whose middle deserves an operator in inference: a 3x3 convolution between two units.

    With stride 2, where the operators have no minimal filtering, only between units of layers.
    """
    found = []
    for block in blocks_in(net):
        if type(block) is not Bottleneck or type(block.conv2) is not nn.Conv2D:
            continue
        width, stride = block.conv3.weight.shape[1], block.conv2._kwargs["stride"][0]
        usual = block.conv2._kwargs == conv3x3(width, stride)._kwargs
        worth = stride == 1 or layers_of(block.act1) and layers_of(block.act2)
        if usual and worth and width <= WIDEST_MIDDLE and width % 16 == 0:
            with contextlib.suppress(Unfit):
                _middle(block)
                found.append(block)
    return found


def _middle(block):
    """The parameters and attributes of atac_middle_inference."""
    parameters, attributes = fusable.around(block.conv2, block)
    return parameters, {**attributes, **common_norm(block)}


def with_middles(net, blocks):
    """net's graph for inference with an operator for the middle of each of these bottlenecks."""
    def forward_of(block):
        parameters, attributes = _middle(block)
        return lambda x: mx.sym.atac_middle_inference(x, *(parameter.var() for parameter in parameters), **attributes)

    data = mx.sym.var("data", dtype="float32")
    with replacing("middle", [(block, forward_of(block)) for block in blocks]):
        return SymbolBlock(net(data), data, params=net.collect_params())
