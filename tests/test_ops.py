"""Each fused operator against the same layers of Gluon in float64, wrong inputs, and the same bits every time."""
import contextlib
import hashlib
import itertools
import os
import subprocess
import sys
import time

import fused_nets
import mxnet as mx
import numpy as np
import pytest
import tiny
from mxnet import autograd
from mxnet.gluon import nn

from backend.gluon import fusable, fused, inside
from model import activation, refine
from model.cifar_resnet import CIFARResNetV2
from model.imagenet_resnet import Bottleneck
from ops import build, nag

pytestmark = pytest.mark.usefixtures("fused_operators")

TOLERANCE = 1e-5
SCALARS = [activation.ReLU, activation.LeakyReLU, activation.PReLU, activation.ELU, activation.SELU, activation.GELU,
           activation.Swish]


class Normed(nn.HybridSequential):
    """[BatchNorm,] unit."""

    def __init__(self, unit, channels, norm, **settings):
        super().__init__()
        with self.name_scope():
            if norm:
                self.add(nn.BatchNorm(in_channels=channels))
            self.add(unit(channels, **settings))


class Operator:
    """The same by one operator call on the block's own arrays, in training or in inference."""

    def __init__(self, block):
        *norms, unit = block
        self.attributes = {"unit": fusable.kind_of(unit), "norm": str(len(norms)), "epsilon": "1e-05",
                           "momentum": "0.9"}
        self.parameters = [parameter for norm in norms for parameter in fusable.norm_parameters(norm)]
        self.parameters += fusable.unit_parameters(unit)

    def __call__(self, x):
        arrays = [parameter.data() for parameter in self.parameters]
        if autograd.is_training():
            return mx.nd.atac_unit(x, *arrays, **self.attributes)
        return mx.nd.atac_unit_inference(x, *arrays, **self.attributes)


def assert_parity(make, shape, mean=0.0, constant=0, seed=0, tolerance=TOLERANCE):
    """Inference, then a training step: output, all gradients, running statistics, against float64.

    A number that is a small difference of large sums is further than TOLERANCE from float64 in any float32; there
    the measure is how far the Gluon block itself is in float32, three times for what is chance.
    """
    block = make()
    mx.random.seed(seed)
    block.initialize(mx.init.Normal(.3))
    fused_nets.randomize(block, seed)
    double, plain = fused_nets.in_float64(make, block), make()
    plain.initialize()
    fused_nets.copy_numbers(block, plain)
    generator = np.random.RandomState(seed)
    x, dy = (generator.normal(center, 1, shape).astype("float32") for center in (mean, 0))
    x[:, :constant] = 2.3  # channels without any variance
    if len(block) > 1:  # statistics that suit the input, or the units only see saturation in inference
        for net in (block, double, plain):
            net[0].running_mean.set_data(net[0].running_mean.data() + mean)
    expected = everything(double, double, x.astype("float64"), dy.astype("float64"))
    errors, own = (fused_nets.all_distances(everything(net, forward, x, dy), expected)
                   for net, forward in ((block, Operator(block)), (plain, plain)))
    wrong = {name: (error, own[name]) for name, error in errors.items() if not error < max(tolerance, 3 * own[name])}
    assert not wrong, wrong


def everything(net, forward, x, dy):
    """Inference's output, a step's output, gradients and statistics: four dicts of arrays."""
    answer = forward(mx.nd.array(x, dtype=x.dtype)).asnumpy()
    y, dx, gradients, statistics = fused_nets.step(net, forward, x, dy)
    return {"inference": answer}, {"output": y}, {"x": dx, **gradients}, statistics


WIDTHS = [(16, 2), (32, 2), (64, 2), (24, 3), (64, 16), (16, 16), (16, 1), (5, 5)]  # C and r; of the nets, and odd ones


@pytest.mark.parametrize("unit", [activation.ATAC, activation.SEActivation, activation.NiN])
@pytest.mark.parametrize("channels, reduction", WIDTHS)
def test_gates_agree_with_float64(channels, reduction, unit):
    for norm, (images, size) in itertools.product((False, True), ((3, (7, 7)), (33, (3, 5)))):
        assert_parity(lambda: Normed(unit, channels, norm, reduction=reduction),  # noqa: B023
                      (images, channels, *size), seed=images)


@pytest.mark.parametrize("unit", [activation.ATAC, activation.SEActivation])
def test_gates_without_a_relu_inside_agree_with_float64(unit):
    for norm, (channels, reduction) in itertools.product((False, True), ((16, 2), (24, 3), (64, 16))):
        assert_parity(lambda: Normed(unit, channels, norm, reduction=reduction, inner_relu=False),  # noqa: B023
                      (33, channels, 3, 5))


@pytest.mark.parametrize("unit", [activation.ATAC, activation.SEActivation, activation.NiN])
@pytest.mark.parametrize("images, size", [(1, (1, 1)), (3, (1, 1)), (33, (1, 1)), (1, (3, 5)), (33, (7, 7)),
                                          (3, (32, 32)), (33, (1, 37))])
def test_any_batch_and_any_size(unit, images, size):
    # One number has no variance: each BatchNorm multiplies the rounding of its mean by 316, and two in a row leave none
    # of a float32's digits.
    numbers = images * size[0] * size[1]
    for norm in (False, True) if numbers > 1 else (False,):
        assert_parity(lambda: Normed(unit, 16, norm), (images, 16, *size),  # noqa: B023
                      tolerance=TOLERANCE if numbers > 3 else 2 * TOLERANCE)


@pytest.mark.parametrize("unit", [activation.ATAC, activation.SEActivation, activation.NiN])
def test_many_channels(unit):
    assert_parity(lambda: Normed(unit, 256, True, reduction=2), (4, 256, 7, 7))


@pytest.mark.parametrize("channels, kernel, images, size", [
    (16, 9, 3, (32, 32)), (64, 9, 33, (8, 8)), (24, 3, 33, (5, 3)), (5, 9, 4, (20, 31)), (16, 101, 5, (8, 8)),
    (16, 1, 5, (1, 37)), (16, 7, 33, (1, 1)), (256, 5, 4, (7, 7))])
def test_xunit_agrees_with_float64(channels, kernel, images, size):
    for norm in (False, True):
        assert_parity(lambda: Normed(activation.XUnit, channels, norm, kernel_size=kernel),  # noqa: B023
                      (images, channels, *size), seed=images)


@pytest.mark.parametrize("unit", SCALARS)
def test_scalar_activations_agree_with_float64(unit):
    for norm, (channels, *size) in itertools.product((False, True), ((16, 32, 32), (24, 3, 5), (5, 7, 7), (1, 1, 1))):
        assert_parity(lambda: Normed(unit, channels, norm), (5, channels, *size))  # noqa: B023


@pytest.mark.parametrize("unit", [activation.ATAC, activation.SEActivation, activation.Swish, activation.NiN,
                                  activation.XUnit])
@pytest.mark.parametrize("mean", [30, -300])
def test_means_far_above_the_deviation(unit, mean):
    assert_parity(lambda: Normed(unit, 16, True), (9, 16, 7, 7), mean)


@pytest.mark.parametrize("unit", [activation.ATAC, activation.SEActivation, activation.Swish, activation.NiN,
                                  activation.XUnit])
def test_channels_that_are_constant(unit):
    assert_parity(lambda: Normed(unit, 16, True), (9, 16, 7, 7), constant=5)


# Convolutions. Without shortcut, norms that change nothing and no activation, a block is two of them.

def convolved(x, weights, dy=None):
    """Two 3x3 convolutions by an atac_block, on (N, C, H, W): result, or gradients of x and both weights."""
    channels, (first, second) = x.shape[1], weights

    def norm(width):
        return [mx.nd.ones(width), mx.nd.zeros(width), mx.nd.zeros(width), mx.nd.ones(width)]
    arrays = [blocked(x), *norm(channels), mx.nd.array(first), *norm(len(first)), mx.nd.array(second)]
    for place in (0, 5, 10):
        arrays[place].attach_grad()
    with autograd.record():
        y = mx.nd.atac_block(*arrays, unit1="identity", unit2="identity", epsilon="1e-05")
    if dy is None:
        return y
    y.backward(blocked(dy))
    return [arrays[place].grad.asnumpy() for place in (5, 10)]


def blocked(x):
    images, channels, height, width = x.shape
    return mx.nd.array(x.reshape(images, channels // 16, 16, height, width).transpose(0, 1, 3, 4, 2))


def composed(x, weights, dy, dtype):
    """The same by MXNet's operators: result and gradients of the weights."""
    x, first, second, dy = (mx.nd.array(array, dtype=dtype) for array in (x, *weights, dy))
    arrays = [first, second]
    for array in arrays:
        array.attach_grad()
    channels = first.shape[0]

    def norm(z):
        ones, zeros = mx.nd.ones(channels, dtype=dtype), mx.nd.zeros(channels, dtype=dtype)
        return mx.nd.BatchNorm(z, ones, zeros, zeros, mx.nd.ones(channels, dtype=dtype), eps=1e-5, fix_gamma=False)

    def convolution(z, weight):
        return mx.nd.Convolution(z, weight, kernel=(3, 3), pad=(1, 1), num_filter=channels, no_bias=True)
    with autograd.record():
        y = convolution(norm(convolution(norm(x), first)), second) + x
    y.backward(dy)
    return [array.asnumpy() for array in (y, first.grad, second.grad)]


@pytest.mark.parametrize("channels", [16, 32, 48, 64])
@pytest.mark.parametrize("size", [(32, 32), (8, 8), (7, 9), (5, 2), (1, 13)])
def test_convolutions(channels, size):
    """Minimal filtering rounds more than a sum of products does, but at its points not much more."""
    generator = np.random.RandomState(0)
    x, dy = (generator.normal(0, 1, (6, channels, *size)).astype("float32") for _ in range(2))
    weights = [generator.normal(0, (9 * channels) ** -.5, (channels, channels, 3, 3)).astype("float32")
               for _ in range(2)]
    expected = composed(x, weights, dy, "float64")
    y = convolved(x, weights).asnumpy().transpose(0, 1, 4, 2, 3).reshape(x.shape)
    for found, right in zip([y, *convolved(x, weights, dy)], expected):
        assert fused_nets.distance(found, right) < 4e-6


# Wrong inputs.

GATE = [(8, 16, 1, 1)] + [(8,)] * 4 + [(16, 8, 1, 1)] + [(16,)] * 4
BLOCK = [(16,)] * 4 + [(16, 16, 3, 3)] + [(16,)] * 4 + [(16, 16, 3, 3)]
XUNIT = [(16,)] * 4 + [(16, 1, 3, 3), (16,)] + [(16,)] * 4
SE = [(2, 16, 1, 1), (2,), (16, 2, 1, 1), (16,)]


# A net of one block, 16 channels and 7 classes.
NET_LAYERS = "stem:;block:unit1=relu,unit2=atac 1;head:unit=relu;dense:"
NET = [(3,), (3,), (3,), (16, 3, 3, 3)] + BLOCK[:-1] + GATE + BLOCK[-1:] + [(16,)] * 4 + [(7, 16), (7,)]
NET_SHAPES = ";".join(",".join(map(str, shape)) for shape in NET)
NET_NUMBERS = sum(int(np.prod(shape)) for shape in NET)


def call(operator, shapes, types=None, /, **attributes):
    """Call an operator on zeros of these shapes, one type for all or one for each; waits for the result."""
    types = [types or "float32"] * len(shapes) if not isinstance(types, list) else types
    found = getattr(mx.nd, operator)(*(mx.nd.zeros(shape, dtype=dtype) for shape, dtype in zip(shapes, types)),
                                     **attributes)
    mx.nd.waitall()
    return found


def changed(shapes, index, shape):
    return shapes[:index] + [shape] + shapes[index + 1:]


def unit_case(said, x=(2, 16, 5, 5), gate=GATE, **attributes):
    return said, "atac_unit", [x] + gate, {"unit": "atac 1", **attributes}


def block_case(said, x=(2, 1, 5, 5, 16), arrays=BLOCK, **attributes):
    return said, "atac_block", [x] + arrays, {"unit1": "relu", "unit2": "relu", **attributes}


def net_case(said, x=(2, 3, 8, 8), arrays=NET, layers=NET_LAYERS, **attributes):
    return said, "atac_net_inference", [x] + arrays, {"layers": layers, **attributes}


def frozen_case(said, shapes=NET_SHAPES, size=NET_NUMBERS):
    return net_case(said, arrays=[(size,)], shapes=shapes)


WRONG = [
    unit_case("x must be (N, C, H, W), got (2, 16, 5)", x=(2, 16, 5)),
    unit_case("x must be (N, C, H, W), got (2, 1, 5, 5, 16)", x=(2, 1, 5, 5, 16)),
    unit_case("first weight must have the shape (8, 32, 1, 1), got (8, 16, 1, 1)", x=(2, 32, 5, 5)),
    unit_case("unit first weight must have the shape (8, 16, 1, 1), got (8, 16)", gate=changed(GATE, 0, (8, 16))),
    unit_case("first BatchNorm gamma must have the shape (8), got (7)", gate=changed(GATE, 1, (7,))),
    unit_case("first BatchNorm running variance must have the shape (8), got (8, 1)", gate=changed(GATE, 4, (8, 1))),
    unit_case("second weight must have the shape (16, 8, 1, 1), got (8, 16, 1, 1)",
              gate=changed(GATE, 5, (8, 16, 1, 1))),
    unit_case("second BatchNorm beta must have the shape (16), got (17)", gate=changed(GATE, 7, (17,))),
    unit_case("BatchNorm gamma must have the shape (16), got (15)", gate=[(15,)] + [(16,)] * 3 + GATE, norm="1"),
    unit_case("there is no unit 'maxout'", unit="maxout"),
    unit_case("attribute unit has 0 numbers behind 'atac', which takes 1", unit="atac"),
    unit_case("attribute unit has 2 numbers behind 'atac', which takes 1", unit="atac 1 2"),
    unit_case("attribute unit has 0 numbers behind 'atac', which takes 1", unit="atac yes"),
    unit_case("there is no unit ''", unit=""),
    unit_case("attribute epsilon must be a number, got 'small'", epsilon="small"),
    unit_case("attribute momentum must be a number, got '0.9x'", momentum="0.9x"),
    unit_case("attribute norm must be a number, got 'True'", norm="True"),
    unit_case("kernel must have the shape (C, 1, k, k) with an odd k, got (16, 1, 4, 4)", unit="xunit",
              gate=changed(XUNIT, 4, (16, 1, 4, 4))),
    unit_case("kernel must have the shape (16, 1, 3, 3), got (16, 16, 3, 3)", unit="xunit",
              gate=changed(XUNIT, 4, (16, 16, 3, 3))),
    unit_case("bias must have the shape (16), got (1)", unit="xunit", gate=changed(XUNIT, 5, (1,))),
    ("slope must have the shape (1), got (16)", "atac_unit", [(2, 16, 5, 5), (16,)], {"unit": "prelu"}),
    ("multiples of 16 inputs and outputs, got the shape (8, 16, 3, 3)", "atac_middle_inference",
     [(2, 16, 5, 5), *[(16,)] * 4, (8, 16, 3, 3), *[(8,)] * 4], {}),
    ("stride must be 1 or 2", "atac_middle_inference",
     [(2, 16, 5, 5), *[(16,)] * 4, (16, 16, 3, 3), *[(16,)] * 4], {"stride": "3"}),
    ("x must be (N, C, H, W), got (3, 8)", "atac_stem", [(3, 8), (8,), (8,), (8,), (16, 8, 3, 3)], {}),
    ("weight must have a multiple of 16 outputs, got the shape (8, 3, 3, 3)", "atac_stem",
     [(2, 3, 8, 8), (3,), (3,), (3,), (8, 3, 3, 3)], {}),
    ("weight must have the shape (16, 3, 3, 3), got (16, 3, 5, 5)", "atac_stem",
     [(2, 3, 8, 8), (3,), (3,), (3,), (16, 3, 5, 5)], {}),
    block_case("x must be in blocks of channels, (N, C/16, H, W, 16), got (2, 16, 5, 5)", x=(2, 16, 5, 5)),
    block_case("x must be in blocks of channels, (N, C/16, H, W, 16), got (2, 2, 5, 5, 8)", x=(2, 2, 5, 5, 8)),
    block_case("first BatchNorm gamma must have the shape (32), got (16)", x=(2, 2, 5, 5, 16)),
    block_case("the first convolution must have a multiple of 16 outputs, got the shape (24, 16, 3, 3)",
               arrays=changed(BLOCK, 4, (24, 16, 3, 3))),
    block_case("second convolution must have the shape (16, 16, 3, 3), got (16, 16, 1, 1)",
               arrays=changed(BLOCK, 9, (16, 16, 1, 1))),
    block_case("a block that changes the shape needs a shortcut's convolution", stride="2"),
    block_case("stride must be 1 or 2", stride="3"),
    block_case("stride must be 1 or 2", stride="nan"),
    block_case("there is no refinement 'maxout'", refine="maxout"),
    block_case("there is no refinement 'relu'", refine="relu"),
    block_case("attribute refine has 0 numbers behind 'atac', which takes 1", refine="atac"),
    block_case("refine first weight must have the shape (8, 16, 1, 1), got (8, 15, 1, 1)",
               arrays=BLOCK + changed(GATE, 0, (8, 15, 1, 1)), refine="atac 1"),
    block_case("gather must have the shape (16, 1, 5, 5), got (16, 1, 4, 5)",
               arrays=BLOCK + [(16, 1, 4, 5)] + [(16,)] * 4, refine="theta"),
    block_case("gather BatchNorm gamma must have the shape (16), got (8)",
               arrays=BLOCK + [(16, 1, 5, 5)] + [(8,)] * 4, refine="theta"),
    block_case("first weight must have the shape (C/r, C, 1, 1) with C = 16, got (17, 16, 1, 1)",
               arrays=BLOCK + [(17, 16, 1, 1), (17,), (16, 17, 1, 1), (16,)], refine="se"),
    block_case("refine second bias must have the shape (16), got (2)",
               arrays=BLOCK + [(2, 16, 1, 1), (2,), (16, 2, 1, 1), (2,)], refine="se"),
    block_case("shortcut's convolution must have the shape (16, 16, 1, 1), got (32, 16, 1, 1)",
               arrays=BLOCK + [(32, 16, 1, 1)], downsample="1"),
    ("x must be in blocks of channels", "atac_head", [(2, 16, 5, 5)] + [(16,)] * 4, {"unit": "relu"}),
    ("BatchNorm running mean must have the shape (16), got (1)", "atac_head",
     [(2, 1, 5, 5, 16), (16,), (16,), (1,), (16,)], {"unit": "relu"}),
    net_case("x must be (N, C, H, W), got (2, 3, 8)", x=(2, 3, 8)),
    net_case("BatchNorm beta must have the shape (4), got (3)", x=(2, 4, 8, 8)),
    net_case("second convolution must have the shape (16, 16, 3, 3), got (16, 16, 1, 1)",
             arrays=changed(NET, 23, (16, 16, 1, 1))),
    net_case("the dense layer's weight must have the shape (7, 16), got (7, 17)", arrays=changed(NET, 28, (7, 17))),
    net_case("the dense layer's weight must have the shape (classes, C), got ()",
             arrays=[(NET_NUMBERS - 7 * 16 + 1,)], shapes=NET_SHAPES.replace(";7,16;", ";;")),
    net_case("the dense layer's bias must have the shape (7), got (8)", arrays=changed(NET, 29, (8,))),
    net_case("there is no unit 'maxout'", layers=NET_LAYERS.replace("atac 1", "maxout")),
    net_case("layer head has a setting without '=': unit", layers=NET_LAYERS.replace("head:unit=relu", "head:unit")),
    *(net_case("layers must be a stem, blocks, a head and a dense layer, separated by ';'", layers=layers)
      for layers in ("", "stem:", "stem:;dense:;head:", NET_LAYERS + ";block:", "block:;" + NET_LAYERS,
                     NET_LAYERS.replace("block", "brick"), NET_LAYERS.replace(";", " "))),
    frozen_case(f"weights must have the shape ({NET_NUMBERS}), got ({NET_NUMBERS - 1})", size=NET_NUMBERS - 1),
    frozen_case("an array is missing behind number", NET_SHAPES.rpartition(";")[0], NET_NUMBERS - 7),
    frozen_case("expected 31 arrays, got 32", NET_SHAPES + ";1", NET_NUMBERS + 1),
    *(frozen_case("attribute shapes must be ", shapes) for shapes in ("0,3", "3,x", "-3", "1.5", "1e300", "3,,3")),
    frozen_case("attribute shapes has an array of more than 2^31 elements", "999999999,999999999"),
    ("count must be a whole number of at least 1", "atac_nag", [(3,)] * 3, {"decays": "0"}),
    ("count must be a whole number of at least 1", "atac_nag", [(3,)] * 3, {"count": "1.5", "decays": "0"}),
    ("array 1 must have its weight's shape (3), got (4)", "atac_nag", [(3,), (4,), (3,)],
     {"count": "1", "decays": "0"}),
    ("array 5 must have its weight's shape (2, 2), got (4)", "atac_nag", [(3,)] * 3 + [(2, 2), (2, 2), (4,)],
     {"count": "2", "decays": "0 0"}),
    ("decays must be 1 numbers, got 2", "atac_nag", [(3,)] * 3, {"count": "1", "decays": "0 0"}),
    ("decays must be 1 numbers, got 0", "atac_nag", [(3,)] * 3, {"count": "1", "decays": "none"}),
    ("attribute lr must be a number, got 'fast'", "atac_nag", [(3,)] * 3, {"count": "1", "decays": "0", "lr": "fast"}),
]


def test_a_wrong_input_is_an_error_with_a_sentence():
    for said, operator, shapes, attributes in WRONG:
        for name in [operator, "atac_unit_inference"] if operator == "atac_unit" else [operator]:
            with pytest.raises(mx.MXNetError) as caught:
                call(name, shapes, **attributes)
            assert said in str(caught.value)


@pytest.mark.parametrize("operator, shapes, attributes", [
    ("atac_unit", [(2, 16, 5, 5)] + GATE, {"unit": "atac 1"}), ("atac_unit", [(2, 16, 5, 5)], {"unit": "relu"}),
    ("atac_unit", [(2, 16, 5, 5)] + XUNIT, {"unit": "xunit"}),
    ("atac_stem", [(2, 3, 8, 8), (3,), (3,), (3,), (16, 3, 3, 3)], {}),
    ("atac_block", [(2, 1, 5, 5, 16)] + BLOCK, {"unit1": "relu", "unit2": "relu"}),
    ("atac_block", [(2, 1, 5, 5, 16)] + BLOCK + GATE, {"unit1": "relu", "unit2": "relu", "refine": "atac 1"}),
    ("atac_block", [(2, 1, 5, 5, 16)] + BLOCK + [(16, 1, 5, 5)] + [(16,)] * 4 + SE,
     {"unit1": "relu", "unit2": "relu", "refine": "theta_plus"}),
    ("atac_head", [(2, 1, 5, 5, 16)] + [(16,)] * 4, {"unit": "relu"}),
    ("atac_net_inference", [(2, 3, 8, 8)] + NET, {"layers": NET_LAYERS}),
    ("atac_net_inference", [(2, 3, 8, 8), (NET_NUMBERS,)], {"layers": NET_LAYERS, "shapes": NET_SHAPES}),
    ("atac_nag", [(3,)] * 3, {"count": "1", "decays": "0"})])
class TestEveryOperator:
    def test_takes_as_many_arrays_as_it_needs(self, operator, shapes, attributes):
        call(operator, shapes, **attributes)
        for wrong in (shapes[:-1], shapes + [(1,)], []):
            with pytest.raises(mx.MXNetError):
                call(operator, wrong, **attributes)

    def test_computes_in_float32_only(self, operator, shapes, attributes):
        for place, dtype in itertools.product(range(len(shapes)), ("float64", "float16", "int32", "uint8")):
            types = ["float32"] * len(shapes)
            types[place] = dtype
            with pytest.raises(mx.MXNetError, match="the fused operators compute in float32 only"):
                call(operator, shapes, types, **attributes)

    def test_refuses_arrays_without_elements(self, operator, shapes, attributes):
        for axis in range(len(shapes[0])):
            empty = changed(shapes, 0, shapes[0][:axis] + (0,) + shapes[0][axis + 1:])
            with pytest.raises(mx.MXNetError):
                call(operator, empty, **attributes)

    def test_may_be_called_again_after_an_error(self, operator, shapes, attributes):
        with pytest.raises(mx.MXNetError):
            call(operator, changed(shapes, 0, (2, 2)), **attributes)
        found = call(operator, shapes, **attributes)
        assert np.isfinite((found[0] if isinstance(found, list) else found).asnumpy()).all()


def test_inference_has_no_gradient():
    x = mx.nd.ones((1, 2, 1, 1))
    x.attach_grad()
    with autograd.record():
        y = mx.nd.atac_unit_inference(x, unit="relu")
    with pytest.raises(mx.MXNetError, match="an operator for inference has no gradient; build the graph for training"):
        y.backward()
        mx.nd.waitall()


# NaN and infinity.

@pytest.mark.parametrize("norm", [False, True])
def test_nan_stays_nan(norm):
    for unit in (activation.ATAC, activation.SEActivation, activation.NiN, activation.XUnit, *SCALARS):
        block = Normed(unit, 24, norm)
        block.initialize()
        x = np.random.RandomState(0).normal(0, 1, (3, 24, 5, 5)).astype("float32")
        x[1, 20, 2, 3] = np.nan
        operator, arrays = Operator(block), mx.nd.array(x)
        assert np.isnan(operator(arrays).asnumpy()[1, 20, 2, 3]), unit
        with autograd.record():
            y = operator(arrays).asnumpy()
        assert np.isnan(y[1, 20, 2, 3]), unit
        if norm:  # the statistics are those of the batch: nothing in the channel is a number
            assert np.isnan(y[:, 20]).all() and np.isnan(block[0].running_var.data().asnumpy()[20]), unit


def test_huge_numbers():
    x = mx.nd.array(np.float32([1e38, 200, 90, 0, -90, -200, -1e30, np.inf]).reshape(1, 1, 1, 8))
    for unit in SCALARS:
        block = Normed(unit, 1, False)
        block.initialize()
        answer, expected = Operator(block)(x).asnumpy().ravel(), block(x).asnumpy().ravel()
        np.testing.assert_allclose(answer[:7], expected[:7], rtol=1e-5, atol=1e-8, err_msg=str(unit))
        assert not np.isfinite(answer[7]), unit


# The same bits.

BITS = """
import hashlib, sys
sys.path.insert(0, "tests")
import test_ops
print(test_ops.digest())
"""


def digest():
    """A checksum of a training step of each unit, with more images than groups, and of whole nets."""
    from ops import loader
    loader.load()
    found = hashlib.sha256()
    for unit in (activation.ATAC, activation.SEActivation, activation.PReLU, activation.NiN, activation.XUnit):
        mx.random.seed(0)
        block = Normed(unit, 32, True)
        block.initialize(mx.init.Normal(.3))
        generator = np.random.RandomState(0)
        x, dy = (generator.normal(0, 1, (37, 32, 7, 7)).astype("float32") for _ in range(2))
        for part in everything(block, Operator(block), x, dy):
            for name in sorted(part):
                found.update(part[name].tobytes())
    x, dy = np.random.RandomState(0).normal(0, 1, (37, 3, 16, 16)), np.random.RandomState(1).normal(0, 1, (37, 10))
    for unit, refinement in ((activation.ATAC, refine.GEThetaPlus), (activation.ReLU, refine.SE),
                             (activation.ATAC, refine.LocalSE)):
        mx.random.seed(0)
        net = CIFARResNetV2(1, 10, unit, refinement, input_size=16)
        net.initialize(mx.init.MSRAPrelu())
        forward, _ = fused.fuse(net, "on")
        y, _, gradients, statistics = fused_nets.step(net, forward, x.astype("float32"), dy.astype("float32"), False)
        for array in (y, *gradients.values(), *statistics.values()):
            found.update(array.tobytes())
    return found.hexdigest()


def test_the_same_bits_twice_and_with_any_number_of_threads():
    expected = digest()
    assert digest() == expected
    for threads in ("1", "2", "3"):
        done = fused_nets.run(BITS, OMP_NUM_THREADS=threads)
        assert done.stdout.strip() == expected, done.stderr


# The update of all parameters.

def updates(shapes, seed=0):
    generator = np.random.RandomState(seed)
    return [[mx.nd.array(generator.normal(0, scale, shape)) for shape in shapes] for scale in (1, 1, .1)]


@pytest.mark.parametrize("lr, momentum, rescale", [(.1, .9, 1 / 128), (.2, .5, 1.), (1e-7, .99, 1e-3), (.1, 1e-9, 1.)])
def test_the_update_is_mxnets_to_the_bit(lr, momentum, rescale):
    shapes = [(16, 3, 3, 3), (16,), (1,), (10, 64), (7,), (33, 5)]
    decays = [1e-4, 0., 1e-3, .1, 1e-4, 1 / 3]
    ours, mxnets = updates(shapes), updates(shapes)
    for step in range(3):
        grads = updates(shapes, step + 1)[0]
        nag.update_all(ours[0], grads, ours[2], lr, momentum, decays, rescale)
        for weight, grad, state, wd in zip(mxnets[0], grads, mxnets[2], decays):
            mx.nd.nag_mom_update(weight, grad, state, out=weight, lr=lr, momentum=momentum, wd=wd,
                                 rescale_grad=rescale)
    for found, expected in zip(ours[0] + ours[2], mxnets[0] + mxnets[2]):
        assert found.asnumpy().tobytes() == expected.asnumpy().tobytes()


def test_a_training_with_the_update_has_the_bits_of_one_without():
    found = []
    for update_all in (nag.update_all, None):
        net = tiny.ready(tiny.net())
        generator = np.random.RandomState(0)
        batches = [(lr, generator.normal(0, 1, (8, 3, 32, 32)).astype("float32"), generator.randint(0, 10, 8))
                   for lr in (.1, .1, .01)]
        tiny.train(tiny.program(net, update_all=update_all), batches)
        found.append([value.tobytes() for value in tiny.numbers_of(net).values()])
    assert found[0] == found[1]


def test_an_update_of_nothing_or_of_unequal_lists_is_an_error():
    weights, grads, momenta = updates([(3,), (4,)])
    for arguments in (([], [], [], []), (weights, grads, momenta, [0.]), (weights, grads[::-1], momenta, [0., 0.])):
        with pytest.raises(mx.MXNetError):
            nag.update_all(*arguments[:3], .1, .9, arguments[3], 1.)
            mx.nd.waitall()


# Processors with narrower registers than this one's.

NARROW = """
import sys
sys.path.insert(0, "tests")
from support import runtime
runtime.prepare()
from ops import loader
loader.load(sys.argv[1])
import test_ops
if len(sys.argv) > 2:
    test_ops.narrow()
print(test_ops.seconds_of_a_step())
"""


def narrow():
    for unit in (activation.ATAC, activation.SEActivation, activation.NiN, activation.XUnit, *SCALARS):
        assert_parity(lambda: Normed(unit, 24, True), (5, 24, 7, 7))  # noqa: B023
    test_convolutions(32, (7, 9))


def seconds_of_a_step():
    """Of a processor, in the fastest of five: other programs take none of them."""
    net = CIFARResNetV2(1, 10, activation.ATAC)
    net.initialize()
    forward, _ = fused.fuse(net, "on")
    x, dy = np.ones((32, 3, 32, 32), "float32"), np.ones((32, 10), "float32")
    found = []
    for _ in range(5):
        began = time.process_time()
        fused_nets.step(net, forward, x, dy, input_gradient=False)
        found.append(time.process_time() - began)
    return min(found)


@pytest.fixture(scope="module")
def own_seconds():
    """Of a step on this processor's own registers."""
    return float(fused_nets.run(NARROW, build.library(), OMP_NUM_THREADS="1").stdout)


# -O1 for the registers that few processors have: it compiles in half the time.
@pytest.mark.parametrize("target, needs, level, slower", [("x86-64-v3", "avx2", "-O3", 8),
                                                          ("x86-64-v2", "sse4_2", "-O1", 20)])
def test_narrower_registers(target, needs, level, slower, own_seconds, tmp_path, monkeypatch):
    """The same numbers, and no slower than the registers are: GCC keeps vectors wider than them in memory."""
    if needs not in build.instruction_sets().split():
        pytest.skip(f"this processor has no {needs}")
    flags = tuple({"-O3": level, "-march=native": f"-march={target}"}.get(flag, flag) for flag in build.FLAGS)
    monkeypatch.setattr(build, "FLAGS", flags)
    monkeypatch.setattr(build, "BUILT", tmp_path)
    library, _ = build.build()
    done = fused_nets.run(NARROW, library, "narrow", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < slower * own_seconds


# Every memory access and every undefined operation, checked by the compiler's sanitizers.

SANITIZED = """
import sys
sys.path.insert(0, "tests")
from support import runtime
runtime.prepare()
from ops import loader
loader.load(sys.argv[1])
import test_ops
test_ops.exercise()
print("finished")
"""


def exercise():
    """A training step and inference of everything, on small arrays of awkward sizes, and errors between them."""
    units = (activation.ATAC, activation.SEActivation, activation.NiN, activation.XUnit, *SCALARS)
    for unit, norm in itertools.product(units, (False, True)):
        for channels, size in ((5, (3, 5)), (24, (1, 1)), (32, (7, 7))):
            block = Normed(unit, channels, norm, **({"reduction": 1} if unit in units[:3] else {}))
            block.initialize()
            x = np.random.RandomState(0).normal(0, 1, (3, channels, *size)).astype("float32")
            everything(block, Operator(block), x, x)
    for unit, refinement, blocks, size, images in (
            (activation.ATAC, None, 2, 12, 3), (activation.SEActivation, None, 1, 13, 2),
            (activation.PReLU, None, 1, 9, 33), (activation.ATAC, None, 1, 1, 2), (activation.NiN, None, 1, 7, 3),
            (activation.ReLU, refine.SE, 1, 9, 3), (activation.ReLU, refine.GEThetaMinus, 1, 1, 2),
            (activation.ReLU, refine.GETheta, 2, 12, 33), (activation.ReLU, refine.GEThetaPlus, 1, 4, 3),
            (activation.ReLU, refine.LocalSE, 1, 7, 3), (activation.XUnit, refine.SE, 1, 9, 3),
            (activation.XUnit, None, 1, 4, 33)):
        net = CIFARResNetV2(blocks, 7, unit, refinement, input_size=size // 4 * 4 or 4)
        net.initialize()
        forward, _ = fused.fuse(net, "on")
        x = np.random.RandomState(0).normal(0, 1, (images, 3, size, size)).astype("float32")
        np.testing.assert_array_equal(forward.frozen()(mx.nd.array(x)).asnumpy(),
                                      forward(mx.nd.array(x)).asnumpy())
        dy = np.ones((images, 7), "float32")
        for input_gradient in (True, False):
            fused_nets.step(net, forward, x, dy, input_gradient)
        forward(mx.nd.array(x)).asnumpy()
    for unit, stride, size in ((activation.ATAC, 1, 7), (activation.XUnit, 2, 5), (activation.ReLU, 1, 1)):
        block = Bottleneck(16, 8, stride, 1, unit)
        block.initialize()
        forward = inside.with_middles(block, [block])
        for images in (3, 1):
            x = mx.nd.array(np.random.RandomState(0).normal(0, 1, (images, 8, size, size)))
            assert fused_nets.distance(forward(x).asnumpy(), block(x).asnumpy()) < 1e-5
    for _, operator, shapes, attributes in WRONG:
        with contextlib.suppress(mx.MXNetError):
            call(operator, shapes, **attributes)
    nag.update_all(*updates([(3,), (2, 5), (1,)]), .1, .9, [0., .1, .2], 1.)
    mx.nd.waitall()


def sanitizers():
    """Paths of the sanitizers' libraries, None where the compiler has none."""
    found = []
    for name in ("libasan.so", "libubsan.so"):
        done = subprocess.run([*build.compiler(), f"-print-file-name={name}"], capture_output=True, text=True)
        if done.returncode or not os.path.isabs(done.stdout.strip()):  # only the name itself: not found
            return None
        found.append(os.path.realpath(done.stdout.strip()))
    return found


@pytest.mark.skipif(build.compiler() is None, reason="there is no C++ compiler to build with the sanitizers")
def test_the_sanitizers_find_nothing():
    libraries = sanitizers()
    if libraries is None:
        pytest.skip("the compiler comes without libasan or libubsan")
    built = subprocess.run([sys.executable, "-m", "ops.build", "--sanitize"], cwd=fused_nets.ROOT,
                           capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    library = fused_nets.ROOT / built.stdout.partition(": ")[2].strip()
    done = fused_nets.run(SANITIZED, library, LD_PRELOAD=":".join(libraries), OMP_NUM_THREADS="2",
                          ASAN_OPTIONS="detect_leaks=0:verify_asan_link_order=0", UBSAN_OPTIONS="print_stacktrace=1")
    assert done.returncode == 0 and done.stdout.endswith("finished\n"), done.stderr[-4000:]
    assert "runtime error" not in done.stderr and "AddressSanitizer" not in done.stderr, done.stderr[-4000:]
