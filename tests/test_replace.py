"""Units in place of the ReLUs of nets that are not ours."""
import functools

import mxnet as mx
import numpy as np
import pytest
import tiny
from mxnet.gluon import nn
from mxnet.gluon.model_zoo import vision

from model import ATAC, NiN, ReLU, replace_activations
from support.errors import InputError

IMAGES = mx.nd.array(np.random.RandomState(0).normal(0, 1, (2, 3, 32, 32)))


def trained(net):
    net.initialize(mx.init.MSRAPrelu())
    net(IMAGES)
    return net


@pytest.mark.parametrize("hybridized", [False, True])
def test_a_net_with_weights_keeps_them_and_computes_with_the_units(hybridized, tmp_path):
    net = trained(vision.resnet18_v1(classes=4))
    if hybridized:
        net.hybridize()
    before, weights = net(IMAGES).asnumpy(), {name: parameter.data().asnumpy() for name, parameter in
                                              net._collect_params_with_prefix().items()}
    paths = replace_activations(net, functools.partial(ATAC, reduction=4), r"features\.[67].*body")
    assert paths == ["features.6.0.body.2", "features.6.1.body.2", "features.7.0.body.2", "features.7.1.body.2"]
    unit = net.features[7][1].body[2]
    assert isinstance(unit, ATAC) and unit.gate[0].weight.shape[:2] == (128, 512)
    for name, array in weights.items():
        after = net._collect_params_with_prefix()
        moved = next(key for key in after if after[key].shape == array.shape
                     and (after[key].data().asnumpy() == array).all())
        assert moved, name
    with mx.autograd.record():
        logits = net(IMAGES)
        logits.sum().backward()
    assert (logits.asnumpy() != before).all() and abs(unit.gate[0].weight.grad().asnumpy()).max() > 0
    net.save_parameters(str(tmp_path / "net.params"))
    again = vision.resnet18_v1(classes=4)
    replace_activations(again, functools.partial(ATAC, reduction=4), r"features\.[67].*body")
    again.load_parameters(str(tmp_path / "net.params"))
    np.testing.assert_array_equal(again(IMAGES).asnumpy(), net(IMAGES).asnumpy())


def test_a_relu_of_ours_in_place_of_theirs_changes_nothing():
    net = trained(vision.resnet18_v1(classes=4))
    before = net(IMAGES).asnumpy()
    assert len(replace_activations(net, lambda channels: ReLU(channels))) == 9
    np.testing.assert_array_equal(net(IMAGES).asnumpy(), before)


def test_relus_behind_dense_layers_and_in_our_units_stay():
    net = vision.vgg11(classes=4)
    assert len(replace_activations(net, ATAC)) == 8  # of ten: two are behind the dense layers
    with pytest.raises(InputError, match="no ReLU of the net matches where=''; its ReLU blocks are "):
        replace_activations(net, NiN)


def test_what_cannot_be_replaced_is_a_sentence():
    with pytest.raises(InputError, match="matches where='stage9'; its ReLU blocks are features.2, "):
        replace_activations(vision.resnet18_v1(), ATAC, "stage9")
    with pytest.raises(InputError, match="its ReLU blocks are none"):
        replace_activations(vision.mobilenet_v2_1_0(), ATAC)
    shared = nn.HybridSequential()
    relu = nn.Activation("relu")
    shared.add(nn.Conv2D(4, 1), relu, nn.Conv2D(4, 1), relu)
    with pytest.raises(InputError, match="the ReLU 1 is used 2 times in the net"):
        replace_activations(shared, ATAC, "^1$")


def test_nets_of_gluoncv_take_the_units():
    net = trained(tiny.gluoncv("model_zoo").get_model("resnet18_v1b", classes=4))
    paths = replace_activations(net, ATAC, r"layer[34].*relu1")
    assert paths == [f"layer{stage}.{block}.relu1" for stage in (3, 4) for block in (0, 1)]
    assert net(IMAGES).shape == (2, 4) and isinstance(net.layer4[1].relu1, ATAC)
