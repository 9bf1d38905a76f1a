"""What fuse returns: gradients, modes, attributes of norms, wrong inputs."""
import fused_nets
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn
from test_fused import OtherEpsilon, TwoReaders, UnitFirst, inputs, operators_in, started

from backend.gluon import fused, inference
from model import activation
from model.cifar_resnet import CIFARResNetV2, replace_sites
from support.errors import InputError

pytestmark = pytest.mark.usefixtures("fused_operators")


def whole():
    return CIFARResNetV2(1, 7, activation.ATAC)


# Gradients.

@pytest.mark.parametrize("make", [whole, TwoReaders, UnitFirst])
@pytest.mark.parametrize("train_mode", [True, False])
def test_what_lies_before_a_fused_net_gets_its_gradient(make, train_mode):
    """In training, and in inference mode, where MXNet differentiates with the running statistics."""
    net = started(make)
    double = fused_nets.in_float64(make, net)
    x, dy = inputs(4, 16, 7)
    found = []
    for forward, dtype in ((fused.fuse(net, "on")[0], "float32"), (double, "float64")):
        scale = mx.nd.array(np.linspace(.5, 1.5, 768).reshape((1, 3, 16, 16)), dtype=dtype)
        scale.attach_grad()
        with autograd.record(train_mode=train_mode):
            y = forward(mx.nd.broadcast_mul(mx.nd.array(x, dtype=dtype), scale))
        y.backward(mx.nd.array(dy, dtype=dtype), train_mode=train_mode)
        found.append(scale.grad.asnumpy())
    assert np.abs(found[1]).max() > 0 and fused_nets.distance(*found) < 1e-4


# Norms.

class Unscaled(nn.HybridSequential):
    """A BatchNorm whose gamma MXNet ignores, before a unit."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.add(nn.Conv2D(16, 3, in_channels=3), nn.BatchNorm(scale=False, in_channels=16), activation.ATAC(16),
                     nn.GlobalAvgPool2D(), nn.Flatten(), nn.Dense(7, in_units=16))


@pytest.mark.parametrize("change", [{"fix_gamma": True}, {"use_global_stats": True}, {"axis": 3}, {"eps": .1},
                                    {"momentum": .5}])
def test_a_norm_with_another_attribute_stays_gluons(change):
    """fix_gamma and axis change the answer, the others what training makes of it."""
    net = started(OtherEpsilon if "axis" in change else Unscaled)
    net[1]._kwargs.update({"fix_gamma": False, **change})
    forward, said = fused.fuse(net, "on")
    assert said.startswith("fused C++ operators for 1 unit")
    assert operators_in(forward.inference, net)[0].count("BatchNorm") == 1
    net[1]._kwargs["axis"] = 1
    x, _ = inputs(4, 16, 7)
    forward, _ = fused.fuse(net, "on")
    assert fused_nets.distance(forward(mx.nd.array(x)).asnumpy(), net(mx.nd.array(x)).asnumpy()) < 1e-5


def test_a_norm_inside_a_unit_or_a_net_with_another_attribute():
    net = started(TwoReaders)
    net.unit1.gate[1]._kwargs["fix_gamma"] = True
    assert fused.fuse(net, "on")[1].startswith("fused C++ operators for 1 unit")
    for place, fixed in ((0, False), (5, True)):
        net = started(whole)
        net.features[place]._kwargs["fix_gamma"] = fixed
        x = mx.nd.array(inputs(4, 16, 7)[0])
        forward, said = fused.fuse(net, "on")
        assert "is not a plain BatchNorm" in said
        assert fused_nets.distance(forward(x).asnumpy(), net(x).asnumpy()) < 1e-5


# Nets that do not fit.

def test_a_net_without_weights_or_with_another_head():
    net = whole()
    for wanted in ("auto", "on"):
        with pytest.raises(InputError, match="^the weights of CIFARResNetV2 are not all there .*; initialize it, run"):
            fused.fuse(net, wanted)
    net.initialize()
    net.output = nn.Dense(3, activation="relu", in_units=64)
    net.output.initialize()
    assert "its output is not a dense layer with bias" in fused.fuse(net, "on")[1]


# Inputs.

@pytest.mark.parametrize("form", ["whole", "units", "optimized", "folded"])
def test_an_input_that_the_net_cannot_take_is_a_sentence(form):
    net = started(whole if form != "units" else lambda: CIFARResNetV2(
        1, 7, replace_sites(1, activation.ATAC, 3, "last", activation.Sine)))
    example = mx.nd.array(inputs(2, 32, 7)[0])
    forward = {"optimized": lambda: inference.optimize(net, example)[0],
               "folded": lambda: inference.fold(net)}.get(form, lambda: fused.fuse(net, "on")[0])()
    assert forward is not net
    for shape in ((3, 32, 32), (2, 1, 32, 32), (2, 3072)):
        with pytest.raises(InputError, match=r"^this net takes arrays \(N, 3, H, W\), got one of shape \("):
            forward(mx.nd.zeros(shape))
    with pytest.raises(InputError, match="^this net takes an MXNet array, got a ndarray; mx.nd.array makes one"):
        forward(example.asnumpy())
    for shape in ((2, 3, 32, 32), (1, 3, 16, 16)):
        assert forward(mx.nd.zeros(shape)).shape == (shape[0], 7)
