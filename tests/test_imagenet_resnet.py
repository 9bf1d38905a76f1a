"""ResNet-50 and the nets of Table IV on it: counts, arithmetic, parameter names, GluonCV as the reference."""
import functools
from pathlib import Path

import mxnet as mx
import numpy as np
import numpy_units as plain
import pytest
import tiny
from authors_names import to_authors

from model import activation, get_model, imagenet_resnet, list_models, load_params, refine, self_attention, zoo
from model.array_names import from_authors
from model.complexity import count
from model.imagenet_resnet import Bottleneck, ResNet50, activated_stages
from support.errors import InputError

# Specification, section 2: model, arguments, total and trainable (whole numbers, or millions to the thousand where it
# has no more) and 10^9 multiply-adds.
COUNTS = [
    ("resnet50_v1b", {}, 25.610, 25.557, 4.089),
    ("resnet50_v1", {}, 25.610, 25.557, 3.858),
    ("se_resnet50_v1b", {}, 28.141, 28.088, 4.092),
    ("se_resnet50_v1", {}, 28.141, 28.088, 3.861),
    ("ge_resnet50_v1b", {"variant": "theta_minus"}, 25.610, None, 4.089),
    ("ge_resnet50_v1b", {"variant": "theta"}, 31.190, None, 4.095),
    ("ge_resnet50_v1b", {"variant": "theta_plus"}, 33.721, None, 4.097),
    ("ge_resnet50_v1", {}, 33.721, None, 3.866),
    ("atac_resnet50_v1b", {}, 28006312, 27934760, 4.398),
    ("atac_resnet50_v1b", {"act_layers": 1}, 27.201, None, 4.205),
    ("atac_resnet50_v1b", {"act_layers": 3}, 28.144, None, 4.539),
    ("atac_resnet50_v1b", {"act_layers": 4}, 28.170, None, 4.616),
    ("aa_resnet50_v1b", {}, 25.867, 25.814, 4.215),
    ("fa_resnet50_v1b", {}, 18.084, 18.031, 3.526),
    ("fa_resnet50_v1b", {"stem": "conv"}, 18.092, None, 3.483),
]
NAMES = sorted(name for name in list_models() if "resnet50" in name)
MODES = [None, {"static_alloc": True, "static_shape": True}]


def assert_is(found, stated):
    """A count against a stated one; a stated fraction is of millions."""
    assert stated is None or (found == stated if isinstance(stated, int) else round(found / 1e6, 3) == stated)


@pytest.mark.parametrize("name, arguments, total, trainable, giga", COUNTS)
def test_counts_are_those_of_the_specification(name, arguments, total, trainable, giga):
    found = count(get_model(name, **arguments), (3, 224, 224))
    assert_is(found.total, total)
    assert_is(found.trainable, trainable)
    assert found.macs / 1e9 == pytest.approx(giga, abs=6e-4)  # ATAC's 4.39747 stands there as 4.398


def test_multiply_adds_of_the_overheads_exactly():
    """From the widths: 18 units of C^2 multiply-adds at 14x14 and 7x7, the first of each stage before its stride."""
    def units(width, side, blocks, first_side):
        return width ** 2 * (first_side ** 2 + (2 * blocks - 1) * side ** 2)

    macs = {name: count(get_model(name), (3, 224, 224)).macs for name in
            ("resnet50_v1b", "resnet50_v1", "atac_resnet50_v1b", "atac_resnet50_v1")}
    assert macs["atac_resnet50_v1b"] - macs["resnet50_v1b"] == units(256, 14, 6, 28) + units(512, 7, 3, 14)
    assert macs["atac_resnet50_v1"] - macs["resnet50_v1"] == units(256, 14, 6, 14) + units(512, 7, 3, 7)


def test_the_released_choice_has_18_units_in_447_arrays():
    net = get_model("atac_resnet50_v1b")
    blocks = [block for stage in (net.layer1, net.layer2, net.layer3, net.layer4) for block in stage]
    units = [type(act) for block in blocks for act in (block.act1, block.act2)]
    assert units == [activation.ReLU] * 14 + [activation.ATAC] * 18
    assert len(net._collect_params_with_prefix()) == 447


# Parameter names.

def expected_names(activated=(), unit="act{}.gate"):
    """The names of section 4 of the specification, written out; activated: stages with ATAC units."""
    def norm(name):
        return {f"{name}.{number}" for number in ("gamma", "beta", "running_mean", "running_var")}

    names = {"conv1.weight", "fc.weight", "fc.bias"} | norm("bn1")
    for stage, blocks in ((1, 3), (2, 4), (3, 6), (4, 3)):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            for layer in (1, 2, 3):
                names |= {f"{name}.conv{layer}.weight"} | norm(f"{name}.bn{layer}")
            if stage in activated:
                for act in (1, 2):
                    inside = f"{name}.{unit.format(act)}"
                    names |= {f"{inside}.0.weight", f"{inside}.3.weight"} | norm(f"{inside}.1") | norm(f"{inside}.4")
        names |= {f"layer{stage}.0.downsample.0.weight"} | norm(f"layer{stage}.0.downsample.1")
    return names


@pytest.mark.parametrize("name, arguments, activated", [
    ("resnet50_v1b", {}, ()), ("resnet50_v1", {}, ()), ("atac_resnet50_v1b", {}, (3, 4)),
    ("atac_resnet50_v1b", {"act_layers": 4}, (1, 2, 3, 4)), ("atac_resnet50_v1", {"act_layers": [2]}, (2,))])
def test_parameter_names_are_frozen(name, arguments, activated):
    ours = set(get_model(name, **arguments)._collect_params_with_prefix())
    assert ours == expected_names(activated)
    assert {to_authors(one) for one in ours} == expected_names(activated, "relu{}.module")
    assert {from_authors(to_authors(one)) for one in ours} == ours


@pytest.mark.parametrize("name, expected", [
    ("se_resnet50_v1b", {"layer1.0.refine.gate.1.weight", "layer4.2.refine.gate.3.bias"}),
    ("ge_resnet50_v1b", {"layer1.0.refine.gate.0.weight", "layer2.0.refine.gate.1.gamma",
                         "layer4.2.refine.gate.4.bias"}),
    ("aa_resnet50_v1b", {"layer1.0.conv2.weight", "layer2.0.conv2.conv.weight", "layer3.1.conv2.qkv.bias",
                         "layer4.2.conv2.output.weight", "layer4.2.conv2.height", "layer4.2.conv2.width"}),
    ("fa_resnet50_v1b", {"conv1.query.weight", "conv1.mixture", "layer1.0.conv2.value.weight", "layer4.2.conv2.row",
                         "layer4.2.conv2.column"}),
])
def test_parameter_names_of_the_other_nets(name, expected):
    assert expected <= set(get_model(name)._collect_params_with_prefix())


# The block in NumPy.

BLOCK = {"conv1": "first", "conv2": "second", "conv3": "third"}


def filled(net, seed=0):
    """The net in float64 with random numbers that keep the size of what flows through; returns it and the numbers."""
    net.initialize(mx.init.Zero())
    net.cast("float64")
    parameters = net._collect_params_with_prefix()
    numbers = plain.random_numbers({name: parameters[name].shape for name in parameters}, np.random.RandomState(seed))
    for name, value in numbers.items():
        if name.endswith("weight"):
            value *= 2 / np.sqrt(np.prod(value.shape[1:]))
        parameters[name].set_data(mx.nd.array(value, dtype="float64"))
    return net, numbers


def inner(numbers, prefix, layers):
    """The numbers of a part under the names that its statement uses; layers: index in the gate to name."""
    return {f"{stated}.{number}": value for index, stated in layers.items()
            for name, value in numbers.items() for layer, _, number in [name.rpartition(".")]
            if layer == f"{prefix}.{index}"}


def bottleneck(x, p, stride, stride_first, unit=plain.relu, refine=lambda y: y):
    """conv, BN, unit, conv, BN, unit, conv, BN, refinement, plus the shortcut, ReLU; unit(y, name of the site)."""
    strides = (stride, 1) if stride_first else (1, stride)
    y = unit(plain.batch_norm(plain.convolution(x, p["conv1.weight"], strides[0]), p, "bn1", False), "act1")
    y = unit(plain.batch_norm(plain.convolution(y, p["conv2.weight"], strides[1], 1), p, "bn2", False), "act2")
    y = refine(plain.batch_norm(plain.convolution(y, p["conv3.weight"]), p, "bn3", False))
    if "downsample.0.weight" in p:
        x = plain.batch_norm(plain.convolution(x, p["downsample.0.weight"], stride), p, "downsample.1", False)
    return plain.relu(x + y)


@pytest.mark.parametrize("stride_first", [False, True])
@pytest.mark.parametrize("stride, in_channels, atac, make, statement, layers", [
    (1, 16, False, None, None, {}),
    (1, 8, False, refine.GEThetaMinus, plain.theta_minus, {}),
    (2, 8, True, None, None, {}),
    (2, 16, False, functools.partial(refine.SE, reduction=4), plain.squeeze_excitation, {1: "first", 3: "second"}),
    (2, 8, False, refine.GETheta, plain.theta, {0: "gather", 1: "gather_bn"}),
    (1, 16, True, refine.GEThetaPlus, plain.theta_plus, {0: "gather", 1: "gather_bn", 2: "first", 4: "second"}),
])
def test_a_block_is_its_formula(stride, in_channels, atac, make, statement, layers, stride_first):
    x = np.random.RandomState(1).normal(0, 1, (2, in_channels, 3 * stride, 3 * stride))
    gate = {0: "first", 1: "first_bn", 3: "second", 4: "second_bn"}
    for mode in MODES:
        block, p = filled(Bottleneck(4, in_channels, stride, 3, activation.ATAC if atac else activation.ReLU,
                                     refinement=make, stride_first=stride_first))
        expected = bottleneck(
            x, p, stride, stride_first,
            (lambda y, site, p=p: plain.atac(y, inner(p, f"{site}.gate", gate), False)) if atac else plain.relu,
            (lambda y, p=p: statement(y, inner(p, "refine.gate", layers), False)) if make else lambda y: y)
        assert expected.shape == (2, 16, 3, 3) and (expected > 0).mean() > 0.2
        if mode is not None:
            block.hybridize(**mode)
        np.testing.assert_allclose(block(mx.nd.array(x, dtype="float64")).asnumpy(), expected, rtol=1e-8, atol=1e-10)


def test_a_shortcut_has_its_own_convolution_only_where_the_shape_changes():
    assert Bottleneck(4, 16, 1, 3).downsample is None
    assert Bottleneck(4, 8, 1, 3).downsample is not None
    assert Bottleneck(4, 16, 2, 3).downsample is not None


def test_last_gamma_starts_a_block_as_the_identity():
    block = Bottleneck(4, 16, 1, 3, last_gamma=True)
    block.initialize()
    x = mx.nd.random.uniform(shape=(2, 16, 3, 3))
    np.testing.assert_array_equal(block(x).asnumpy(), x.asnumpy())
    for name in NAMES:
        net = get_model(name, last_gamma=True)
        assert {block.bn3.gamma.init for stage in (net.layer1, net.layer4) for block in stage} == {"zeros"}
        assert net.layer1[0].bn1.gamma.init == get_model(name).layer1[0].bn3.gamma.init == "ones"


# The whole net against GluonCV's.

def resnetv1b():
    return tiny.gluoncv("model_zoo.resnetv1b")


@pytest.fixture(scope="module")
def gluoncv_file(tmp_path_factory):
    """A file with random numbers that GluonCV's resnet50_v1b saved, images and the logits that it gave for them."""
    reference = resnetv1b().resnet50_v1b(pretrained=False)
    reference.initialize(mx.init.MSRAPrelu())
    generator = np.random.RandomState(3)
    images = mx.nd.array(generator.normal(0, 1, (2, 3, 64, 64)))
    reference(images)  # its layers learn their shapes from the first images
    for name, parameter in reference.collect_params().items():
        if not name.endswith("weight"):
            low, high = (0.7, 1.3) if name.endswith(("gamma", "running_var")) else (-0.3, 0.3)
            parameter.set_data(mx.nd.array(generator.uniform(low, high, parameter.shape)))
    path = tmp_path_factory.mktemp("gluoncv") / "resnet50_v1b.params"
    reference.save_parameters(str(path))
    reference.collect_params().save(str(path.with_name("collected.params")))
    reference.hybridize()
    reference(images)
    reference.export(str(path.with_name("exported")))
    return str(path), images, reference(images).asnumpy()


@pytest.mark.parametrize("load", [load_params, lambda net, path: net.load_parameters(path)])
def test_gluoncvs_parameters_give_gluoncvs_logits(gluoncv_file, load):
    path, images, expected = gluoncv_file
    net = get_model("resnet50_v1b")
    load(net, path)
    assert expected.std() > 0.1
    for mode in MODES:
        if mode is not None:
            net.hybridize(**mode)
        np.testing.assert_allclose(net(images).asnumpy(), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["collected.params", "exported-0000.params"])
def test_gluoncvs_other_files_are_matched_in_order(gluoncv_file, name):
    path, images, expected = gluoncv_file
    sentences, net = [], get_model("resnet50_v1b")
    load_params(net, Path(path).with_name(name), say=sentences.append)
    assert "267 arrays" in sentences[0] and sentences[0].endswith("matched by order, kind and shape")
    np.testing.assert_allclose(net(images).asnumpy(), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_the_stride_makes_the_difference_between_v1_and_v1b(gluoncv_file):
    path, images, expected = gluoncv_file
    logits = load_params(get_model("resnet50_v1"), path)(images).asnumpy()
    assert logits.shape == expected.shape
    assert np.abs(logits - expected).mean() > 0.1 * np.abs(expected).mean()


def test_a_file_of_another_net_does_not_fit(gluoncv_file):
    with pytest.raises(InputError, match="it lacks 180 arrays "):
        load_params(get_model("atac_resnet50_v1b"), gluoncv_file[0])


def test_a_half_precision_file_under_the_authors_names_loads(tmp_path):
    net = get_model("atac_resnet50_v1b")
    shapes = {name: parameter.shape for name, parameter in net._collect_params_with_prefix().items()}
    generator = np.random.RandomState(0)
    numbers = {name: generator.uniform(0, 1, shape[:1]).astype("float16") for name, shape in shapes.items()}
    whole = {name: np.broadcast_to(value.reshape((-1,) + (1,) * (len(shapes[name]) - 1)), shapes[name])
             for name, value in numbers.items()}
    path = str(tmp_path / "released.params")
    mx.nd.save(path, {to_authors(name): mx.nd.array(value, dtype="float16") for name, value in whole.items()})
    load_params(net, path)
    for name, parameter in net._collect_params_with_prefix().items():
        assert parameter.data().dtype == np.float32
        np.testing.assert_array_equal(parameter.data().asnumpy(), whole[name])
    with pytest.raises(InputError, match="it has 180 that the net does not"):
        load_params(get_model("resnet50_v1b"), path)


# Every net, on narrow hosts for speed.

@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(imagenet_resnet, "WIDTHS", (16, 16, 32, 32))
    monkeypatch.setattr(imagenet_resnet, "STEM_CHANNELS", 16)


SMALL_AA = {"input_size": 64, "value_ratio": .5}
EVERY = [
    ("resnet50_v1b", {}), ("se_resnet50_v1b", {}), ("atac_resnet50_v1b", {}), ("atac_resnet50_v1", {}),
    ("ge_resnet50_v1b", {"variant": "theta_minus"}), ("ge_resnet50_v1b", {"variant": "theta", "input_size": 64}),
    ("ge_resnet50_v1b", {"input_size": 64}), ("aa_resnet50_v1b", SMALL_AA), ("fa_resnet50_v1b", {}),
    ("aa_resnet50_v1b", {**SMALL_AA, "largest_map": 4}), ("fa_resnet50_v1", {"stem": "conv"})]


@pytest.mark.parametrize("name, arguments", EVERY)
def test_imperative_and_hybrid_agree_in_training(narrow, name, arguments):
    images = mx.nd.array(np.random.RandomState(1).normal(0, 1, (2, 3, 64, 64)), dtype="float64")
    seen = []
    for mode in MODES:
        net, _ = filled(get_model(name, classes=5, **arguments))
        if mode is not None:
            net.hybridize(**mode)
        with mx.autograd.record():
            logits = net(images)
        logits.backward()
        assert logits.shape == (2, 5)
        seen.append({"logits": logits.asnumpy(), **{
            name: (parameter.grad() if parameter.grad_req != "null" else parameter.data()).asnumpy()
            for name, parameter in net._collect_params_with_prefix().items()}})
    assert np.abs(seen[0]["logits"]).max() > 0
    for name, value in seen[0].items():
        # The bias of a convolution before a BatchNorm has no gradient but the rounding of larger ones.
        scale = max(np.abs(value).max(), 1e-6)
        np.testing.assert_allclose(seen[1][name] / scale, value / scale, rtol=0, atol=1e-5, err_msg=name)


def test_the_names_and_their_defaults():
    assert set(NAMES) == {f"{kind}resnet50_{version}" for version in ("v1", "v1b")
                          for kind in ("", "se_", "ge_", "atac_", "aa_", "fa_")}
    for name in NAMES:
        assert zoo.image_size(name, {}) == 224
        assert get_model(name.upper()).fc.weight.shape == (1000, 2048)
        assert get_model(name, classes=7).fc.weight.shape == (7, 2048)
    assert type(get_model("ge_resnet50_v1b").layer1[0].refine) is refine.GEThetaPlus
    assert zoo.image_size("ge_resnet50_v1b", {"input_size": 64}) == 64


@pytest.mark.parametrize("name, spatial", [
    ("aa_resnet50_v1b", [mx.gluon.nn.Conv2D] + [self_attention.AugmentedConv] * 3),
    ("fa_resnet50_v1b", [self_attention.LocalAttention] * 4), ("se_resnet50_v1b", [mx.gluon.nn.Conv2D] * 4)])
def test_every_3x3_of_a_stage_is_replaced(name, spatial):
    net = get_model(name)
    for stage, expected in zip((net.layer1, net.layer2, net.layer3, net.layer4), spatial):
        assert {type(block.conv2) for block in stage} == {expected}
    attends = type(net.conv1) is self_attention.StemAttention
    assert attends == (name == "fa_resnet50_v1b")


def test_augmented_nets_attend_at_14x14_where_the_map_is_28x28():
    net = get_model("aa_resnet50_v1b")
    assert [stage[0].conv2.width.shape for stage in (net.layer2, net.layer3, net.layer4)] \
        == [(27, 20), (27, 20), (13, 20)]
    whole = get_model("aa_resnet50_v1b", largest_map=28)
    assert whole.layer2[0].conv2.width.shape == (55, 20)


@pytest.mark.parametrize("act_layers, stages", [
    (0, ()), (1, (4,)), (2, (3, 4)), (3, (2, 3, 4)), (4, (1, 2, 3, 4)), ([1], (1,)), ((4, 2), (2, 4)), ([], ())])
def test_act_layers_counts_from_the_last_stage_or_names_them(act_layers, stages):
    assert activated_stages(activation.ATAC, act_layers, activation.SELU) \
        == [activation.ATAC if stage in stages else activation.SELU for stage in (1, 2, 3, 4)]


@pytest.mark.parametrize("name, arguments, said", [
    ("atac_resnet50_v1b", {"act_layers": 5}, "act_layers counts the stages from the last one: 0 to 4, got 5"),
    ("atac_resnet50_v1b", {"act_layers": -1}, "act_layers must be a whole number of at least 0, got -1"),
    ("atac_resnet50_v1b", {"act_layers": [3, 5]}, r"a list of act_layers holds different stages, 1 to 4, got \[3, 5\]"),
    ("atac_resnet50_v1b", {"act_layers": [3, 3]}, "a list of act_layers holds different stages"),
    ("atac_resnet50_v1b", {"act_layers": [True]}, "a list of act_layers holds different stages"),
    ("atac_resnet50_v1b", {"act_layers": "34"}, "act_layers must be a whole number"),
    ("atac_resnet50_v1b", {"reduction": 3}, "reduction=3 does not divide channels=256"),
    ("se_resnet50_v1b", {"reduction": 3}, "reduction=3 does not divide channels=256"),
    ("ge_resnet50_v1b", {"variant": "zero"}, "variant 'zero'; the variants are theta_minus, theta, theta_plus"),
    ("ge_resnet50_v1b", {"input_size": 200}, "input_size must be a multiple of 32"),
    ("aa_resnet50_v1b", {"input_size": 0}, "input_size must be a whole number of at least 1"),
    ("aa_resnet50_v1b", {"heads": 7}, "key_channels=160 cannot be divided among heads=7"),
    ("fa_resnet50_v1b", {"stem": "pool"}, "unknown stem 'pool'; the stems are attention, conv"),
    ("fa_resnet50_v1b", {"stem": ["conv"]}, "the stems are attention, conv"),
    ("fa_resnet50_v1b", {"kernel_size": 6}, "kernel_size must be odd"),
    ("resnet50_v1b", {"classes": 0}, "classes must be a whole number of at least 1, got 0"),
    ("resnet50_v1b", {"last_gamma": 1}, "last_gamma must be True or False, got 1"),
])
def test_values_that_are_not_allowed_are_a_sentence(name, arguments, said):
    with pytest.raises(InputError, match=said) as caught:
        get_model(name, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments, said", [
    ({"activation": [activation.ReLU] * 3}, "activation must be a constructor or a list of 4, one a stage"),
    ({"activation": "relu"}, "activation must be a constructor or a list of 4"),
    ({"spatial": [None] * 4}, "spatial must be a constructor or a list of 4"),
    ({"stride_first": 1}, "stride_first must be True or False, got 1"),
])
def test_constructors_that_do_not_fit_are_a_sentence(arguments, said):
    with pytest.raises(InputError, match=said):
        ResNet50(**arguments)


@pytest.mark.parametrize("name, arguments, said", [
    ("resnet50_v1b", {"blocks": 3}, "resnet50_v1b has no argument 'blocks'; it has classes, last_gamma$"),
    ("resnet50_v1b", {"stride_first": True}, "no argument 'stride_first'"),
    ("atac_resnet50_v1b", {"r": 2}, "no argument 'r'; it has classes, act_layers, last_gamma, reduction, inner_relu$"),
    ("se_resnet50_v1b", {"size": 7}, "no argument 'size'; it has classes, last_gamma, reduction$"),
    ("aa_resnet50_v1b", {"stride": 2}, "it has classes, input_size, last_gamma, heads, .*, use_bias$"),
    ("fa_resnet50_v1b", {"input_size": 64}, "it has classes, stem, last_gamma, kernel_size, heads, zero_padding$"),
])
def test_arguments_that_the_net_does_not_have_are_a_type_error(name, arguments, said):
    with pytest.raises(TypeError, match=said):
        get_model(name, **arguments)
