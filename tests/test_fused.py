"""Whole nets computed by the fused operators: float64's numbers, the plain net's training, and when to fall back."""
import itertools
import json
import re

import fused_nets
import mxnet as mx
import numpy as np
import pytest
import tiny
from fused_nets import STATIC
from mxnet import autograd
from mxnet.gluon import HybridBlock, nn

from backend.gluon import fusable, fused, inside, placement
from engine.data import cifar, in_memory
from engine.steps import Meter
from model import activation, get_model, refine
from model.cifar_resnet import CIFARResNetV2, replace_sites
from ops import build, loader, nag
from support.errors import InputError
from support.words import counted

WHOLE = "fused C++ operators for the whole net"
NET = pytest.mark.usefixtures("fused_operators")


def started(make, seed=0, contexts=tiny.CPU):
    net = make()
    mx.random.seed(seed)
    net.initialize(mx.init.MSRAPrelu(), ctx=contexts)
    return fused_nets.randomize(net, seed)


def inputs(images, size, outputs, seed=3):
    generator = np.random.RandomState(seed)
    return (generator.normal(0, 1, (images, 3, size, size)).astype("float32"),
            generator.normal(0, 1, (images, outputs)).astype("float32"))


def assert_parity(make, images, size, mode=None, outputs=7, sentence=WHOLE, seed=0, tolerance=1e-5):
    """Inference and a training step of the fused net against float64.

    Errors of a float32 net grow along it, and where a ReLU's input is within rounding of 0 a whole gradient differs:
    the measure is the tolerance, or where the plain net in float32 is further away, three times its distance.
    """
    net = started(make, seed)
    double, plain = fused_nets.in_float64(make, net), make()
    plain.initialize()
    fused_nets.copy_numbers(net, plain)
    forward, said = fused.fuse(net, "on")
    assert said.startswith(sentence)
    if mode is not None:
        forward.hybridize(**mode)
    x, dy = inputs(images, size, outputs, seed)
    errors, own = (fused_nets.all_distances(found, everything(double, double, x.astype("float64"),
                                                              dy.astype("float64")))
                   for found in (everything(net, forward, x, dy), everything(plain, plain, x, dy)))
    wrong = {name: (error, own[name]) for name, error in errors.items() if not error < max(tolerance, 3 * own[name])}
    assert not wrong, wrong
    return errors


def everything(net, forward, x, dy):
    """Inference before and after a step, the step's output, gradients and statistics; then a step more of gradients."""
    before = forward(mx.nd.array(x, dtype=x.dtype)).asnumpy()
    y, dx, gradients, statistics = fused_nets.step(net, forward, x, dy)
    after = forward(mx.nd.array(x, dtype=x.dtype)).asnumpy()
    return {"before": before}, {"output": y}, {"x": dx, **gradients}, statistics, {"after": after}


@NET
@pytest.mark.parametrize("unit", [unit for unit in fusable.UNITS if unit not in (activation.NiN, activation.XUnit)])
def test_every_unit(unit):
    assert_parity(lambda: CIFARResNetV2(1, 7, unit), 5, 32)


@NET
def test_nin():
    # Its gammas change next to nothing before another normalization: their gradients are small differences. And it has
    # three ReLUs a site, one of which is the likelier to be within rounding of 0 the more numbers there are.
    assert_parity(lambda: CIFARResNetV2(1, 7, activation.NiN), 2, 16, tolerance=5e-5)


@NET
@pytest.mark.parametrize("kernel, images, size, mode", [(9, 5, 32, None), (5, 33, 12, STATIC), (9, 3, 5, {})])
def test_xunit(kernel, images, size, mode):
    # Of the gradient of its first BatchNorm, which stands behind another one, little is left: small differences.
    assert_parity(lambda: get_model("xunit_resnet20_v2", blocks=1, classes=7, kernel_size=kernel), images, size, mode,
                  tolerance=2e-4)


@NET
@pytest.mark.parametrize("mode", [{}, STATIC])
def test_twenty_layers_and_a_compiled_graph(mode):
    assert_parity(lambda: CIFARResNetV2(2, 7, activation.ATAC), 4, 32, mode)


@NET
@pytest.mark.parametrize("size, images", [(20, 2), (13, 3), (5, 33), (1, 33)])
def test_other_sizes_and_batches(size, images):
    assert_parity(lambda: CIFARResNetV2(1, 7, activation.ATAC), images, size)


@NET
@pytest.mark.parametrize("unit, rest, count", [
    (activation.ATAC, activation.ReLU, 3), (activation.SEActivation, activation.ATAC, 4),
    (activation.PReLU, activation.GELU, 2), (activation.NiN, activation.ReLU, 5)])
def test_different_units_at_different_sites(unit, rest, count):
    assert_parity(lambda: CIFARResNetV2(1, 7, replace_sites(1, unit, count, "last", rest)), 4, 16)


@NET
@pytest.mark.parametrize("settings", [{"reduction": 16}, {"reduction": 1}, {"inner_relu": False}])
def test_settings_of_the_unit(settings):
    assert_parity(lambda: get_model("atac_resnet20_v2", blocks=1, classes=7, **settings), 4, 16)


# Nets of which only the units are fused.

class TwoReaders(HybridBlock):
    """Two BatchNorms, each before an ATAC unit; another layer reads the first one too. The input goes past both."""

    def __init__(self, unit=activation.ATAC, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.conv1, self.norm1 = nn.Conv2D(20, 3, padding=1, in_channels=3), nn.BatchNorm(in_channels=20)
            self.unit1, self.unit2 = unit(20, reduction=2), unit(20, reduction=4)
            self.conv2, self.norm2 = nn.Conv2D(20, 3, 2, 1, in_channels=20), nn.BatchNorm(in_channels=20)
            self.conv3 = nn.Conv2D(20, 1, 2, in_channels=20)
            self.output = nn.Dense(7, in_units=20)

    def hybrid_forward(self, F, x):
        y = self.norm1(self.conv1(x))
        z = self.unit2(self.norm2(self.conv2(self.unit1(y))))
        return self.output(F.mean(z + self.conv3(y), axis=(2, 3)))


class UnitFirst(HybridBlock):
    """A unit that reads the images themselves, and that stands in the net twice."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.unit, self.output = activation.ATAC(3, reduction=1), nn.Dense(7, in_units=3)

    def hybrid_forward(self, F, x):
        return self.output(F.mean(x + self.unit(self.unit(x)), axis=(2, 3)))


class OtherEpsilon(nn.HybridSequential):
    """A BatchNorm before a unit that normalizes in another way than the unit's own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.add(nn.Conv2D(16, 3, in_channels=3), nn.BatchNorm(epsilon=1e-3, momentum=.5, in_channels=16),
                     activation.SEActivation(16), nn.GlobalAvgPool2D(), nn.Flatten(), nn.Dense(7, in_units=16))


@NET
@pytest.mark.parametrize("mode", [None, STATIC])
@pytest.mark.parametrize("make, units", [
    (TwoReaders, 2), (lambda: TwoReaders(activation.SEActivation), 2), (UnitFirst, 1), (OtherEpsilon, 1),
    (lambda: TwoReaders(lambda channels, reduction: activation.XUnit(channels, 2 * reduction + 1)), 2),
    (lambda: CIFARResNetV2(1, 7, replace_sites(1, activation.ATAC, 3, "last", activation.Sine)), 3)])
def test_units_alone(make, units, mode):
    assert_parity(make, 4, 16, mode, sentence=f"fused C++ operators for {counted(units, 'unit')} (")


def operators_in(block, net):
    """Names of the operators of a traced graph, in their order, and the parameters that it reads."""
    graph = json.loads(block(mx.sym.var("data")).tojson())
    return [node["op"] for node in graph["nodes"] if node["op"] != "null"], {node["name"] for node in graph["nodes"]}


@NET
def test_a_norm_with_one_reader_is_part_of_the_operator_and_one_with_two_is_not():
    net = started(TwoReaders)
    forward, _ = fused.fuse(net, "on")
    for block, name in ((forward.training, "atac_unit"), (forward.inference, "atac_unit_inference")):
        operators, names = operators_in(block, net)
        assert operators.count("BatchNorm") == 1 and operators.count(name) == 2
        assert set(net.collect_params()) <= names


# Parameters: nothing about them changes.

@NET
def test_the_net_keeps_its_parameters_their_names_and_its_own_way():
    net = started(lambda: CIFARResNetV2(1, 7, activation.ATAC))
    names, arrays = list(net._collect_params_with_prefix()), list(net.collect_params().values())
    x = mx.nd.array(inputs(3, 16, 7)[0])
    before = net(x).asnumpy()
    forward, _ = fused.fuse(net, "on")
    forward.hybridize(**STATIC)
    forward(x)
    assert list(net._collect_params_with_prefix()) == names
    assert all(one is other for one, other in zip(net.collect_params().values(), arrays))
    assert net(x).asnumpy().tobytes() == before.tobytes()
    traced = started(TwoReaders)
    fused.fuse(traced, "on")
    assert all("hybrid_forward" not in vars(block) for block in fusable.blocks_in(traced))


@NET
def test_changed_parameters_are_seen():
    net = started(lambda: CIFARResNetV2(1, 7, activation.ATAC))
    forward, _ = fused.fuse(net, "on")
    forward.hybridize(**STATIC)
    x = mx.nd.array(inputs(3, 16, 7)[0])
    forward(x)
    fused_nets.randomize(net, 9)
    net.output.bias.set_data(mx.nd.arange(7))
    assert fused_nets.distance(forward(x).asnumpy(), net(x).asnumpy()) < 1e-5


@NET
@pytest.mark.parametrize("make", [lambda: CIFARResNetV2(1, 7, activation.ATAC), TwoReaders])
def test_frozen_parameters(make):
    net = started(make)
    expected_net = fused_nets.in_float64(make, net)
    for number, parameters in enumerate(zip(net.collect_params().values(), expected_net.collect_params().values())):
        if number % 3 == 0 and not parameters[0].name.endswith("dense0_weight"):  # oneDNN then leaves out the bias too
            for parameter in parameters:
                parameter.grad_req = "null"
    forward, _ = fused.fuse(net, "on")
    forward.hybridize(**STATIC)
    x, dy = inputs(4, 16, 7)
    found = fused_nets.step(net, forward, x, dy)[2]
    expected = fused_nets.step(expected_net, expected_net, x.astype("float64"), dy.astype("float64"))[2]
    assert 0 < len(found) == len(expected) < len(list(net.collect_params()))
    wrong = {name: error for name, error in fused_nets.distances(found, expected).items() if not error < 1e-4}
    assert not wrong, wrong


@NET
@pytest.mark.parametrize("make", [lambda: CIFARResNetV2(1, 7, activation.ATAC), UnitFirst])
def test_gradients_of_the_images_may_add_up(make):
    net = started(make)
    forward, _ = fused.fuse(net, "on")
    x, dy = (mx.nd.array(array) for array in inputs(4, 16, 7))
    found = []
    for request, times in (("write", 1), ("add", 3)):
        x.attach_grad(request)
        for _ in range(times):
            with autograd.record():
                y = forward(x)
            y.backward(dy)
        found.append(x.grad.asnumpy())
    assert fused_nets.distance(found[1], 3 * found[0].astype("float64")) < 1e-5


@NET
def test_gradients_that_add_up_are_refused():
    net = started(lambda: CIFARResNetV2(1, 7, activation.ATAC))
    forward, _ = fused.fuse(net, "on")
    net.features[1].weight.grad_req = "add"
    x = mx.nd.array(inputs(2, 16, 7)[0])
    forward(x)
    with autograd.record(), pytest.raises(InputError, match=r"weight adds up its gradients \(grad_req='add'\)"):
        forward(x)


@NET
@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 4, 16, 16), (2, 768)])
def test_images_of_a_wrong_shape_are_an_error(shape):
    net = started(lambda: CIFARResNetV2(1, 7, activation.ATAC))
    forward, _ = fused.fuse(net, "on")
    forward.hybridize(**STATIC)
    for training in (False, True):
        with pytest.raises(InputError, match="this net takes "), autograd.record(training):
            forward(mx.nd.zeros(shape))
    assert forward(mx.nd.zeros((2, 3, 16, 16))).shape == (2, 7)


@NET
def test_nan_in_an_image_is_nan_in_its_logits_alone():
    net = started(lambda: CIFARResNetV2(1, 7, activation.ATAC))
    forward, _ = fused.fuse(net, "on")
    x = inputs(3, 16, 7)[0]
    x[1, 0, 8, 8] = np.nan
    answer = forward(mx.nd.array(x)).asnumpy()
    assert np.isnan(answer[1]).all() and np.isfinite(answer[[0, 2]]).all()
    with autograd.record():
        assert np.isnan(forward(mx.nd.array(x)).asnumpy()).all()


# Devices and modes.

@NET
def test_two_contexts_each_with_its_own_numbers():
    make = lambda: CIFARResNetV2(1, 7, activation.ATAC)  # noqa: E731
    both, alone = started(make, contexts=tiny.TWO), [started(make) for _ in tiny.TWO]
    forward, _ = fused.fuse(both, "on")
    forward.hybridize(**STATIC)
    shares = [inputs(3, 16, 7, seed) for seed in (0, 1)]
    for _ in range(2):
        xs = [mx.nd.array(x, ctx=context) for (x, _), context in zip(shares, tiny.TWO)]
        with autograd.record():
            outputs = [forward(x) for x in xs]
        autograd.backward(outputs, [mx.nd.array(dy, ctx=context) for (_, dy), context in zip(shares, tiny.TWO)])
        mx.nd.waitall()
        for device, ((x, dy), net) in enumerate(zip(shares, alone)):
            y, _, gradients, statistics = fused_nets.step(net, fused.fuse(net, "on")[0], x, dy, False)
            assert outputs[device].context == tiny.TWO[device]
            assert y.tobytes() == outputs[device].asnumpy().tobytes()
            for expected, found in ((gradients, fused_nets.gradients_of(both, device)),
                                    (statistics, fused_nets.statistics_of(both, device))):
                assert all(array.tobytes() == found[name].tobytes() for name, array in expected.items())


@NET
def test_every_mode_gives_the_same_bits():
    found = []
    for mode in (None, {}, {"static_alloc": True}, STATIC):
        net = started(lambda: CIFARResNetV2(1, 7, activation.ATAC))
        forward, _ = fused.fuse(net, "on")
        if mode is not None:
            forward.hybridize(**mode)
        for seed in (0, 1):
            y, dx, gradients, statistics = fused_nets.step(net, forward, *inputs(5, 16, 7, seed))
        found.append([array.tobytes() for array in (y, dx, *gradients.values(), *statistics.values())])
    assert all(other == found[0] for other in found[1:])


# Falling back.

@NET
def test_off_is_the_net_itself():
    net = started(lambda: CIFARResNetV2(1, 7, activation.ATAC))
    assert fused.fuse(net, "off") == (net, "plain Gluon operators, as asked")
    assert nag.update_operator("off") is None and nag.update_operator("auto") is nag.update_operator("on")


class Mine(activation.ATAC):
    """A unit of someone else's, which may compute anything."""


class MySE(refine.SE):
    """A refinement of someone else's."""


class Shifted(CIFARResNetV2):
    """A net of someone else's."""


def double(net):
    net.cast("float64")
    return net


@NET
@pytest.mark.parametrize("make, said", [
    (lambda: double(started(lambda: CIFARResNetV2(1, 7, activation.ATAC))),
     "the fused operators compute in float32, and .* is float64"),
    (lambda: started(lambda: get_model("nin_resnet20_v2", blocks=1, layers=1)), "there is no fused NiN of one layer"),
    (lambda: started(lambda: CIFARResNetV2(1, 7, Mine)), "there is no fused Mine"),
    (lambda: started(lambda: CIFARResNetV2(1, 7, refinement=MySE)), "there is no fused MySE"),
    (lambda: started(lambda: CIFARResNetV2(1, 7, refine.SE)), "there is no fused SE"),
    (lambda: started(lambda: Shifted(1, 7)), "Shifted as a whole has none"),
    (lambda: started(lambda: nn.Dense(3, in_units=2)), "Dense as a whole has none")])
def test_what_the_operators_do_not_know(make, said):
    net = make()
    forward, sentence = fused.fuse(net)
    assert forward is net
    said += f"(, and no unit of layers with {inside.WIDEST} channels or fewer)?"
    assert re.fullmatch(f"plain Gluon operators: {said}", sentence)
    with pytest.raises(InputError, match=f"^the fused operators cannot be used: {said}; leave --fused away$"):
        fused.fuse(net, "on")


@NET
def test_a_norm_that_is_used_in_another_way():
    net = started(lambda: CIFARResNetV2(1, 7, activation.ReLU))
    net.features[5]._kwargs["use_global_stats"] = True
    forward, sentence = fused.fuse(net)
    assert forward is net and "is not a plain BatchNorm" in sentence
    net.features[5]._kwargs.update(use_global_stats=False, eps=1e-3)
    forward, sentence = fused.fuse(net)
    assert forward is net and "its BatchNorms differ in epsilon or momentum" in sentence


@pytest.mark.parametrize("content", [None, b"", b"no library"])
def test_a_library_that_is_not_there_or_damaged(content, tmp_path, monkeypatch):
    path = tmp_path / "fused.so"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(loader, "_loaded", None)
    monkeypatch.setattr(loader, "library", lambda: path)
    said = "the fused operators are not built for this machine (`bash scripts/setup.sh` does it)" if content is None \
        else f"{path} is damaged; build it again: `bash scripts/setup.sh`"
    net = started(lambda: CIFARResNetV2(1, 7, activation.ATAC))
    forward, sentence = fused.fuse(net)
    assert forward is net and sentence.startswith(f"plain Gluon operators: {said}")
    assert nag.update_operator("auto") is None and loader.available()[0] is False
    with pytest.raises(InputError) as caught:
        fused.fuse(net, "on")
    assert str(caught.value).startswith(f"the fused operators cannot be used: {said}")
    assert "\n" not in str(caught.value)


CUT = """
import sys
from support import runtime
runtime.prepare()
from ops import loader
loader.library = lambda: sys.argv[1]
print(loader.available()[1])
"""


@NET
@pytest.mark.parametrize("part", [.1, .5])
def test_a_library_that_is_cut_short(part, tmp_path):
    content = build.library().read_bytes()
    path = tmp_path / "fused.so"
    path.write_bytes(content[:int(part * len(content))])
    done = fused_nets.run(CUT, path)
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr[-300:]}"
    assert f"{path} is damaged" in done.stdout


# Training side by side.

@pytest.fixture(scope="module")
def trained(fused_operators, tmp_path_factory):
    """200 steps on real images from the same start and in the same order, fused and plain: see `train`."""
    folder = tmp_path_factory.mktemp("trained")
    return {wanted: train(folder / f"{wanted}.params", wanted) for wanted in ("on", "off")}


class Losses(Meter):
    """Keeps the loss of each step."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def add(self, images, loss_sum, correct):
        super().add(images, loss_sum, correct)
        self.steps.append(float(loss_sum) / images)


def train(path, wanted):
    """Returns the losses of the steps and the evaluation after them, by the same way; leaves a checkpoint at path."""
    data = cifar.load("cifar10", fused_nets.ROOT / "data" / "cifar10-sample")
    net = get_model("atac_resnet20_v2", blocks=1)
    placement.initialize(net, 0, tiny.CPU)
    forward, _ = fused.fuse(net, wanted)
    placement.set_mode(forward, "hybrid")
    batches = ((.05, *batch) for batch in in_memory.TrainBatches(data.train, 16, seed=0).epoch(0))
    program = tiny.program(net, forward=forward, update_all=nag.update_operator(wanted), wd=1e-4)
    losses = tiny.train(program, itertools.islice(batches, 200), Losses())
    tiny.save(path, program, tiny.saved())
    test = in_memory.EvalBatches(data.test, 250)
    return net, losses.steps, tiny.score(net, test, 10, forward=forward), program


def test_200_steps_make_the_same_curve_and_both_answer_alike(trained):
    ours, plain = (np.array(trained[wanted][1]) for wanted in ("on", "off"))
    assert len(ours) == len(plain) == 200
    # The same numbers until rounding has grown, which training does to any difference; then the same curve.
    assert np.abs(ours[:2] / plain[:2] - 1).max() < 2e-5
    ours, plain = (losses.reshape(4, 50).mean(axis=1) for losses in (ours, plain))
    assert np.abs(ours - plain).max() < .05
    assert max(ours[-1] - ours[0], plain[-1] - plain[0]) < -.1
    ours, plain = trained["on"][2], trained["off"][2]
    assert ours.images == plain.images == 1017
    # 1,017 answers to ten classes: one standard deviation of an accuracy is 0.015; chance is 0.1.
    assert abs(ours.top1 - plain.top1) < .06 and min(ours.top1, plain.top1) > .25


@pytest.mark.parametrize("wanted", ["on", "off"])
def test_trained_nets_evaluate_the_same_both_ways(trained, wanted):
    net = trained[wanted][0]
    test = in_memory.EvalBatches(cifar.load("cifar10", fused_nets.ROOT / "data" / "cifar10-sample").test, 250)
    ours, plain = (tiny.score(net, test, 10, forward=fused.fuse(net, way)[0]) for way in ("on", "off"))
    assert (ours.confusion == plain.confusion).all() and ours.top5 == plain.top5
    assert ours.loss == pytest.approx(plain.loss, rel=1e-5)


@pytest.mark.parametrize("wanted", ["on", "off"])
def test_a_checkpoint_of_one_way_goes_on_in_the_other(trained, wanted, tmp_path):
    net, path = trained[wanted][0], tmp_path / "copy.params"
    other = get_model("atac_resnet20_v2", blocks=1)
    tiny.save(path, trained[wanted][3], tiny.saved())
    other.initialize()
    program = tiny.program(other, wd=1e-4)
    tiny.restore(path, program)
    expected, found = net._collect_params_with_prefix(), other._collect_params_with_prefix()
    assert list(expected) == list(found)
    assert all(found[name].data().asnumpy().tobytes() == expected[name].data().asnumpy().tobytes() for name in found)
    plain = get_model("atac_resnet20_v2", blocks=1)
    plain.load_parameters(str(path))  # MXNet reads the file as it stands
    program.forward, _ = fused.fuse(other, "off" if wanted == "on" else "on")
    x = mx.nd.array(inputs(4, 32, 10)[0])
    assert fused_nets.distance(program.forward(x).asnumpy(), plain(x).asnumpy()) < 1e-5
    assert np.isfinite(tiny.train(program, [(.01, inputs(8, 32, 10)[0], np.arange(8))]).loss)


def test_wide_units_stay_gluons():
    """They are slower as operators; narrow ones of the same net are not."""
    class Pair(nn.HybridSequential):
        def __init__(self, *channels):
            super().__init__()
            for count, unit in zip(channels, map(activation.ATAC, channels)):
                self.add(nn.Conv2D(count, 1, in_channels=3 if count == channels[0] else channels[0]), unit)

    narrow, wide = inside.WIDEST, 2 * inside.WIDEST
    assert len(inside.layered_units(Pair(narrow, wide))) == 1
    assert not inside.layered_units(Pair(wide, 2 * wide))
