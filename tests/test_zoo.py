"""Names to nets."""
import importlib.util

import mxnet as mx
import numpy as np
import pytest

import model
from model import activation, complete_arguments, get_model, image_size, list_models, load_params, refine
from model.cifar_resnet import replace_sites, replace_stages
from support.errors import InputError

IMAGES = np.random.RandomState(5).normal(0, 1, (2, 3, 32, 32)).astype("float32")


def logits_of(net, ctx=None):
    return net(mx.nd.array(IMAGES, ctx=ctx or mx.cpu())).asnumpy()


# get_model.

EVERY = [("resnet20_v2", activation.ReLU), ("leakyrelu_resnet20_v2", activation.LeakyReLU),
         ("prelu_resnet20_v2", activation.PReLU), ("elu_resnet20_v2", activation.ELU),
         ("selu_resnet20_v2", activation.SELU), ("gelu_resnet20_v2", activation.GELU),
         ("swish_resnet20_v2", activation.Swish), ("sine_resnet20_v2", activation.Sine),
         ("xunit_resnet20_v2", activation.XUnit), ("atac_resnet20_v2", activation.ATAC),
         ("seactivation_resnet20_v2", activation.SEActivation), ("nin_resnet20_v2", activation.NiN),
         ("localsenet_resnet20_v2", refine.LocalSE), ("senet_resnet20_v2", refine.SE),
         ("genet_resnet20_v2", refine.GETheta)]


def test_list_models_has_every_net_of_the_cifar_tables():
    assert list_models() == sorted(list_models())
    assert set(list_models()) >= {name for name, _ in EVERY}


@pytest.mark.parametrize("name, unit", EVERY)
def test_a_name_builds_its_net_in_any_case_of_letters(name, unit):
    net = get_model(name.upper(), blocks=2, classes=7)
    block = net.features[3][1]
    if issubclass(unit, (refine.LocalSE, refine.SE, refine.GETheta)):
        assert type(block.refine) is unit
        assert type(block.act1) is type(block.act2) is type(net.features[6]) is activation.ReLU
    else:
        assert block.refine is None
        assert type(block.act1) is type(block.act2) is type(net.features[6]) is unit
    net.initialize()
    assert logits_of(net).shape == (2, 7)


def test_the_defaults_are_three_blocks_and_ten_classes():
    net = get_model("resnet20_v2")
    assert [len(net.features[stage]) for stage in (2, 3, 4)] == [3, 3, 3]
    assert net.output.weight.shape == (10, 64)
    assert net.output.weight._data is None  # not initialized


@pytest.mark.parametrize("name, classes", [("resnet20_v2", 10), ("resnet50_v1b", 1000), ("atac_resnet50_v1", 1000)])
def test_the_number_of_classes_is_the_nets_own_unless_it_is_given(name, classes):
    assert complete_arguments(name, {})["classes"] == classes

    def head(**given):
        net = get_model(name, **given)
        return (net.output if name.endswith("_v2") else net.fc).weight.shape[0]

    assert [head(), head(classes=None), head(classes=7)] == [classes, classes, 7]


@pytest.mark.parametrize("name, arguments, side", [
    ("resnet20_v2", {}, 32), ("ATAC_resnet20_v2", {"blocks": 1}, 32), ("genet_resnet20_v2", {"input_size": 64}, 64),
    ("resnet50_v1b", {}, 224), ("aa_resnet50_v1b", {}, 224), ("aa_resnet50_v1b", {"input_size": 96}, 96)])
def test_the_side_of_the_images_is_known_by_name(name, arguments, side):
    assert image_size(name, arguments) == side


def test_the_side_of_the_images_of_no_net_is_refused():
    with pytest.raises(InputError, match="unknown model 'vgg'"):
        image_size("vgg", {})
    with pytest.raises(TypeError, match="no argument 'reduction'"):
        image_size("resnet50_v1b", {"reduction": 2})


@pytest.mark.parametrize("name, arguments, found", [
    ("atac_resnet20_v2", {"reduction": 4}, lambda net: net.features[6].gate[0].weight.shape == (16, 64, 1, 1)),
    ("atac_resnet20_v2", {"inner_relu": False}, lambda net: len(net.features[6].gate) == 5),
    ("seactivation_resnet20_v2", {"reduction": 8}, lambda net: net.features[6].gate[1].weight.shape == (8, 64, 1, 1)),
    ("xunit_resnet20_v2", {"kernel_size": 5}, lambda net: net.features[6].gate[2].weight.shape == (64, 1, 5, 5)),
    ("leakyrelu_resnet20_v2", {"alpha": 0.3}, lambda net: net.features[6]._alpha == 0.3),
    ("elu_resnet20_v2", {"alpha": 0.5}, lambda net: net.features[6]._alpha == 0.5),
    ("swish_resnet20_v2", {"beta": 2}, lambda net: net.features[6]._beta == 2),
    ("nin_resnet20_v2", {"layers": 1}, lambda net: len(net.features[6]) == 4),
    ("nin_resnet20_v2", {"reduction": 4}, lambda net: net.features[6][1].weight.shape == (16, 64, 1, 1)),
    ("localsenet_resnet20_v2", {"reduction": 2}, lambda net: net.features[4][0].refine.gate[0].weight.shape[0] == 32),
    ("senet_resnet20_v2", {"reduction": 4}, lambda net: net.features[4][0].refine.gate[1].weight.shape[0] == 16),
    ("genet_resnet20_v2", {"variant": "theta_minus"},
     lambda net: type(net.features[2][0].refine) is refine.GEThetaMinus),
    ("genet_resnet20_v2", {"variant": "theta_plus", "reduction": 8},
     lambda net: getattr(net.features[4][0].refine.gate[2], "weight", np.zeros(0)).shape == (8, 64, 1, 1)),
    ("genet_resnet20_v2", {"input_size": 64},
     lambda net: [net.features[stage][0].refine.gate[0].weight.shape[2] for stage in (2, 3, 4)] == [64, 32, 16]),
])
def test_keyword_arguments_reach_the_unit(name, arguments, found):
    assert found(get_model(name, blocks=1, **arguments))
    assert not found(get_model(name, blocks=1))


def test_partial_replacement_by_keywords():
    def units(net):
        blocks = [block for stage in (2, 3, 4) for block in net.features[stage]]
        return [type(act) for block in blocks for act in (block.act1, block.act2)] + [type(net.features[6])]

    atac, relu = activation.ATAC, activation.ReLU
    assert units(get_model("atac_resnet20_v2", replaced_sites=5)) == replace_sites(3, atac, 5)
    assert units(get_model("atac_resnet20_v2", replaced_sites=0)) == [relu] * 19
    assert units(get_model("atac_resnet20_v2", replaced_sites=5, replace_from="first")) \
        == replace_sites(3, atac, 5, "first")
    assert units(get_model("atac_resnet20_v2", blocks=1, act_layers=2)) == replace_stages(1, atac, 2, "bac")
    assert units(get_model("atac_resnet20_v2", blocks=1, act_layers=2, act_order="pre")) \
        == replace_stages(1, atac, 2, "pre")
    assert units(get_model("atac_resnet20_v2", blocks=1, act_layers=2, replace_act="SELU")) \
        == replace_stages(1, atac, 2, "bac", activation.SELU)


@pytest.mark.parametrize("name, arguments, said", [
    ("resnet18", {}, "unknown model 'resnet18'; the models are aa_resnet50_v1, aa_resnet50_v1b, atac_resnet20_v2, "),
    (None, {}, "unknown model None; the models are "),
    ("atac_resnet20_v2", {"blocks": 0}, "blocks must be a whole number of at least 1, got 0"),
    ("atac_resnet20_v2", {"blocks": 2.5}, "blocks must be a whole number of at least 1, got 2.5"),
    ("atac_resnet20_v2", {"classes": 0}, "classes must be a whole number of at least 1, got 0"),
    ("atac_resnet20_v2", {"reduction": 3}, "reduction=3 does not divide channels=16; allowed here are 1, 2, 4, 8, 16"),
    ("atac_resnet20_v2", {"reduction": 32}, "reduction=32 does not divide channels=16"),
    ("atac_resnet20_v2", {"reduction": 0}, "reduction must be a whole number of at least 1, got 0"),
    ("senet_resnet20_v2", {"reduction": 32}, "reduction=32 does not divide channels=16"),
    ("genet_resnet20_v2", {"variant": "zero"}, "variant 'zero'; the variants are theta_minus, theta, theta_plus"),
    ("genet_resnet20_v2", {"variant": ["theta"]}, "the variants are theta_minus, theta, theta_plus"),
    ("genet_resnet20_v2", {"input_size": 30}, "input_size must be a multiple of 4"),
    ("xunit_resnet20_v2", {"kernel_size": 4}, "kernel_size must be odd"),
    ("nin_resnet20_v2", {"layers": 3}, "layers must be 1 or 2"),
    ("leakyrelu_resnet20_v2", {"alpha": -0.1}, "alpha must be a finite number of at least 0"),
    ("swish_resnet20_v2", {"beta": "1"}, "beta must be a finite number"),
    ("atac_resnet20_v2", {"replaced_sites": 20}, "20 sites cannot be replaced: the host with blocks=3 has 19"),
    ("atac_resnet20_v2", {"replaced_sites": 3, "replace_from": "middle"}, "'last' or 'first', got 'middle'"),
    ("atac_resnet20_v2", {"act_layers": 5}, "0 to 4, got 5"),
    ("atac_resnet20_v2", {"act_layers": 2, "act_order": "up"}, "act_order is 'bac'"),
    ("atac_resnet20_v2", {"act_layers": 2, "replaced_sites": 2}, "exclude each other"),
    ("atac_resnet20_v2", {"replace_act": "gate"}, "unknown unit 'gate'; the units are relu, leakyrelu, prelu"),
])
def test_values_that_are_not_allowed_are_a_sentence(name, arguments, said):
    with pytest.raises(InputError, match=said) as caught:
        get_model(name, **arguments)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_all_names():
    with pytest.raises(InputError) as caught:
        get_model("vgg")
    assert all(name in str(caught.value) for name in list_models())


@pytest.mark.parametrize("name, arguments, said", [
    ("atac_resnet20v2", {}, "unknown model 'atac_resnet20v2' (did you mean atac_resnet20_v2?); the models are "),
    ("ATAC-ResNet20-v2", {}, " (did you mean atac_resnet20_v2?); "),
    ("senet", {}, " (did you mean senet_resnet20_v2?); "),
    ("resnet50", {}, " (did you mean resnet50_v1b or resnet50_v1?); "),
    ("atac_resnet20_v2", {"redution": 4}, "no argument 'redution' (did you mean reduction?); it has "),
    ("atac_resnet20_v2", {"act_layers": 2, "replace_act": "leaky_relu"}, " (did you mean leakyrelu?); the units are "),
    ("atac_resnet20_v2", {"pretrained": "atac_resnet20_b1_cifar10"}, " (did you mean atac_resnet20_v2_b1_cifar10?); "),
])
def test_an_unknown_name_gets_the_nearest_ones(name, arguments, said):
    with pytest.raises((InputError, TypeError)) as caught:
        get_model(name, **arguments)
    assert said in str(caught.value) and len(str(caught.value)) < 700


@pytest.mark.parametrize("name, arguments, said", [
    ("resnet20_v2", {"reduction": 2}, "resnet20_v2 has no argument 'reduction'; it has blocks, classes,"),
    ("atac_resnet20_v2", {"kernel_size": 9}, "no argument 'kernel_size'; it has .*, reduction, inner_relu$"),
    ("xunit_resnet20_v2", {"r": 2}, "no argument 'r'; it has .*, kernel_size$"),
    ("senet_resnet20_v2", {"act_layers": 2}, "no argument 'act_layers'; it has blocks, classes, reduction$"),
    ("localsenet_resnet20_v2", {"inner_relu": False}, "no argument 'inner_relu'; it has blocks, classes, reduction$"),
    ("genet_resnet20_v2", {"reduction": 2}, "no argument 'reduction'; it has blocks, classes, variant, input_size$"),
    ("atac_resnet20_v2", {"channels": 2}, "no argument 'channels'"),
    ("senet_resnet20_v2", {"size": 2}, "no argument 'size'"),
    ("atac_resnet20_v2", {"prefix": "net_"}, "no argument 'prefix'"),
])
def test_arguments_that_the_net_does_not_have_are_a_type_error(name, arguments, said):
    with pytest.raises(TypeError, match=said):
        get_model(name, **arguments)


def test_the_package_offers_its_public_names():
    torch = importlib.util.find_spec("torch")  # which two of the names need
    assert all(hasattr(model, name) for name in model.__all__ if torch or name not in ("from_torch", "to_torch"))
    assert model.get_model is get_model and model.load_params is load_params
