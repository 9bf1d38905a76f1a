"""The CIFAR host: its sites, its partial replacements, its arithmetic and its parameter names."""
import functools

import mxnet as mx
import numpy as np
import numpy_units as plain
import pytest

from model import activation, refine
from model.cifar_resnet import BasicBlockV2, CIFARResNetV2, Site, replace_sites, replace_stages, sites
from model.complexity import count
from support.errors import InputError

# Specification, section 1, Figure 6: the sites of b = 3 from the last one back, with their channels.
FROM_THE_LAST = [
    ("head", 64),
    ("s3b3.act2", 64), ("s3b3.act1", 64), ("s3b2.act2", 64), ("s3b2.act1", 64), ("s3b1.act2", 64), ("s3b1.act1", 32),
    ("s2b3.act2", 32), ("s2b3.act1", 32), ("s2b2.act2", 32), ("s2b2.act1", 32), ("s2b1.act2", 32), ("s2b1.act1", 16),
    ("s1b3.act2", 16), ("s1b3.act1", 16), ("s1b2.act2", 16), ("s1b2.act1", 16), ("s1b1.act2", 16), ("s1b1.act1", 16),
]
# Specification, section 1, Figure 6: totals after k = 0..19 replacements by ATAC, the last site first.
REPLACED_FROM_THE_LAST = [
    273670, 278150, 282630, 287110, 291590, 296070, 300550, 301766, 302982, 304198, 305414, 306630, 307846, 308198,
    308550, 308902, 309254, 309606, 309958, 310310]


def randomised(net):
    """The net in float64 with random numbers, and these numbers by name."""
    net = plain.filled(net)
    net.cast("float64")
    return net, {name: parameter.data().asnumpy() for name, parameter in net._collect_params_with_prefix().items()}


def total(activations, blocks):
    return count(CIFARResNetV2(blocks, activation=activations)).total


# Sites.

def test_there_are_six_sites_a_block_and_the_head():
    for blocks in (1, 2, 5):
        found = sites(blocks)
        assert [sum(site.channels == channels for site in found) for channels in (16, 32, 64)] \
            == [2 * blocks + 1, 2 * blocks, 2 * blocks]
        assert len({site.name for site in found}) == len(found) == 6 * blocks + 1


def test_sites_run_in_the_order_of_the_data():
    assert [(site.name, site.channels) for site in reversed(sites(3))] == FROM_THE_LAST
    assert sites(1)[0] == Site("s1b1.act1", 1, 16)
    assert sites(1)[-1] == Site("head", None, 64)


def test_every_site_gets_its_own_constructor_with_its_channels():
    asked = []

    def recorder(index):
        def build(channels):
            asked.append((index, channels))
            return activation.ReLU(channels)
        return build

    CIFARResNetV2(2, activation=[recorder(index) for index in range(13)])
    assert asked == [(index, site.channels) for index, site in enumerate(sites(2))]


def test_the_sites_names_tell_where_a_unit_stands():
    """A unit put at one site only has to be found at the place in the net that the site's name says."""
    for index, site in enumerate(sites(2)):
        units = [activation.ReLU] * 13
        units[index] = activation.ATAC
        net = CIFARResNetV2(2, activation=units)
        if site.name == "head":
            found = net.features[6]
        else:
            stage, block, act = int(site.name[1]), int(site.name[3]), site.name[5:]
            assert stage == site.stage
            found = getattr(net.features[stage + 1][block - 1], act)
        assert isinstance(found, activation.ATAC)
        assert found.gate[0].weight.shape[1] == site.channels


# Replacement.

def test_layer_wise_replacement_from_the_last_site_and_from_the_first():
    """What is replaced from the first is what the other way round leaves, so the two surpluses add up to the whole."""
    def replaced_by(units):
        return sorted(site.name for site, unit in zip(sites(3), units) if unit is activation.ATAC)

    for replaced in range(20):
        last = replace_sites(3, activation.ATAC, replaced)
        first = replace_sites(3, activation.ATAC, 19 - replaced, start="first")
        assert replaced_by(last) == sorted(name for name, _ in FROM_THE_LAST[:replaced])
        assert replaced_by(first) == sorted(name for name, _ in FROM_THE_LAST[replaced:])
        assert total(last, 3) == REPLACED_FROM_THE_LAST[replaced]
        assert total(first, 3) == 273670 + 310310 - REPLACED_FROM_THE_LAST[replaced]


def test_backward_by_stages_is_layer_wise_from_the_last():
    for act_layers, replaced in enumerate((0, 1, 7, 13, 19)):
        assert replace_stages(3, activation.ATAC, act_layers) == replace_sites(3, activation.ATAC, replaced)
        assert replace_stages(3, activation.ATAC, act_layers, "bac") == replace_sites(3, activation.ATAC, replaced)
    for act_layers, expected in enumerate((78342, 82822, 88518, 90086, 90790)):
        assert total(replace_stages(1, activation.ATAC, act_layers, "bac"), 1) == expected


def test_forward_by_stages_leaves_the_head_for_last():
    for act_layers in range(5):
        stages = (1, 2, 3, None)[:act_layers]
        units = replace_stages(2, activation.ATAC, act_layers, "pre")
        assert [unit is activation.ATAC for unit in units] == [site.stage in stages for site in sites(2)]


def test_the_other_sites_get_the_rest():
    assert set(replace_sites(1, activation.ATAC, 3, rest=activation.SELU)) == {activation.ATAC, activation.SELU}
    assert set(replace_stages(1, activation.ATAC, 3, rest=activation.SELU)) == {activation.ATAC, activation.SELU}


@pytest.mark.parametrize("call, said", [
    (lambda: replace_sites(3, activation.ATAC, 20), "20 sites cannot be replaced: the host with blocks=3 has 19"),
    (lambda: replace_sites(3, activation.ATAC, -1), "number of replaced sites must be a whole number of at least 0"),
    (lambda: replace_sites(3, activation.ATAC, 1.5), "the number of replaced sites must be a whole number"),
    (lambda: replace_sites(3, activation.ATAC, 1, "middle"), "replacement starts at 'last' or 'first', got 'middle'"),
    (lambda: replace_sites(0, activation.ATAC, 0), "blocks must be a whole number of at least 1, got 0"),
    (lambda: replace_stages(3, activation.ATAC, 5), "0 to 4, got 5"),
    (lambda: replace_stages(3, activation.ATAC, -1), "act_layers must be a whole number of at least 0, got -1"),
    (lambda: replace_stages(3, activation.ATAC, 1, "fwd"), "act_order is 'bac' .* or 'pre' .*, got 'fwd'"),
])
def test_impossible_replacements_are_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()


# The block and the net.

def test_a_block_has_a_shortcut_of_its_own_only_where_the_channels_change():
    assert BasicBlockV2(16, 16, 1, 32, [activation.ReLU] * 2).downsample is None
    bare = BasicBlockV2(32, 16, 2, 16, [activation.ReLU] * 2).downsample
    assert bare.weight.shape == (32, 16, 1, 1)
    assert bare.bias is None


@pytest.mark.parametrize("mode", plain.MODES)
@pytest.mark.parametrize("blocks, classes, unit, statement", [
    (1, 10, activation.ReLU, plain.relu), (2, 3, activation.ReLU, plain.relu), (1, 10, activation.Sine, plain.sine)])
def test_the_whole_net_is_its_formula(blocks, classes, unit, statement, mode):
    net, numbers = randomised(CIFARResNetV2(blocks, classes, unit))
    if mode is not None:
        net.hybridize(**mode)
    images = np.random.RandomState(1).normal(0, 1, (2, 3, 32, 32))
    expected = plain.resnet_v2(images, numbers, blocks, statement)
    assert expected.shape == (2, classes)
    assert expected.std() > 0.05
    for _ in range(2):  # the second call runs the compiled graph
        logits = net(mx.nd.array(images, dtype="float64"))
        np.testing.assert_allclose(logits.asnumpy(), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("refinement, make", [
    ("LocalSE", refine.LocalSE), ("GETheta", refine.GETheta), ("GEThetaMinus", refine.GEThetaMinus)])
def test_a_refinement_weighs_the_residual_and_not_the_shortcut(refinement, make):
    block, numbers = randomised(BasicBlockV2(32, 16, 2, 4, [activation.ReLU] * 2, make))
    x = np.random.RandomState(1).normal(0, 1, (2, 16, 8, 8))
    z = plain.convolution(plain.relu(plain.batch_norm(x, numbers, "bn1", False)), numbers["conv1.weight"], 2, 1)
    z = plain.convolution(plain.relu(plain.batch_norm(z, numbers, "bn2", False)), numbers["conv2.weight"], 1, 1)
    renamed = {}
    for own, stated in {"LocalSE": [(0, "first"), (1, "first_bn"), (3, "second"), (4, "second_bn")],
                        "GETheta": [(0, "gather"), (1, "gather_bn")], "GEThetaMinus": []}[refinement]:
        renamed.update({name.replace(f"refine.gate.{own}.", f"{stated}."): value for name, value in numbers.items()
                        if name.startswith(f"refine.gate.{own}.")})
    statement = {"LocalSE": plain.atac, "GETheta": plain.theta, "GEThetaMinus": plain.theta_minus}[refinement]
    expected = plain.convolution(x, numbers["downsample.weight"], 2) + statement(z, renamed, False)
    np.testing.assert_allclose(block(mx.nd.array(x, dtype="float64")).asnumpy(), expected, rtol=1e-8, atol=1e-10)


MIXED = [activation.ReLU, activation.ATAC, functools.partial(activation.XUnit, kernel_size=3), activation.Swish,
         functools.partial(activation.SEActivation, reduction=4), activation.NiN, activation.PReLU]


def test_imperative_and_hybrid_agree_on_a_net_of_mixed_units_in_training():
    images = mx.nd.random.normal(shape=(2, 3, 32, 32), dtype="float64")
    seen = []
    for mode in plain.MODES:
        net, _ = randomised(CIFARResNetV2(1, 10, MIXED))
        if mode is not None:
            net.hybridize(**mode)
        with mx.autograd.record():
            logits = net(images)
        logits.backward()
        gradients = [parameter.grad().asnumpy() for parameter in net.collect_params().values()
                     if parameter.grad_req != "null"]
        statistics = [parameter.data().asnumpy() for name, parameter in net.collect_params().items()
                      if "running" in name]
        seen.append([logits.asnumpy(), *gradients, *statistics])
    for others in seen[1:]:
        for ours, theirs in zip(seen[0], others):
            np.testing.assert_allclose(theirs, ours, rtol=1e-7, atol=1e-9)


def test_features_and_output_make_the_net():
    net, _ = randomised(CIFARResNetV2(1, 7, activation.ATAC))
    images = mx.nd.random.normal(shape=(2, 3, 32, 32), dtype="float64")
    features = net.features(images)
    assert features.shape == (2, 64)
    np.testing.assert_array_equal(net.output(features).asnumpy(), net(images).asnumpy())


def test_the_input_batch_norm_learns_nothing():
    net = CIFARResNetV2(1)
    assert net.features[0].gamma.grad_req == net.features[0].beta.grad_req == "null"
    net, _ = randomised(net)
    images = mx.nd.random.normal(shape=(2, 3, 32, 32), dtype="float64")
    before = net(images).asnumpy()
    net.features[0].gamma.set_data(mx.nd.array([5, 6, 7], dtype="float64"))
    np.testing.assert_array_equal(net(images).asnumpy(), before)  # scale=False: gamma is never read


def test_other_image_sizes_pass_where_no_module_depends_on_them():
    net = CIFARResNetV2(1, activation=activation.ATAC)
    net.initialize()
    assert net(mx.nd.zeros((1, 3, 40, 24))).shape == (1, 10)
    net = CIFARResNetV2(1, refinement=refine.GETheta, input_size=40)
    net.initialize()
    assert net(mx.nd.zeros((1, 3, 40, 40))).shape == (1, 10)


def test_parameter_names_of_the_atac_net_are_frozen():
    """Files in the world are read by these names; this list is written out so that no refactoring moves it."""
    def norm(name):
        return {f"{name}.{number}" for number in ("gamma", "beta", "running_mean", "running_var")}

    def unit(name):
        return {f"{name}.gate.0.weight", f"{name}.gate.3.weight"} | norm(f"{name}.gate.1") | norm(f"{name}.gate.4")

    expected = norm("features.0") | {"features.1.weight"} | norm("features.5") | unit("features.6") \
        | {"output.weight", "output.bias"}
    for block in ("features.2.0", "features.3.0", "features.4.0"):
        expected |= norm(f"{block}.bn1") | norm(f"{block}.bn2") | unit(f"{block}.act1") | unit(f"{block}.act2")
        expected |= {f"{block}.conv1.weight", f"{block}.conv2.weight"}
    expected |= {"features.3.0.downsample.weight", "features.4.0.downsample.weight"}
    assert set(CIFARResNetV2(1, activation=activation.ATAC)._collect_params_with_prefix()) == expected


@pytest.mark.parametrize("make, expected", [
    ({"activation": activation.PReLU}, {"features.2.0.act1.alpha", "features.6.alpha"}),
    ({"activation": activation.SEActivation},
     {"features.2.0.act1.gate.1.weight", "features.6.gate.4.weight", "features.6.gate.5.running_var"}),
    ({"activation": activation.XUnit},
     {"features.2.0.act1.gate.0.gamma", "features.2.0.act1.gate.2.weight", "features.2.0.act1.gate.2.bias"}),
    ({"activation": activation.NiN},
     {"features.2.0.act1.1.weight", "features.2.0.act1.2.gamma", "features.6.4.weight", "features.6.5.beta"}),
    ({"refinement": refine.SE}, {"features.2.0.refine.gate.1.weight", "features.2.0.refine.gate.3.bias"}),
    ({"refinement": refine.GEThetaPlus}, {"features.2.0.refine.gate.0.weight", "features.2.0.refine.gate.1.gamma",
                                          "features.2.0.refine.gate.4.bias"}),
])
def test_parameter_names_of_the_other_nets(make, expected):
    assert expected <= set(CIFARResNetV2(1, **make)._collect_params_with_prefix())


@pytest.mark.parametrize("arguments, said", [
    ({"blocks": 0}, "blocks must be a whole number of at least 1, got 0"),
    ({"blocks": 2.5}, "blocks must be a whole number"),
    ({"blocks": "3"}, "blocks must be a whole number"),
    ({"blocks": True}, "blocks must be a whole number"),
    ({"classes": 0}, "classes must be a whole number of at least 1, got 0"),
    ({"classes": None}, "classes must be a whole number"),
    ({"input_size": 30}, "input_size must be a multiple of 4"),
    ({"input_size": 0}, "input_size must be a whole number of at least 1"),
    ({"activation": [activation.ReLU] * 18}, "blocks=3 has 19 activation sites, got 18 constructors"),
    ({"activation": [activation.ReLU] * 7}, "blocks=3 has 19 activation sites, got 7 constructors"),
    ({"activation": []}, "blocks=3 has 19 activation sites, got 0 constructors"),
    ({"activation": "relu"}, "activation must be a constructor, or a list of constructors"),
    ({"activation": None}, "activation must be a constructor, or a list of constructors"),
    ({"activation": ["relu"] * 19}, "activation must be a constructor, or a list of constructors"),
])
def test_wrong_arguments_are_refused(arguments, said):
    with pytest.raises(InputError, match=said):
        CIFARResNetV2(**arguments)
