"""Gluon nets and their translations to PyTorch: the same numbers, both ways."""
import json
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (requirements-torch.txt)")

import model  # noqa: E402
from backend.torch import operators  # noqa: E402
from backend.torch.convert import arrays_of  # noqa: E402
from backend.torch.graph import gluon_names, torch_name, translate  # noqa: E402
from model.graph import PATH, graph_of  # noqa: E402
from support import ROOT  # noqa: E402
from support.errors import InputError  # noqa: E402

BATCH, CLASSES = 2, 5


def net_of(name):
    """A small net and the side of its images."""
    side = model.image_size(name, {})
    settings = {"blocks": 1}
    if side > 32:
        side = 64
        settings = {"input_size": side} if "input_size" in model.complete_arguments(name, {}) else {}
    net = model.get_model(name, classes=CLASSES, **settings)
    mx.random.seed(1)
    net.initialize(mx.init.MSRAPrelu())
    net.hybridize()
    return net, side


def images_of(side, count=BATCH):
    return np.random.RandomState(0).normal(0, 1, (count, 3, side, side))


def error(found, expected, least=1e-30):
    """The largest difference, beside the largest number expected or, if that is larger, `least`."""
    return abs(found - expected).max() / max(abs(expected).max(), least)


def parameters_of(net):
    return net._collect_params_with_prefix()


def perturbed(net):
    """Give every array of a net that counts other numbers than those it starts with."""
    generator = np.random.RandomState(7)
    for name, parameter in parameters_of(net).items():
        if parameter.grad_req != "null" or "running" in name:
            values = parameter.data().asnumpy()
            parameter.set_data(mx.nd.array(values + .1 * abs(generator.normal(0, 1, values.shape)), dtype=values.dtype))
    return net


# Parity. float64 takes rounding out of it: BatchNorm over the few pixels that small maps leave magnifies it.

@pytest.mark.parametrize("name", model.list_models())
def test_translation_has_the_logits_gradients_and_statistics_of_the_net(name):
    net, side = net_of(name)
    images = images_of(side)
    twin = model.to_torch(net).eval()
    with torch.no_grad():
        single = twin(torch.tensor(images, dtype=torch.float32)).numpy()
    assert error(single, net(mx.nd.array(images)).asnumpy()) < 1e-5

    net.cast("float64")
    twin = model.to_torch(net)
    assert twin.training
    before = arrays_of(net)
    counts = {}  # numbers that a BatchNorm takes its statistics of
    for path, module in twin.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda module, inputs, _, path=path: counts.update(
                {path: inputs[0].numel() // inputs[0].shape[1]}))
    head = np.random.RandomState(1).normal(0, 1, (BATCH, CLASSES))
    inputs = mx.nd.array(images, dtype="float64")
    inputs.attach_grad()  # the statistics of a BatchNorm at the input need it (docs/FIDELITY.md, 4.4)
    with mx.autograd.record():
        logits = net(inputs)
        loss = (logits * mx.nd.array(head, dtype="float64")).sum()
    loss.backward()
    found = twin(torch.tensor(images))
    (found * torch.tensor(head)).sum().backward()
    assert error(found.detach().numpy(), logits.asnumpy()) < 1e-6

    own = dict(twin.named_parameters())
    expected = {name: parameter.grad().asnumpy() for name, parameter in parameters_of(net).items()
                if parameter.grad_req != "null"}
    assert {torch_name(name) for name in expected} == {name for name in own if own[name].requires_grad}
    largest = max(abs(gradient).max() for gradient in expected.values())
    for name, gradient in expected.items():  # a bias before a BatchNorm has a gradient of 0, up to rounding
        assert error(own[torch_name(name)].grad.numpy(), gradient, 1e-9 * largest) < 1e-4, name

    after, state = arrays_of(net), twin.state_dict()
    kept = float(np.float32(.9))  # MXNet has the momentum in float32
    for name in before:
        path, _, kind = name.rpartition(".")
        ours = (after[name] - kept * before[name]) / (1 - kept)
        twins = (state[torch_name(name)].numpy() - .9 * before[name]) / .1
        if kind == "running_mean":
            assert error(twins, ours, 1e-6) < 1e-5, name
        elif kind == "running_var":  # MXNet on a CPU keeps the biased variance, PyTorch the unbiased
            assert error(twins, ours * counts[path] / (counts[path] - 1), 1e-6) < 1e-5, name

    model.from_torch(net, state)
    found = arrays_of(net)
    assert gluon_names(state) == {torch_name(name): name for name in found}
    assert all((found[name] == state[torch_name(name)].numpy()).all() for name in found)


# Names and numbers, both ways.

def test_numbers_come_back_to_the_bit():
    net = perturbed(net_of("prelu_resnet20_v2")[0])
    state = model.to_torch(net).state_dict()
    other = arrays_of(model.from_torch(model.get_model("prelu_resnet20_v2", blocks=1, classes=CLASSES), state))
    assert all((other[name] == array).all() for name, array in arrays_of(net).items())


def test_state_dict_has_the_attribute_names():
    state = model.to_torch(net_of("atac_resnet20_v2")[0]).state_dict()
    assert {"features.0.running_mean", "features.1.weight", "features.2.0.bn1.weight", "features.2.0.bn1.bias",
            "features.2.0.act1.gate.0.weight", "output.bias"} < set(state)


def test_a_state_dict_of_another_net_is_refused_and_changes_nothing():
    net, _ = net_of("resnet20_v2")
    before = arrays_of(net)
    state = model.to_torch(net).state_dict()
    state["output.weight"] = torch.zeros(3, 64)
    with pytest.raises(InputError, match=r"the state_dict does not fit this net.*output.weight"):
        model.from_torch(net, state)
    assert all((arrays_of(net)[name] == before[name]).all() for name in before)


def test_a_fixed_gamma_is_one_and_is_not_trained():
    net, _ = net_of("resnet20_v2")
    parameters_of(net)["features.0.gamma"].set_data(mx.nd.array([2, 3, 4]))
    twin = model.to_torch(net)
    assert (twin.features.get_submodule("0").weight == 1).all()
    assert not {"features.0.weight", "features.0.bias"} & {name for name, each in twin.named_parameters()
                                                            if each.requires_grad}


# What cannot be translated is named.

@pytest.mark.parametrize("changes, sentence", [
    ({"op": "LRN"}, r"operator LRN \(node \w*conv\w*\) has no translation"),
    ({"layout": "NHWC"}, r"operator Convolution \(node \w*\) has layout='NHWC'"),
])
def test_what_has_no_translation_is_named(changes, sentence):
    net, _ = net_of("resnet20_v2")
    graph = json.loads(graph_of(net).text)
    node = next(node for node in graph["nodes"] if node["op"] == "Convolution")
    node["op"] = changes.get("op", node["op"])
    node["attrs"].update({name: value for name, value in changes.items() if name != "op"})
    with pytest.raises(InputError, match=sentence):
        translate(json.dumps(graph), arrays_of(net))


def test_a_missing_array_is_named():
    net, _ = net_of("resnet20_v2")
    arrays = arrays_of(net)
    del arrays["output.bias"]
    with pytest.raises(InputError, match="array output.bias"):
        translate(graph_of(net).text, arrays)


# Operators beyond what the nets ask of them.

@pytest.mark.parametrize("name, shapes, settings", [
    ("Reshape", [(2, 6, 5)], {"shape": (0, 2, -1)}), ("Reshape", [(2, 6, 5)], {"shape": (-1, 0)}),
    *[("Pooling", [(2, 3, 7, 9)], {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1), "pool_type": kind,
                                   "pooling_convention": convention, "count_include_pad": pad})
      for kind in ("max", "avg") for convention in ("valid", "full") for pad in (True, False)],
    ("Pooling", [(2, 3, 6, 8)], {"kernel": (3, 3), "stride": (2, 2), "pooling_convention": "full", "pool_type": "avg"}),
    ("Pooling", [(2, 3, 6, 8)], {"global_pool": True, "pool_type": "max"}),
    ("sum", [(2, 3, 4)], {"axis": (0, 2), "keepdims": True}), ("sum", [(2, 3, 4)], {}),
    ("slice_axis", [(2, 3, 9)], {"axis": -1, "begin": -4, "end": None}),
    ("transpose", [(2, 3, 4)], {}), ("softmax", [(2, 3, 4)], {"axis": 1}),
    ("batch_dot", [(2, 3, 4), (2, 5, 4)], {"transpose_b": True}), ("Concat", [(2, 3), (2, 4)], {"dim": 1}),
    ("space_to_depth", [(2, 3, 4, 6)], {"block_size": 2}), ("depth_to_space", [(2, 12, 4, 6)], {"block_size": 2}),
    ("im2col", [(2, 3, 7, 8)], {"kernel": (3, 5), "stride": (2, 1), "dilate": (1, 2), "pad": (1, 2)}),
    ("_contrib_BilinearResize2D", [(2, 3, 7, 8)], {"height": 13, "width": 5, "align_corners": False}),
    ("_contrib_BilinearResize2D", [(2, 3, 7, 8)], {"height": 13, "width": 5}),
    ("broadcast_axis", [(2, 1, 3, 1)], {"axis": (1, 3), "size": (4, 5)}),
    ("Convolution", [(2, 4, 7, 8), (6, 2, 3, 3), (6,)],
     {"kernel": (3, 3), "num_filter": 6, "num_group": 2, "stride": (2, 1), "pad": (2, 0), "dilate": (1, 2)}),
    ("FullyConnected", [(2, 3, 4), (5, 12), (5,)], {"num_hidden": 5}),
    ("FullyConnected", [(2, 3, 4), (5, 4)], {"num_hidden": 5, "no_bias": True, "flatten": False}),
    ("LeakyReLU", [(2, 3)], {}), ("LeakyReLU", [(2, 3)], {"act_type": "elu", "slope": .7}),
])
def test_operator_is_mxnets(name, shapes, settings):
    generator = np.random.RandomState(3)
    inputs = [generator.normal(0, 1, shape).astype("float32") for shape in shapes]
    function = getattr(mx.nd, name, None) or mx.nd.contrib.BilinearResize2D
    expected = function(*map(mx.nd.array, inputs), **settings).asnumpy()
    found = operators.FUNCTIONS[name](*map(torch.tensor, inputs), **settings).numpy()
    assert found.shape == expected.shape or not settings and expected.shape == (1,)  # MXNet has no scalars
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-5, atol=1e-6)


def test_batch_norm_has_mxnets_settings():
    net = mx.gluon.nn.BatchNorm(in_channels=3, momentum=.7, epsilon=.01)
    net.initialize()
    twin = translate(graph_of_layer(net), {f"bn.{name}": array for name, array in arrays_of(perturbed(net)).items()})
    assert (twin.bn.eps, round(twin.bn.momentum, 9)) == (.01, .3)


@pytest.mark.parametrize("settings", [{"axis": 3}, {"use_global_stats": True}])
def test_another_batch_norm_has_no_translation(settings):
    net = mx.gluon.nn.BatchNorm(in_channels=3, **settings)
    net.initialize()
    with pytest.raises(InputError, match=r"operator BatchNorm \(node \w*\) has \w+=(3|True); there is a translation"):
        translate(graph_of_layer(net), {f"bn.{name}": array for name, array in arrays_of(net).items()})


def test_other_codes_of_a_shape_have_no_translation():
    with pytest.raises(InputError, match=r"operator Reshape has shape=\(0, -3\); there is a translation for lengths"):
        operators.FUNCTIONS["Reshape"](torch.zeros(2, 3, 4), shape=(0, -3))


def graph_of_layer(layer):
    """The graph of one layer that stands under the name bn."""
    graph = json.loads(graph_of(layer).text)
    for node in graph["nodes"]:
        if PATH in node.get("attrs", {}):
            node["attrs"][PATH] = "bn." + node["attrs"][PATH]
    return json.dumps(graph)


# Without MXNet.

WITHOUT = """
import sys
import numpy, torch
sys.modules["mxnet"] = None  # any import of it fails
from backend import torch as backend
from backend.torch.graph import translate
from support import params_file

net = translate(open(sys.argv[1]).read(), params_file.read(sys.argv[2])[0]).eval()
numpy.save(sys.argv[3], net(torch.tensor(numpy.load(sys.argv[4]))).detach().numpy())
"""


def test_files_are_enough_without_mxnet(tmp_path):
    net, side = net_of("prelu_resnet20_v2")
    images = images_of(side).astype("float32")
    files = [str(tmp_path / name) for name in ("net.json", "net.params", "logits.npy", "images.npy")]
    (tmp_path / "net.json").write_text(graph_of(net).text)
    net.save_parameters(files[1])
    np.save(files[3], images)
    subprocess.run([sys.executable, "-c", WITHOUT, *files], check=True, cwd=ROOT)
    assert error(np.load(files[2]), net(mx.nd.array(images)).asnumpy()) < 1e-5


# torch.export.

@pytest.mark.parametrize("name", ["atac_resnet20_v2", "aa_resnet50_v1b"])
def test_export_takes_any_number_of_images(name):
    net, side = net_of(name)
    twin = model.to_torch(net).eval()
    program = torch.export.export(twin, (torch.zeros(2, 3, side, side),),
                                  dynamic_shapes=({0: torch.export.Dim("batch")},))
    images = torch.tensor(images_of(side, 5), dtype=torch.float32)
    with torch.no_grad():
        assert error(program.module()(images).numpy(), twin(images).numpy()) < 1e-5
