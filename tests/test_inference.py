"""Folded and fused nets against the plain ones, wrong graphs refused, and the net itself left alone."""
import json
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon
from mxnet.gluon import nn

from backend.gluon import agreement, inference, inside
from backend.gluon.symbol_graph import SymbolGraph
from model import fuse, get_model, list_models
from model.activation import ATAC, NiN, ReLU, SEActivation, Sine, XUnit
from model.imagenet_resnet import Bottleneck
from ops import loader
from support.errors import InputError

CIFAR = [name for name in list_models() if name.endswith("_v2") or name == "resnet20_v2"]
FUSED = pytest.mark.skipif(not mx.runtime.Features().is_enabled("MKLDNN"), reason="this MXNet is built without oneDNN")


@pytest.fixture(autouse=True)
def without_our_operators(request, monkeypatch):
    """Most of these tests are about what serves the nets that our own operators do not fit."""
    if "ours" not in request.keywords:
        monkeypatch.setattr(inference, "fuse", lambda net, wanted: (net, "not in this test"))


ours = pytest.mark.ours


def images(count, shape=(3, 32, 32), seed=5, dtype="float32"):
    return mx.nd.array(np.random.RandomState(seed).standard_normal((count,) + shape), dtype=dtype)


def ready(net, example, dtype="float32", contexts=None):
    """The net with weights as after a strange training: statistics far from 0 and 1, gamma 0 and below."""
    mx.random.seed(0)
    net.initialize(mx.init.MSRAPrelu(), ctx=contexts or mx.cpu())
    net.cast(dtype)
    net(example.astype(dtype))  # infers the shapes
    random = np.random.RandomState(1)
    for name, parameter in net._collect_params_with_prefix().items():
        shape = parameter.shape
        values = {"running_mean": random.normal(0, 2, shape), "running_var": random.uniform(.05, 9, shape),
                  "beta": random.normal(0, 1, shape)}
        values["gamma"] = random.normal(0, 2, shape) * (np.arange(np.prod(shape)).reshape(shape) % 4 > 0)
        kind = name.rpartition(".")[2]
        if kind in values:
            parameter.set_data(mx.nd.array(values[kind], dtype=dtype))
    return net


def zoo(name, **settings):
    return ready(get_model(name, blocks=1, **settings), images(1))


def distance(answer, expected):
    """Largest difference in units of the largest expected number."""
    answer, expected = answer.asnumpy().astype(np.float64), expected.asnumpy().astype(np.float64)
    return np.abs(answer - expected).max() / np.abs(expected).max()


def bits(net):
    return {name: [copy.asnumpy().tobytes() for copy in parameter.list_data()]
            for name, parameter in net._collect_params_with_prefix().items()}


# Folding.

@pytest.mark.parametrize("name", CIFAR)
def test_folded_nets_answer_as_the_plain_ones(name):
    net = zoo(name)
    before = bits(net)
    folded = inference.fold(net)
    assert 0 < folded.folded < folded.batch_norms
    batches = [images(count) for count in (7, 1, 8, 7)]
    answers = [folded(batch) for batch in batches]
    assert bits(net) == before  # asked before the net runs: MXNet then overwrites a gamma that is not used
    for batch, answer in zip(batches, answers):
        assert distance(answer, net(batch)) < 1e-5


def test_what_is_folded_in_a_pre_activation_net():
    # Block: bn2 alone follows a convolution that nobody else reads; of a unit: both.
    assert inference.fold(zoo("resnet20_v2")).folded == 3
    atac = inference.fold(zoo("atac_resnet20_v2"))
    assert (atac.folded, atac.batch_norms) == (3 + 2 * 7, 2 + 2 * 3 + 2 * 7)
    xunit = inference.fold(zoo("xunit_resnet20_v2"))
    assert (xunit.folded, xunit.batch_norms) == (3 + 7, 2 + 2 * 3 + 2 * 7)


class Shared(gluon.HybridBlock):
    """One convolution used twice, each time with a BatchNorm of its own."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.conv = nn.Conv2D(4, 3, padding=1, in_channels=4)
            self.first, self.second = nn.BatchNorm(), nn.BatchNorm(scale=False)

    def hybrid_forward(self, F, x):
        return self.second(self.conv(self.first(self.conv(x))))


class TwoConvolutions(gluon.HybridBlock):
    """Two convolutions with the same BatchNorm."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.first, self.second = nn.Conv2D(4, 1, in_channels=4), nn.Conv2D(4, 3)
            self.norm = nn.BatchNorm()

    def hybrid_forward(self, F, x):
        return self.norm(self.second(self.norm(self.first(x))))


class Twice(gluon.HybridBlock):
    """A convolution whose plain output is needed beside the normalised one."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.conv, self.norm = nn.Conv2D(4, 1), nn.BatchNorm()

    def hybrid_forward(self, F, x):
        y = self.conv(x)
        return self.norm(y) + y


class Bare(gluon.HybridBlock):
    """MXNet's operators with their own defaults: gamma fixed to 1, epsilon 0.001."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.weight = self.params.get("weight", shape=(5, 4, 1, 1))
            for name in ("gamma", "beta", "running_mean", "running_var"):
                setattr(self, name, self.params.get(name, shape=(5,), init="ones"))

    def hybrid_forward(self, F, x, weight, gamma, beta, running_mean, running_var):
        y = F.Convolution(x, weight, no_bias=True, num_filter=5, kernel=(1, 1))
        return F.BatchNorm(y, gamma, beta, running_mean, running_var)


class Pair(gluon.HybridBlock):
    """Two answers."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.conv, self.norm = nn.Conv2D(4, 1), nn.BatchNorm()

    def hybrid_forward(self, F, x):
        y = self.norm(self.conv(x))
        return F.relu(y), F.sigmoid(y)


def sequence(*layers):
    net = nn.HybridSequential()
    with net.name_scope():
        net.add(*layers)
    return net


@pytest.mark.parametrize("make, shape, folded", [
    (lambda: sequence(nn.Conv2D(6, 3), nn.BatchNorm(), nn.ELU(), nn.Dense(5), nn.BatchNorm()), (4, 6, 6), 1),
    (lambda: sequence(nn.Conv2D(6, 3, groups=2, use_bias=False), nn.BatchNorm(scale=False)), (4, 6, 6), 1),
    (lambda: sequence(nn.Conv2D(6, 3, dilation=2, strides=2), nn.BatchNorm(center=False, epsilon=.3)), (4, 7, 9), 1),
    (lambda: sequence(nn.Conv2D(6, 3), nn.BatchNorm(use_global_stats=True)), (4, 6, 6), 1),
    (lambda: sequence(nn.Conv1D(6, 3), nn.BatchNorm()), (4, 9), 0),
    (lambda: sequence(nn.Conv2D(6, 3), nn.BatchNorm(axis=2)), (4, 6, 6), 0),
    (lambda: sequence(nn.Conv2D(6, 3), nn.Activation("relu"), nn.BatchNorm()), (4, 6, 6), 0),
    (lambda: sequence(nn.Conv2D(6, 3), nn.BatchNorm(), nn.BatchNorm()), (4, 6, 6), 1),
    (Bare, (4, 6, 6), 1),
    (TwoConvolutions, (4, 6, 6), 2),
    (Shared, (4, 6, 6), 2),
    (Twice, (4, 6, 6), 0),
])
def test_own_blocks_in_double_precision(make, shape, folded):
    batch = images(3, shape, dtype="float64")
    net = ready(make(), batch, "float64")
    made = inference.fold(net)
    assert made.folded == folded
    assert distance(made(batch), net(batch)) < 1e-13


def test_channels_last_are_left_alone():
    # MXNet has no such convolution on a CPU, so only the graph is looked at.
    net = sequence(nn.Conv2D(6, 3, layout="NHWC", in_channels=4, use_bias=False), nn.BatchNorm(axis=3, in_channels=6))
    net.initialize()
    assert inference.fold(net).folded == 0


def test_float16_stays_float16():
    net = sequence(nn.Conv2D(6, 3, in_channels=4), nn.BatchNorm(in_channels=6), nn.BatchNorm(in_channels=6))
    net.initialize()
    net.cast("float16")
    kinds = {name.rpartition("_")[2]: np.dtype(value.dtype)
             for name, value in inference.fold(net).collect_params().items()}
    assert kinds == {"weight": np.float16, "bias": np.float16, "gamma": np.float32, "beta": np.float32,
                     "mean": np.float32, "var": np.float32}


def test_a_net_without_batch_norm_or_weights():
    batch = images(2)
    for net in (sequence(nn.Conv2D(2, 3)), sequence(nn.Activation("relu"))):
        ready(net, batch)
        assert distance(inference.fold(net)(batch), net(batch)) < 1e-6


# The copy and the net.

def test_the_net_stays_as_it_is_and_is_never_run():
    net = zoo("atac_resnet20_v2")
    net.hybridize()
    before, wants = bits(net), {name: value.grad_req for name, value in net.collect_params().items()}
    state = net._active, list(net._flags), net._cached_op
    seen = []
    handle = net.register_forward_pre_hook(lambda block, inputs: seen.append(type(inputs[0])))
    made, _ = inference.optimize(net, images(9))
    made(images(3)).wait_to_read()
    handle.detach()
    assert bits(net) == before
    assert {name: value.grad_req for name, value in net.collect_params().items()} == wants
    assert (net._active, net._flags, net._cached_op) == state
    assert set(seen) == {mx.sym.Symbol}


def test_the_copy_does_not_follow_the_net():
    net, batch = zoo("resnet20_v2"), images(4)
    for made in (inference.fold(net), inference.optimize(net, batch)[0]):
        before = made(batch).asnumpy()
        for parameter in net.collect_params().values():
            parameter.set_data(parameter.data() + 1)
        assert (made(batch).asnumpy() == before).all()


def fused_operators():
    loaded, reason = loader.available()
    if not loaded:
        pytest.skip(reason)


@ours
@pytest.mark.parametrize("name", ["atac_resnet20_v2", "gelu_resnet20_v2"])
def test_our_operators_come_first_and_work_on_a_copy(name):
    fused_operators()
    net, batch = zoo(name), images(20)
    made, sentence = inference.optimize(net, batch)
    assert sentence.startswith("inference with fused C++ operators for the whole net: within")
    assert distance(made(batch), net(batch)) < 1e-5
    before = made(batch).asnumpy()
    for parameter in net.collect_params().values():
        parameter.set_data(parameter.data() + 1)
    assert (made(batch).asnumpy() == before).all()


@ours
def test_our_operators_can_be_refused_and_demanded():
    net, batch = zoo("sine_resnet20_v2"), images(4)
    made, sentence = inference.optimize(net, batch, "off")
    assert made is net and sentence == "inference with the plain net, as asked"
    with pytest.raises(InputError, match="the fused operators cannot be used"):
        inference.optimize(net, batch, "on")


@ours
def test_a_wrong_answer_of_our_operators_is_refused(monkeypatch):
    fused_operators()
    net, batch = zoo("atac_resnet20_v2"), images(20)
    monkeypatch.setattr(inference, "fuse", lambda net, wanted: fuse(zoo("atac_resnet20_v2", inner_relu=False), wanted))
    made, sentence = inference.optimize(net, batch)
    assert "fused C++ operators for the whole net (off by" in sentence
    assert distance(made(batch), net(batch)) < 1e-5


class Bottlenecks(nn.HybridSequential):
    """Two bottlenecks, the first with stride 2, on maps of 3 channels."""

    def __init__(self, unit, width=32, **settings):
        super().__init__()
        with self.name_scope():
            self.add(Bottleneck(width, 3, 2, 10, unit, **settings),
                     Bottleneck(width, 4 * width, 1, 10, unit, **settings),
                     nn.GlobalAvgPool2D(), nn.Flatten(), nn.Dense(5, in_units=4 * width))


@pytest.mark.slow
def test_weights_are_not_copied_while_they_are_converted():
    """In one of ten trials, copies during the first inference are wrong."""
    x, numbers = mx.nd.ones((1, 1024, 4, 4)), mx.nd.arange(1024 * 1024).reshape((1024, 1024, 1, 1))
    right = numbers.asnumpy()
    for _ in range(100):
        net = sequence(*(nn.Conv2D(1024, 1, in_channels=1024, use_bias=False) for _ in range(8)))
        net.initialize(mx.init.One())
        for layer in net:
            layer.weight.set_data(numbers)
        answer = net(x)
        assert all((copies[0] == right).all() for copies in SymbolGraph.of(net).values.values())
        answer.wait_to_read()


@ours
@pytest.mark.parametrize("unit", [ATAC, SEActivation, NiN, XUnit, lambda width: ATAC(width, inner_relu=False)])
def test_our_operators_inside_bottlenecks(unit):
    fused_operators()
    batch = images(4, (3, 20, 20))
    net = ready(Bottlenecks(unit), batch)
    for fused in ("auto", "on"):
        made, sentence = inference.optimize(net, batch, fused)
        assert "with fused C++ operators inside 2 bottlenecks, oneDNN's around them: within" in sentence
        for other in (batch, images(7, (3, 20, 20), 1), images(1, (3, 26, 18), 2)):
            assert distance(made(other), net(other)) < 1e-5


@ours
def test_the_operator_inside_a_bottleneck_notices_new_weights():
    fused_operators()
    batch = images(4, (3, 20, 20))
    net = ready(Bottlenecks(ATAC), batch)
    made = inside.with_middles(net, inside.middles(net))
    made.hybridize(static_alloc=True, static_shape=True)
    for factor in (1, 1.5, -1):
        for parameter in net.collect_params(".*conv|.*gamma").values():
            parameter.set_data(parameter.data() * factor)
        assert distance(made(batch), net(batch)) < 1e-4


@ours
def test_other_bottlenecks_are_left_alone():
    fused_operators()
    batch = images(2, (3, 20, 20))

    def wide(width, stride, size):
        return nn.Conv2D(width, 5, stride, 2, use_bias=False, in_channels=width)

    assert inside.middles(ready(net := Bottlenecks(ReLU), batch)) == [net[1]]  # not the one with stride 2
    for net in (Bottlenecks(Sine), Bottlenecks(ATAC, 24), Bottlenecks(ATAC, 2 * inside.WIDEST_MIDDLE),
                Bottlenecks(ATAC, spatial=wide)):
        assert not inside.middles(ready(net, batch))
    x, weight, number = mx.nd.ones((1, 24, 4, 4)), mx.nd.ones((16, 24, 3, 3)), mx.nd.ones(24)
    with pytest.raises(mx.MXNetError, match="multiples of 16 inputs and outputs"):
        mx.nd.atac_middle_inference(x, *[number] * 4, weight, *[number] * 4)


@ours
@pytest.mark.parametrize("unit", ["atac", "seactivation", "nin", "xunit", "prelu", "senet", "genet", "localsenet"])
def test_our_operator_notices_new_weights_and_any_batch(unit):
    fused_operators()
    net, x = zoo(f"{unit}_resnet20_v2"), images(5)
    faster, sentence = inference.optimize(net, x)
    assert sentence.startswith("inference with fused C++ operators for the whole net")
    (weights,) = faster.collect_params().values()
    first, kept = faster(x).asnumpy(), weights.data().copy()
    np.testing.assert_array_equal(faster(mx.nd.concat(x, x[:2], dim=0)).asnumpy(), np.concatenate([first, first[:2]]))
    weights.set_data(kept * 1.1)
    changed = faster(x).asnumpy()
    assert np.abs(changed - first).max() > 1e-3
    weights.data()[:] = kept
    np.testing.assert_array_equal(faster(x).asnumpy(), first)
    weights.data()[-10:] = kept[-10:] + 1  # the bias of the dense layer
    np.testing.assert_allclose(faster(x).asnumpy(), first + 1, rtol=1e-5, atol=1e-5)


def test_predict_takes_numpy_and_leaves_it_alone():
    net = zoo("resnet20_v2")
    x = images(3).asnumpy()
    expected = net(mx.nd.array(x)).asnumpy()
    np.testing.assert_array_equal(inference.predict(net, x), expected)
    np.testing.assert_array_equal(inference.predict(net, x[::-1]), expected[::-1])  # not contiguous
    x[:] = 0  # still writable
    assert np.abs(inference.predict(net, x) - expected).max() > 0


def test_an_answer_outlives_the_next_call():
    net = zoo("atac_resnet20_v2")
    for made in (inference.fold(net), inference.optimize(net, images(4))[0]):
        first = made(images(4))
        kept = first.asnumpy()
        made(images(4, seed=6)).wait_to_read()
        made(images(2, seed=7)).wait_to_read()
        assert (first.asnumpy() == kept).all()
        assert (made(images(4)).asnumpy() == kept).all()


def test_training_mode_changes_nothing():
    batch = images(5, (4, 6, 6))
    net = ready(sequence(nn.Conv2D(6, 3), nn.Dropout(.5), nn.BatchNorm(), nn.Dense(3)), batch)
    made = inference.fold(net)
    before, own = made(batch).asnumpy(), bits(made)
    with autograd.record():
        answer = made(batch)
    assert (answer.asnumpy() == before).all() and bits(made) == own


def test_each_device_has_its_own_statistics():
    devices = [mx.cpu(0), mx.cpu(1)]
    batch = images(4, (3, 8, 8))
    net = ready(sequence(nn.Conv2D(6, 3), nn.BatchNorm(), nn.BatchNorm(), nn.Dense(3)), batch, contexts=devices)
    net[1].running_mean.data(devices[1])[:] += 3
    net[2].running_mean.data(devices[1])[:] -= 1
    optimized, sentence = inference.optimize(net, batch)
    assert optimized is not net, sentence
    for made in (inference.fold(net), optimized):
        answers = [made(batch.as_in_context(device)) for device in devices]
        for answer, device in zip(answers, devices):
            assert answer.context == device
            assert distance(answer, net(batch.as_in_context(device))) < 1e-5
        assert distance(answers[0], answers[1]) > .01


# oneDNN's fused operators.

@FUSED
@pytest.mark.parametrize("name", ["resnet20_v2", "atac_resnet20_v2", "senet_resnet20_v2", "nin_resnet20_v2"])
def test_fused_nets_answer_as_the_plain_ones(name):
    net = zoo(name)
    made, sentence = inference.optimize(net, images(20))
    assert "oneDNN's fused operators: within" in sentence and "not used" not in sentence
    for count in (20, 1, 65, 3, 20):
        batch = images(count)
        assert distance(made(batch), net(batch)) < 1e-5
    assert (made(batch).asnumpy() == made(batch).asnumpy()).all()


def bottleneck():
    """A post-activation residual block, as in ResNet v1: conv, BN, ReLU, conv, BN, plus the input's own, ReLU."""
    class Block(gluon.HybridBlock):
        def __init__(self, stride, shortcut):
            super().__init__()
            with self.name_scope():
                self.body = sequence(nn.Conv2D(4, 1), nn.BatchNorm(), nn.Activation("relu"),
                                     nn.Conv2D(8, 3, stride, 1), nn.BatchNorm())
                self.shortcut = sequence(nn.Conv2D(8, 1, stride), nn.BatchNorm()) if shortcut else None

        def hybrid_forward(self, F, x):
            return F.relu(self.body(x) + (self.shortcut(x) if self.shortcut else x))

    return sequence(nn.Conv2D(8, 3), nn.BatchNorm(), nn.Activation("relu"), Block(2, True), Block(1, False),
                    nn.GlobalAvgPool2D(), nn.Dense(10))


@FUSED
def test_post_activation_nets_fold_whole_and_fuse_their_additions():
    batch = images(16, (3, 12, 12))
    net = ready(bottleneck(), batch)
    made, sentence = inference.optimize(net, batch)
    assert sentence.startswith("inference with 6 of 6 BatchNorms folded, oneDNN's fused operators: within")
    assert distance(made(batch), net(batch)) < 1e-5
    operators = {node["op"] for node in json.loads(made._cached_graph[1].tojson())["nodes"]}
    assert operators == {"null", "_sg_mkldnn_conv", "Pooling", "_sg_mkldnn_fully_connected"}


@FUSED
def test_a_wrong_graph_of_mxnet_is_refused(monkeypatch):
    """MXNet 1.9.1 left to itself gives the shortcut of a pre-activation block the wrong array."""
    net, batch = zoo("resnet20_v2"), images(20)
    monkeypatch.setattr(SymbolGraph, "misread_sums", lambda graph: [])
    wrong = inference.InferenceNet(inference.partitioned(SymbolGraph.of(net), batch))
    assert distance(wrong(batch), net(batch)) > .1
    made, sentence = inference.optimize(net, batch)
    assert sentence.startswith("inference with 3 of 8 BatchNorms folded: within") and sentence.count("off by") == 1
    assert "BatchNorms folded, oneDNN's fused operators (off by" in sentence
    assert distance(made(batch), net(batch)) < 1e-5


@FUSED
def test_a_graph_that_mxnet_cannot_make_is_passed_over(monkeypatch):
    def fails(graph, example):
        raise mx.MXNetError("no such\nluck")

    monkeypatch.setattr(inference, "partitioned", fails)
    made, sentence = inference.optimize(zoo("resnet20_v2"), images(20))
    assert made.folded == 3 and sentence.count("(MXNet fails: luck)") == 1


@pytest.mark.parametrize("error", [1e-3, np.nan])
def test_the_plain_net_is_the_last_resort(monkeypatch, error):
    right = SymbolGraph._new_variables

    def wrong(graph, layer, norm):
        variables = right(graph, layer, norm)
        for copy in graph.values[variables[1]["name"]]:
            copy += error
        return variables

    net = zoo("resnet20_v2")
    monkeypatch.setattr(SymbolGraph, "_new_variables", wrong)
    made, sentence = inference.optimize(net, images(20))
    assert made is net
    assert sentence.startswith("inference with the plain net; not used: ")
    assert "3 of 8 BatchNorms folded (off" in sentence


def test_an_error_at_one_batch_length_is_noticed():
    net = zoo("resnet20_v2")
    plain = inference.InferenceNet(SymbolGraph.of(net))
    check = agreement.Agreement(plain, images(20), [mx.cpu()])
    assert check.images >= agreement.IMAGES and check.distance(plain) < 1e-6
    for wrong in (lambda x: plain(x) + (len(x) != 20), lambda x: plain(x) + (len(x) == 20)):
        assert check.distance(wrong) > .01
    calls = []
    assert check.distance(lambda x: plain(x) + .1 * (calls.append(x) or len(calls) == len(check.batches))) > .01


def test_nan_weights_leave_the_plain_net():
    net = zoo("resnet20_v2")
    net.output.weight.data()[0] = np.nan
    made, sentence = inference.optimize(net, images(4))
    assert made is net and "not finite" in sentence


def test_nan_that_a_relu_hides_is_treated_as_the_plain_net_treats_it():
    net, batch = zoo("resnet20_v2"), images(20)
    net.features[2][0].conv1.weight.data()[0] = np.nan
    made, _ = inference.optimize(net, batch)
    expected = net(batch)
    assert made is net or distance(made(batch), expected) < 1e-5


def test_a_net_that_answers_everything_alike_is_not_judged():
    net = zoo("resnet20_v2")
    net.output.weight.data()[:] = 0
    made, sentence = inference.optimize(net, images(4))
    assert made is net and "alike" in sentence


def test_where_the_fused_operators_are_out_of_question():
    def reason(contexts, dtype="float32", weights="float32"):
        return inference._no_subgraph(SimpleNamespace(contexts=contexts, values={"w": [np.zeros(1, weights)]}), dtype)

    assert "CPUs" in reason([mx.gpu(0)]) and "CPUs" in reason([mx.cpu(), mx.gpu(1)])
    if mx.runtime.Features().is_enabled("MKLDNN"):
        assert reason([mx.cpu()]) is None
        assert "float32" in reason([mx.cpu()], "float64") and "float32" in reason([mx.cpu()], weights="float64")


# Bad input.

def test_what_cannot_be_folded_says_so():
    class Plain(gluon.Block):
        def forward(self, x):
            return x

    class Needy(gluon.HybridBlock):
        def hybrid_forward(self, F, x, y):
            return x + y

    class Looking(gluon.HybridBlock):
        def hybrid_forward(self, F, x):
            return x * x.shape[0]

    for net, words in ((Plain(), "not a HybridBlock"), (Needy(), "cannot be traced"), (Looking(), "cannot be traced"),
                       (ready(Pair(), images(3, (4, 6, 6))), "Pair has several outputs"),
                       (get_model("resnet20_v2"), "initialize"), (sequence(nn.Dense(3)), "initialize")):
        with pytest.raises(InputError, match=words):
            inference.fold(net)


@pytest.mark.parametrize("example", [np.zeros((2, 3, 8, 8)), mx.nd.zeros(3), mx.nd.zeros((2, 3), dtype="int32"), None])
def test_the_example_is_a_batch(example):
    with pytest.raises(InputError, match="example batch"):
        inference.optimize(sequence(nn.Activation("relu")), example)


def test_the_example_fits_the_net():
    with pytest.raises(InputError, match=r"takes arrays \(N, 3, H, W\), got one of shape \(2, 5, 32, 32\)"):
        inference.optimize(zoo("resnet20_v2"), images(2, (5, 32, 32)))
