"""Parameters and multiply-adds against the tables of the specification, and the command that prints them."""
import os
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

from model import get_model, list_models
from model.activation import ATAC, XUnit
from model.complexity import count, main, nearest, table
from model.self_attention import LocalAttention

# Specification, section 1. Rows: model, arguments, totals and trainables for b = 1, 2, ... (None: not stated).
COUNTS = [
    ("resnet20_v2", {}, [78342, 176006, 273670, 371334, 468998], [77850, 175066, 272282, 369498, 466714]),
    ("atac_resnet20_v2", {}, [90790, 200550, 310310, 420070, 529830], [89578, 198218, 306858, 415498, 524138]),
    ("seactivation_resnet20_v2", {}, [90790, 200550, 310310, 420070, 529830], [89578, 198218, 306858, 415498, 524138]),
    ("nin_resnet20_v2", {}, [90790, 200550, 310310, 420070, 529830], [89578, 198218, 306858, 415498, 524138]),
    ("nin_resnet20_v2", {"layers": 1}, [None, None, 308934], [None] * 3),
    ("xunit_resnet20_v2", {}, [99942, 217766, 335590, 453414, 571238], [None, None, 331450, None, None]),
    ("xunit_resnet20_v2", {"kernel_size": 7}, [None, None, 313574], [None] * 3),
    ("localsenet_resnet20_v2", {}, [89990, 199302, 308614, 417926], [89050, 197466, 305882, 414298]),
    ("senet_resnet20_v2", {}, [79133, 177588, 276043, 374498, 472953], [None] * 5),
    ("genet_resnet20_v2", {"variant": "theta_minus"}, [78342, 176006, 273670, 371334, 468998],
     [77850, 175066, 272282, 369498, 466714]),
    ("genet_resnet20_v2", {}, [107462, 234246, 361030, 487814, 614598], [None] * 5),
    ("genet_resnet20_v2", {"variant": "theta_plus"}, [108253, 235828, 363403, 490978, 618553], [None] * 5),
    ("prelu_resnet20_v2", {}, [None, None, 273689], [None, None, 272301]),
] + [(f"{unit}_resnet20_v2", {}, [78342, 176006, 273670, 371334, 468998], [77850, 175066, 272282, 369498, 466714])
     for unit in ("leakyrelu", "elu", "selu", "gelu", "swish", "sine")]
# Specification, section 1: multiply-adds in millions, to the thousand.
MILLIONS = [
    ("resnet20_v2", {"blocks": 3}, 40.813), ("xunit_resnet20_v2", {"blocks": 3}, 56.075),
    ("seactivation_resnet20_v2", {"blocks": 3}, 40.846), ("nin_resnet20_v2", {"blocks": 3}, 45.794),
    ("nin_resnet20_v2", {"blocks": 3, "layers": 1}, 45.794),
] + [(f"{unit}_resnet20_v2", {"blocks": 3}, 40.813)
     for unit in ("leakyrelu", "prelu", "elu", "selu", "gelu", "swish", "sine")] \
  + [("atac_resnet20_v2", {"blocks": blocks}, macs)
     for blocks, macs in enumerate((14.337, 30.065, 45.794, 61.523, 77.251), 1)]
CIFAR = [name for name in list_models() if name.endswith("resnet20_v2")]
VARIANTS = [(name, {}) for name in CIFAR] + [
    ("genet_resnet20_v2", {"variant": "theta_minus"}), ("genet_resnet20_v2", {"variant": "theta_plus"}),
    ("nin_resnet20_v2", {"layers": 1}), ("atac_resnet20_v2", {"reduction": 16, "inner_relu": False}),
    ("atac_resnet20_v2", {"replaced_sites": 3})]


def counted_by_hand(net, shape):
    """(total, trainable, MACs) from the parameters themselves and from hooks on the layers of a running net."""
    macs, handles = [], []

    def convolution(block, inputs, output):
        weight = block.weight.shape
        macs.append(output.size // output.shape[0] * weight[1] * weight[2] * weight[3])

    def dense(block, inputs, output):
        macs.append(block.weight.shape[0] * block.weight.shape[1])

    def hook(block):
        if isinstance(block, mx.gluon.nn.Conv2D):
            handles.append(block.register_forward_hook(convolution))
        elif isinstance(block, mx.gluon.nn.Dense):
            handles.append(block.register_forward_hook(dense))

    net.apply(hook)
    net.initialize()
    net(mx.nd.zeros((1,) + shape))
    for handle in handles:
        handle.detach()
    parameters = list(net.collect_params().values())
    return (sum(parameter.data().size for parameter in parameters),
            sum(parameter.data().size for parameter in parameters if parameter.grad_req != "null"), sum(macs))


# The tables.

@pytest.mark.parametrize("name, arguments, totals, trainables", COUNTS)
def test_parameters_are_those_of_the_specification(name, arguments, totals, trainables):
    for blocks, (total, trainable) in enumerate(zip(totals, trainables), 1):
        found = count(get_model(name, blocks=blocks, **arguments))
        assert total in (None, found.total), blocks
        assert trainable in (None, found.trainable), blocks


@pytest.mark.parametrize("name, arguments, millions", MILLIONS)
def test_multiply_adds_are_those_of_the_specification(name, arguments, millions):
    assert round(count(get_model(name, **arguments)).macs / 1e6, 3) == millions


def test_a_hundred_classes_add_5850_numbers():
    for name in CIFAR:
        ten, hundred = (count(get_model(name, blocks=1, classes=classes)) for classes in (10, 100))
        assert (hundred.total - ten.total, hundred.trainable - ten.trainable) == (5850, 5850), name


def test_relu_net_with_a_hundred_classes():
    found = count(get_model("resnet20_v2", classes=100))
    assert (found.total, found.trainable) == (279520, 278132)


@pytest.mark.parametrize("channels, size", [(16, 32), (32, 16), (64, 8)])
def test_an_atac_unit_costs_the_same_at_every_site(channels, size):
    found = count(ATAC(channels), (channels, size, size))
    assert found.macs == 262144
    assert (found.total, found.trainable) == (channels ** 2 + 6 * channels, channels ** 2 + 3 * channels)


@pytest.mark.parametrize("kernel", [3, 7, 9])
def test_an_xunit_has_the_stated_numbers(kernel):
    found = count(XUnit(16, kernel), (16, 8, 8))
    assert (found.total, found.trainable) == (16 * (kernel ** 2 + 9), 16 * (kernel ** 2 + 5))


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_an_atac_unit_has_the_numbers_that_its_docstring_states(reduction):
    found = count(ATAC(64, reduction), (64, 8, 8))
    assert found.total * reduction == 2 * 64 ** 2 + (4 + 4 * reduction) * 64
    assert (found.total - found.trainable) * reduction == (2 + 2 * reduction) * 64


# The count itself.

@pytest.mark.parametrize("name, arguments", VARIANTS)
def test_the_count_is_that_of_the_running_net(name, arguments):
    net = get_model(name, blocks=1, **arguments)
    before = count(net)
    by_hand = counted_by_hand(net, (3, 32, 32))
    assert (before.total, before.trainable, before.macs) == by_hand
    assert count(net) == before  # initialized
    net.hybridize(static_alloc=True, static_shape=True)
    assert count(net) == before
    net(mx.nd.zeros((1, 3, 32, 32))).wait_to_read()
    assert count(net) == before  # compiled


@pytest.mark.parametrize("name, arguments", [("resnet50_v1", {}), ("atac_resnet50_v1b", {"act_layers": 4}),
                                             ("se_resnet50_v1b", {}), ("ge_resnet50_v1b", {"input_size": 64})])
def test_the_count_of_an_imagenet_net_is_that_of_the_running_net(name, arguments):
    net = get_model(name, **arguments)
    found = count(net, (3, 64, 64))
    assert (found.total, found.trainable, found.macs) == counted_by_hand(net, (3, 64, 64))


@pytest.mark.parametrize("name", ["aa_resnet50_v1b", "fa_resnet50_v1b"])
def test_every_parameter_of_an_attention_net_belongs_to_one_layer(name):
    net = get_model(name)
    found = count(net, (3, 224, 224))
    assert sum(layer.total for layer in found.layers) == found.total \
        == sum(int(np.prod(parameter.shape)) for parameter in net.collect_params().values())


def test_the_layers_sum_up_to_the_whole_and_own_every_parameter_once():
    net = get_model("atac_resnet20_v2", blocks=2)
    found = count(net)
    assert sum(layer.total for layer in found.layers) == found.total
    assert sum(layer.macs for layer in found.layers) == found.macs
    names = [layer.name for layer in found.layers]
    assert len(set(names)) == len(names)
    assert {name.rpartition(".")[0] for name in net._collect_params_with_prefix()} == set(names)


def test_layers_have_their_name_operator_shape_and_cost():
    layers = {layer.name: layer for layer in count(get_model("xunit_resnet20_v2", blocks=1)).layers}
    assert layers["features.1"] == ("features.1", "Convolution 3x3", (16, 32, 32), 432, 432, 442368)
    assert layers["features.2.0.act1.gate.2"] == ("features.2.0.act1.gate.2", "Convolution 9x9 depthwise/16",
                                                   (16, 32, 32), 1312, 1312, 1327104)
    assert layers["features.0"] == ("features.0", "BatchNorm", (3, 32, 32), 12, 0, 0)
    assert layers["output"] == ("output", "FullyConnected", (10,), 650, 650, 640)


def test_multiply_adds_follow_the_size_of_the_image():
    net = get_model("resnet20_v2", blocks=1)
    small, large = count(net, (3, 16, 16)), count(net, (3, 64, 64))
    assert large.macs - 640 == 16 * (small.macs - 640)  # all but the dense layer
    assert small.total == large.total


def test_a_shared_parameter_counts_once_and_its_work_twice():
    first = mx.gluon.nn.Conv2D(4, 1, use_bias=False, in_channels=4)
    net = mx.gluon.nn.HybridSequential()
    net.add(first, mx.gluon.nn.Conv2D(4, 1, use_bias=False, in_channels=4, params=first.params))
    found = count(net, (4, 2, 2))
    assert (found.total, found.macs) == (16, 128)


def test_a_grouped_convolution_costs_its_group():
    net = mx.gluon.nn.Conv2D(8, 3, padding=1, groups=2, use_bias=False, in_channels=4)
    found = count(net, (4, 5, 5))
    assert found.macs == 25 * 8 * 9 * 2
    assert found.layers[0].operator == "Convolution 3x3 groups/2"


@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
def test_dot_products_count_however_they_are_written(transposed):
    class Products(mx.gluon.HybridBlock):
        """(1, 12, 6) as 3 products of (4, 2) and (2, 5) for each image, then 3 of 4 x 5 numbers, summed."""

        def hybrid_forward(self, F, x):
            first, second = F.ones((3, 2, 4) if transposed[0] else (3, 4, 2)), F.ones((3, 5, 2) if transposed[1]
                                                                                     else (3, 2, 5))
            product = F.batch_dot(first, second, transpose_a=transposed[0], transpose_b=transposed[1])
            gate = F.broadcast_mul(product, F.sum(F.broadcast_mul(product, product), axis=1, keepdims=True))
            return F.broadcast_add(F.sum(gate, axis=(0, 1, 2)), F.sum(x))

    # the outer sum is one of products too: 60 numbers
    assert count(Products(), (3, 2, 2)).macs == 3 * 4 * 2 * 5 + 3 * 4 * 5 + 3 * 4 * 5


def test_gates_are_no_dot_products():
    assert count(get_model("ge_resnet50_v1b", variant="theta_minus"), (3, 224, 224)).macs \
        == count(get_model("resnet50_v1b"), (3, 224, 224)).macs


def test_a_parameter_that_is_only_reshaped_belongs_to_the_layer_that_uses_it():
    layers = {layer.name: layer for layer in count(LocalAttention(16, kernel_size=5), (16, 6, 6)).layers}
    assert layers[""] == ("", "Convolution 1x1 groups/8", (200, 6, 6), 80, 80, 36 * 25 * 16)


# Table IV.

@pytest.mark.parametrize("published, expected", [
    ("3.86", "a"), ("3.9", "a and b"), ("4.0", "c"), ("9", "d"), ("1.0", "a")])
def test_the_nearest_number_is_the_one_that_rounds_or_else_the_closest(published, expected):
    assert nearest(published, {"a": 3.858, "b": 3.9, "c": 4.04, "d": 8.2}) == expected


# The command.

def test_the_table_ends_with_the_sums():
    lines = table(count(get_model("atac_resnet20_v2"))).splitlines()
    assert lines[0].split() == ["layer", "operator", "output", "total", "trainable", "MACs"]
    assert lines[-1].split() == ["sum", "310,310", "306,858", "45,793,920"]
    assert len({len(line) for line in lines[:1] + lines[2:-2]}) == 1  # columns in line


def run(*words):
    return subprocess.run([sys.executable, "-m", "model.complexity", *words], capture_output=True, text=True,
                          timeout=120, cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def test_the_command_prints_the_table():
    done = run("atac_resnet20_v2", "--blocks", "1", "--reduction", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == table(count(get_model("atac_resnet20_v2", blocks=1, reduction=2))) + "\n"


def test_the_command_refuses_an_unknown_name_with_a_sentence():
    done = run("resnet18")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("model.complexity: unknown model 'resnet18'; the models are aa_resnet50_v1, ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["atac_resnet20_v2", "blocks=1", "classes=100"],
                                   ["ATAC_ResNet20_v2", "--blocks=1", "--classes", "100", "--inner-relu", "true"],
                                   ["atac_resnet20_v2", "--blocks", "1", "--classes=100", "--inner_relu", "True"]])
def test_arguments_may_be_written_in_several_ways(words, capsys):
    assert main(words) == 0
    assert capsys.readouterr().out == table(count(get_model("atac_resnet20_v2", blocks=1, classes=100))) + "\n"


def test_the_command_counts_imagenet_nets_at_224(capsys):
    assert main(["atac_resnet50_v1b", "--act-layers", "1", "--reduction=4"]) == 0
    printed = capsys.readouterr().out
    assert printed == table(count(get_model("atac_resnet50_v1b", act_layers=1, reduction=4), (3, 224, 224))) + "\n"
    assert "64x112x112" in printed


def test_the_command_counts_at_the_nets_own_image_size(capsys):
    assert main(["genet_resnet20_v2", "--blocks", "1", "--input-size", "64"]) == 0
    assert "16x64x64" in capsys.readouterr().out


@pytest.mark.parametrize("words, said", [
    (["atac_resnet20_v2", "--blocks", "0"], "blocks must be a whole number of at least 1"),
    (["atac_resnet20_v2", "--blocks", "two"], "blocks must be a whole number of at least 1"),
    (["atac_resnet20_v2", "--reduction", "3"], "reduction=3 does not divide channels=16"),
    (["atac_resnet20_v2", "--inner-relu", "no"], "inner_relu must be True or False"),
    (["leakyrelu_resnet20_v2", "--alpha", "-1"], "alpha must be a finite number of at least 0"),
    (["resnet20_v2", "--reduction", "2"], "resnet20_v2 has no argument 'reduction'"),
    (["genet_resnet20_v2", "--variant", "theta_zero"], "the variants are theta_minus, theta, theta_plus"),
    (["genet_resnet20_v2", "--variant", "[1]"], "the variants are theta_minus, theta, theta_plus"),
    (["atac_resnet20_v2", "--replace-act", "gate"], "unknown unit 'gate'; the units are relu, "),
    (["", "--blocks", "1"], "unknown model ''"),
    (["resnet50_v1b", "--blocks", "1"], "resnet50_v1b has no argument 'blocks'; it has classes, last_gamma"),
    (["atac_resnet50_v1b", "--act-layers", "[5]"], "a list of act_layers holds different stages, 1 to 4, got [5]"),
])
def test_wrong_arguments_end_in_one_sentence(words, said, capsys):
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("model.complexity: ") and said in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("words", [["atac_resnet20_v2", "--blocks"], ["atac_resnet20_v2", "3"], ["--blocks", "3"],
                                   ["atac_resnet20_v2", "3", "blocks"], []])
def test_words_that_do_not_pair_up_show_the_usage(words, capsys):
    assert main(words) == 2
    printed = capsys.readouterr()
    assert "usage: python -m model.complexity NAME" in printed.out + printed.err


def test_help_lists_the_models(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in list_models())
