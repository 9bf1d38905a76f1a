"""Training in PyTorch beside training in MXNet: the same batches, steps, scores and checkpoints."""
import dataclasses

import mxnet as mx
import numpy as np
import pytest
import tiny

torch = pytest.importorskip("torch", reason="PyTorch is not installed (requirements-torch.txt)")

import model  # noqa: E402
from backend import gluon  # noqa: E402
from backend import torch as backend  # noqa: E402
from backend.gluon import loss as gluon_loss  # noqa: E402
from backend.gluon.optimizer import make_trainer  # noqa: E402
from backend.torch import loss, optimizer, resident, start  # noqa: E402
from backend.torch.convert import arrays_of  # noqa: E402
from backend.torch.graph import torch_name  # noqa: E402
from engine import run  # noqa: E402
from engine.data import in_memory  # noqa: E402
from engine.steps import Diverged, LossScale, Meter, Steps  # noqa: E402
from model.graph import Graph, graph_of  # noqa: E402
from support.errors import InputError  # noqa: E402

CPU = torch.device("cpu")


# The optimizer.

def pair(recipe, name="atac_resnet20_v2"):
    """A Gluon net with its trainer and the twin with its optimizer."""
    net = model.get_model(name, blocks=1)
    mx.random.seed(3)
    net.initialize(mx.init.MSRAPrelu())
    twin = model.to_torch(net)
    return net, make_trainer(net, recipe), twin, optimizer.make_optimizer(twin, recipe)


def updated(recipe, steps=20, drop=10):
    """The weights of both after steps with equal gradients and a rate that drops; and those of torch.optim.SGD."""
    net, trainer, twin, nag = pair(recipe)
    weights = dict(twin.named_parameters())
    named = {name: parameter for name, parameter in net._collect_params_with_prefix().items()
             if parameter.grad_req != "null"}
    sgd = {name: weights[torch_name(name)].detach().clone().requires_grad_() for name in named}
    textbook = torch.optim.SGD(sgd.values(), recipe.lr, recipe.momentum, weight_decay=recipe.wd,
                               nesterov=recipe.momentum > 0)
    generator = np.random.RandomState(1)
    for step in range(steps):
        rate = recipe.lr if step < drop else recipe.lr / 10
        trainer.set_learning_rate(rate)
        for group in [*nag.param_groups, *textbook.param_groups]:
            group["lr"] = rate
        for name, parameter in named.items():
            gradient = generator.normal(0, 1, parameter.shape).astype("float32")
            parameter.grad()[:] = gradient * 4
            parameter.data()._fresh_grad = True  # as a backward pass would say
            weights[torch_name(name)].grad = torch.tensor(gradient * 4)
            sgd[name].grad = torch.tensor(gradient)
        trainer.step(4)
        nag.step(1 / 4)
        textbook.step()
    return [{name: parameter.data().asnumpy() for name, parameter in named.items()},
            {name: weights[torch_name(name)].detach().numpy() for name in named},
            {name: weight.detach().numpy() for name, weight in sgd.items()}]


def distance(found, expected):
    return max(abs(found[name] - expected[name]).max() / abs(expected[name]).max() for name in expected)


@pytest.mark.parametrize("changes", [{}, {"no_wd": True}, {"momentum": 0.}])
def test_20_steps_with_decay_and_a_drop_are_mxnets(changes):
    expected, found, _ = updated(tiny.recipe(wd=1e-2, **changes))
    assert distance(found, expected) < 1e-5


def test_nesterov_of_torch_optim_differs_after_a_drop():
    recipe = tiny.recipe(wd=0.)
    expected, _, textbook = updated(recipe, steps=10)
    assert distance(textbook, expected) < 1e-5
    expected, _, textbook = updated(recipe)
    assert distance(textbook, expected) > .1


# Batches.

def test_batches_on_the_device_are_those_of_the_host_to_the_bit():
    batches = in_memory.TrainBatches(tiny.split(50), 16, seed=4)
    images = resident.Images(batches.split, CPU)
    for epoch in (0, 3):
        for step, (expected, labels) in enumerate(batches.epoch(epoch)):
            found, classes = images.drawn(batches.draws(epoch, step))
            assert found.numpy().tobytes() == expected.tobytes()
            assert (classes.numpy() == labels).all()


# Steps and scores.

def program_of(module, recipe, net="atac_resnet20_v2", **changes):
    """A Program of a backend for a net with one block a stage."""
    experiment = tiny.experiment(net, recipe, **changes)
    devices, _ = module.devices([])
    return module.prepare(model.get_model(net, blocks=1), experiment, devices, module.join("device"),
                          **({"fused": "off"} if module is gluon else {}))


def trained(program, recipe, epochs=2, images=128, batches=None):
    """Train a program; its meters' losses and accuracies, and the scores."""
    batches = batches or in_memory.TrainBatches(tiny.split(images), recipe.batch_size, 0)
    found = []
    for epoch in range(epochs):
        meter = Meter()
        assert list(program.steps(Steps(batches, recipe, 0, epoch), meter)) == list(range(1, batches.steps + 1))
        score = program.score(in_memory.EvalBatches(tiny.split(25, 9), 10), 10)
        found.append((meter.loss, meter.accuracy, score.loss, score.top1, score.images))
    return np.array(found)


@pytest.mark.parametrize("changes", [
    {}, {"no_wd": True, "label_smoothing": .1}, {"mixup_alpha": .4, "accumulate": 2}], ids=str)
def test_two_epochs_are_those_of_the_other_backend(changes):
    recipe = tiny.recipe(lr=.02, **changes)
    expected = trained(program_of(gluon, recipe), recipe)
    found = trained(program_of(backend, recipe), recipe)
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=1e-4)
    assert (found[:, [1, 4]] == expected[:, [1, 4]]).all()
    np.testing.assert_allclose(found[:, 2], expected[:, 2], rtol=1e-2)  # by the running variance, biased or not


def test_batches_that_are_not_in_memory_give_the_same_numbers():
    class Read:
        """Batches without a split."""

        def __init__(self, batches):
            self.epoch, self.steps = batches.epoch, batches.steps

    recipe = tiny.recipe()
    batches = in_memory.TrainBatches(tiny.split(64), recipe.batch_size, 0)
    assert (trained(program_of(backend, recipe), recipe, 1, batches=batches)
            == trained(program_of(backend, recipe), recipe, 1, batches=Read(batches))).all()


@pytest.mark.parametrize("share", [1., .3])
@pytest.mark.parametrize("smoothing", [0., .1])
def test_loss_is_the_other_backends(smoothing, share):
    generator = np.random.RandomState(0)
    logits, labels = generator.normal(0, 3, (6, 5)).astype("float32"), generator.randint(0, 5, 6)
    expected = gluon_loss.cross_entropy(mx.nd.array(logits), mx.nd.array(labels), smoothing, share).asnumpy()
    found = loss.cross_entropy(torch.tensor(logits), torch.tensor(labels), smoothing, share)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_the_meter_is_complete_where_it_is_asked_for():
    recipe = tiny.recipe()
    program, batches, meter = program_of(backend, recipe), in_memory.TrainBatches(tiny.split(128), 16, 0), Meter()
    seen = [meter.images for _ in program.steps(Steps(batches, recipe, 0, 0), meter, lambda done: done == 5)]
    assert seen[4] == 5 * 16 and seen[3] == 2 * 16
    assert meter.images == 128


def test_a_weight_that_is_not_finite_ends_the_run():
    program = program_of(backend, tiny.recipe())
    with torch.no_grad():
        program.net.output.weight[0, 0] = float("nan")
    for call in (program.check, program.arrays):
        with pytest.raises(Diverged, match="output.weight"):
            call()
    with pytest.raises(Diverged):
        program.score(in_memory.EvalBatches(tiny.split(25, 9), 10), 10)


def test_a_step_whose_gradients_overflow_is_left_out():
    program = program_of(backend, tiny.recipe())
    program.scale = LossScale(float("inf"))
    before = program.arrays()
    program.step(.1, torch.randn(4, 3, 32, 32), torch.arange(4), 1.)
    after = program.arrays()
    assert program.scale.left_out == 1
    assert all((before[name] == after[name]).all() for name in before if "running" not in name)


def test_a_compiled_net_computes_the_steps_if_it_is_asked_for(monkeypatch):
    passes = []

    class Compiled:
        def __init__(self, net, **_):
            self.net = net

        def __call__(self, images):
            passes.append(len(images))
            return self.net(images)

        def __len__(self):  # as that of PyTorch's own, for a net without a length
            raise TypeError("Net does not support len()")

    monkeypatch.setattr(torch, "compile", Compiled)
    recipe = tiny.recipe()
    net = model.get_model("resnet20_v2", blocks=1)
    program = backend.prepare(net, tiny.experiment("resnet20_v2", recipe), [CPU], backend.join("device"), fused="on")
    assert program.operators.endswith("compiled")
    trained(program, recipe, 1, images=32)
    assert passes == [16, 16]


# Checkpoints.

@pytest.mark.parametrize("momentum", [.9, 0.])
def test_the_state_has_the_names_and_forms_of_the_other_backend(momentum):
    recipe = tiny.recipe(momentum=momentum)
    programs = [program_of(module, recipe) for module in (gluon, backend)]
    expected, found = (program.forms() for program in programs)
    assert found == expected
    arrays = [program.arrays() for program in programs]
    assert set(arrays[0]) == set(arrays[1]) == set(expected)
    for name in expected:  # initialized alike, to the bit
        assert (arrays[0][name] == arrays[1][name]).all(), name


def test_a_state_comes_back_to_the_bit():
    recipe = tiny.recipe()
    program, other = program_of(backend, recipe), program_of(backend, recipe)
    trained(program, recipe, 1)
    arrays = program.arrays()
    kept = {name: array.copy() for name, array in arrays.items()}
    other.restore(arrays)
    assert (trained(program, recipe, 1) == trained(other, recipe, 1)).all()
    assert all((arrays[name] == kept[name]).all() for name in kept)  # a copy, which training does not change


def test_momentum_is_the_other_backends_to_the_sign():
    recipe = tiny.recipe(batch_size=64)
    expected, found = (program_of(module, recipe) for module in (gluon, backend))
    for program in (expected, found):
        trained(program, recipe, 1, images=64)
    arrays = found.arrays()
    for name, value in expected.arrays().items():
        if name.startswith("optimizer/"):
            assert np.vdot(arrays[name], value) > .99 * np.vdot(value, value), name


@pytest.mark.parametrize("first, second", [(gluon, backend), (backend, gluon)], ids=["to_torch", "to_gluon"])
def test_a_checkpoint_of_one_backend_resumes_in_the_other(first, second, tmp_path):
    recipe = tiny.recipe(lr=.02)
    job = tiny.job(tmp_path, made=tiny.ready(model.get_model("atac_resnet20_v2", blocks=1)), lr=.02)
    whole = dataclasses.replace(job, program=program_of(first, recipe), directory=tmp_path / "whole")
    (tmp_path / "whole").mkdir()
    expected = run.train(dataclasses.replace(whole, save_period=1))
    half = tmp_path / "whole" / "epoch-0001.params"
    (tmp_path / "whole" / "last.params").unlink()
    resumed = dataclasses.replace(whole, program=program_of(second, recipe))
    found = run.train(resumed, half)
    assert found.resumed == 1
    assert found.last.loss == pytest.approx(expected.last.loss, rel=1e-2)
    assert len(tiny.metrics_of(tmp_path / "whole")) == 2


# The start without MXNet.

@pytest.mark.parametrize("name", ["atac_resnet20_v2", "prelu_resnet20_v2", "fa_resnet50_v1b", "aa_resnet50_v1b"])
def test_numpy_draws_from_the_distributions_of_mxnet(name):
    net = tiny.ready(model.get_model(name), mode="imperative")
    found, expected = start.drawn(graph_of(net), 0), arrays_of(net)
    assert {name: array.shape for name, array in found.items()} == {name: array.shape
                                                                    for name, array in expected.items()}
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        if array.std() == 0:
            assert (found[name] == array).all(), name
        else:  # two estimates of a deviation, each with an error of 1 / sqrt(2 n)
            assert abs(found[name].std() / array.std() - 1) < 6 / np.sqrt(array.size), name
            assert abs(found[name].mean()) < 6 * array.std() / np.sqrt(array.size), name


def test_the_draw_depends_on_the_seed_alone():
    graph = graph_of(tiny.ready(model.get_model("resnet20_v2", blocks=1)))
    first, again, other = (start.drawn(graph, seed) for seed in (1, 1, 2))
    assert all((first[name] == again[name]).all() for name in first)
    assert (first["output.weight"] != other["output.weight"]).any()


def test_a_graph_trains_without_a_gluon_net():
    recipe = tiny.recipe(lr=.02)
    graph = graph_of(model.get_model("atac_resnet20_v2", blocks=1))
    program = backend.prepare(graph, tiny.experiment(recipe=recipe), [CPU], backend.join("device"))
    assert program.forms() == program_of(backend, recipe).forms()
    assert np.isfinite(trained(program, recipe, 1, images=32)).all()


def test_a_graph_without_shapes_is_refused():
    graph = graph_of(model.get_model("resnet20_v2", blocks=1))
    with pytest.raises(InputError, match="shape of"):
        start.drawn(Graph(graph.text.replace("__shape__", "__form__"), graph.shapes), 0)


# Devices, scorer.

def test_devices_are_one_a_process():
    assert backend.devices([])[0] == [CPU]
    for wanted, sentence in (([0, 1], "one process a GPU"), ([-1], "at least 0")):
        with pytest.raises(InputError, match=sentence):
            backend.devices(wanted)
    if not torch.cuda.is_available():
        assert backend.devices([3]) == ([CPU], "no GPU is present: running on the CPU")
    assert backend.kind([CPU]) == "cpu"
    assert backend.training_type("float16", [CPU])[0] == "float32"
    with pytest.raises(InputError, match="MXNet's"):
        backend.join("horovod")


def test_a_scorer_scores_as_the_other_backends():
    net = tiny.ready(model.get_model("atac_resnet20_v2", blocks=1))
    batches = in_memory.EvalBatches(tiny.split(25, 9), 10)
    expected = gluon.scorer(net, tiny.CPU, None)[0].score(batches, 10)
    scorer, sentence = backend.scorer(net, [CPU], None)
    found = scorer.score(batches, 10)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (found.confusion == expected.confusion).all()
    assert "PyTorch" in sentence
    images = np.random.RandomState(0).normal(0, 1, (2, 3, 32, 32)).astype("float32")
    np.testing.assert_allclose(scorer.logits(images), net(mx.nd.array(images)).asnumpy(), rtol=1e-4, atol=1e-5)
    assert set(program_of(backend, tiny.recipe()).weights()) == set(arrays_of(net))
