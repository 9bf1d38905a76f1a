"""Training steps against NumPy, devices against each other, evaluation against a plain count."""
import itertools
import json
import threading

import mxnet as mx
import numpy as np
import pytest
import tiny
from mxnet import autograd, gluon
from mxnet.gluon import nn

import model
from backend import base
from backend.gluon import distributed, loss, optimizer, placement
from backend.gluon.program import Program, Scorer
from engine.data import in_memory
from engine.steps import DataFault, Diverged, LossScale, Meter
from support.errors import InputError

RANDOM = np.random.RandomState(3)


def batch(count=16, seed=1):
    generator = np.random.RandomState(seed)
    return generator.normal(0, 1, (count, 3, 32, 32)).astype("float32"), generator.randint(0, 10, count)


def trained(net, batches, contexts=tiny.CPU, lr=.1, **recipe):
    """Train on a list of batches; returns the meter."""
    return tiny.train(tiny.program(net, contexts, **recipe), ((lr, *pair) for pair in batches))


def gradients_of(net, images, labels, context=None):
    """Gradients of the mean loss over one batch on one device, by structural name."""
    with autograd.record():
        losses = gluon.loss.SoftmaxCrossEntropyLoss()(net(mx.nd.array(images, context)),
                                                      mx.nd.array(labels, context))
    losses.backward()
    return {name: parameter.grad(context).asnumpy() / len(images)
            for name, parameter in net._collect_params_with_prefix().items() if parameter.grad_req != "null"}


def assert_close(found, expected, tolerance=1e-6):
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance, err_msg=name)


# The meter.

def test_an_empty_meter_has_no_rates():
    assert np.isnan(Meter().loss) and np.isnan(Meter().accuracy)


def test_a_meter_adds_up_in_double_precision():
    meter = Meter()
    meter.add(3, np.float32(3e8), 1)
    meter.add(1, np.float32(.5), np.float32(1))
    assert (meter.images, meter.loss_sum, meter.correct) == (4, 3e8 + .5, 2)
    assert (meter.loss, meter.accuracy) == ((3e8 + .5) / 4, .5)
    json.dumps(vars(meter))  # it travels in a checkpoint


# Devices.

def test_without_a_gpu_as_many_cpu_contexts_take_their_place(monkeypatch):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    assert placement.devices(()) == ([mx.cpu()], "running on the CPU, as asked")
    assert placement.devices((0,)) == ([mx.cpu(0)], "no GPU is present: running on the CPU")
    assert placement.devices((4, 7)) == ([mx.cpu(0), mx.cpu(1)],
                                    "no GPU is present: running on 2 CPU contexts in place of 2 GPUs")


def test_with_gpus_the_numbers_are_theirs(monkeypatch):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 2)
    assert placement.devices(()) == ([mx.cpu()], "running on the CPU, as asked")
    assert placement.devices((1, 0)) == ([mx.gpu(1), mx.gpu(0)], "running on GPU 1, 0")
    with pytest.raises(InputError, match=r"^--gpus 0,2: this machine has 2 GPU\(s\), numbered from 0 to 1$"):
        placement.devices((0, 2))


@pytest.mark.parametrize("numbers", [(0, 0), (-1,)])
def test_gpu_numbers_are_different_and_not_negative(numbers):
    with pytest.raises(InputError, match="^--gpus takes different numbers of at least 0, got "):
        placement.devices(numbers)


# Initialization.

def test_initialization_is_he_et_als_with_the_authors_numbers():
    net = tiny.ready(model.get_model("resnet20_v2", blocks=1))
    weight = net.features[4][0].conv2.weight.data().asnumpy()  # 64 x 64 x 3 x 3
    variance = 2 / ((1 + .25 ** 2) * 64 * 9)  # the fans are equal
    assert weight.var() == pytest.approx(variance, rel=.03) and abs(weight.mean()) < 3 * (variance / weight.size) ** .5
    kurtosis = ((weight / weight.std()) ** 4).mean()
    assert kurtosis == pytest.approx(3, abs=.2)  # Gaussian: a uniform one has 1.8
    assert not net.output.bias.data().asnumpy().any()


def test_initialization_follows_the_seed():
    first, again, other = (tiny.numbers_of(tiny.ready(tiny.net(), seed)) for seed in (5, 5, 6))
    assert all((first[name] == again[name]).all() for name in first)
    assert (first["0.weight"] != other["0.weight"]).all()


# Steps of training.

def nag(weights, gradients, momenta, lr, momentum, wd):
    """Nesterov's accelerated gradient as MXNet's operator has it; wd by name. Changes weights and momenta.

    Against its documentation the momentum is kept multiplied by the learning rate, so what was gathered before a decay
    goes on at the rate of its time; and the decay that enters it is that of the new weight, not of the old one.
    """
    for name, gradient in gradients.items():
        old = weights[name]
        step = lr * (gradient + wd[name] * old)
        weights[name] = old - step - momentum * (momentum * momenta[name] + step)
        momenta[name] = momentum * momenta[name] + lr * (gradient + wd[name] * weights[name])


@pytest.mark.parametrize("no_wd", [False, True])
@pytest.mark.parametrize("momentum", [.9, 0.])
def test_steps_are_nag_with_weight_decay_on_everything_or_on_weights_alone(momentum, no_wd):
    wd = .05  # large, so that a parameter without it is seen
    net, reference = tiny.ready(tiny.net()), tiny.ready(tiny.net())
    for made in (net, reference):  # away from 0, where a decay would change nothing
        for name, parameter in made._collect_params_with_prefix().items():
            if name.endswith(("gamma", "beta", "bias")):
                parameter.set_data(mx.nd.array(np.linspace(.5, 1.5, parameter.shape[0])))
    weights, momenta = tiny.numbers_of(net), {}
    decays = {name: 0 if no_wd and name.endswith(("gamma", "beta", "bias")) else wd for name in weights}
    batches, rates = [batch(8, seed) for seed in range(3)], [.1, .1, .01]
    for (images, labels), lr in zip(batches, rates):
        for name, parameter in reference._collect_params_with_prefix().items():
            if parameter.grad_req != "null":
                parameter.set_data(mx.nd.array(weights[name]))
        gradients = gradients_of(reference, images, labels)
        momenta = momenta or dict.fromkeys(gradients, 0)
        nag(weights, gradients, momenta, lr, momentum, decays)

    tiny.train(tiny.program(net, wd=wd, no_wd=no_wd, momentum=momentum),
               ((lr, *pair) for lr, pair in zip(rates, batches)))
    found = tiny.numbers_of(net)
    assert_close({name: found[name] for name in momenta}, {name: weights[name] for name in momenta}, 2e-6)


def test_no_wd_names_every_gamma_beta_and_bias_of_a_real_net_and_nothing_else():
    net = tiny.ready(model.get_model("senet_resnet20_v2", blocks=1))
    optimizer.make_trainer(net, tiny.recipe(no_wd=True))
    for name, parameter in net._collect_params_with_prefix().items():
        if parameter.grad_req != "null":
            assert parameter.wd_mult == (0 if name.rpartition(".")[2] in ("gamma", "beta", "bias") else 1), name


@pytest.mark.parametrize("kvstore", ["device", "local"])
def test_two_devices_are_one_on_the_joined_batch(kvstore):
    batches = [batch(12, seed) for seed in range(3)]
    one, two = tiny.ready(tiny.net(False)), tiny.ready(tiny.net(False), contexts=tiny.TWO)
    meter = trained(one, batches)
    again = trained(two, batches, tiny.TWO, team=distributed.Team(kvstore))
    assert_close(tiny.numbers_of(two), tiny.numbers_of(one))
    assert (again.images, again.correct) == (meter.images, meter.correct) == (36, meter.correct)
    assert again.loss == pytest.approx(meter.loss, rel=1e-6)


def test_two_devices_have_equal_weights_and_the_mean_of_their_shares_gradients():
    images, labels = batch(12)
    net = tiny.ready(tiny.net(), contexts=tiny.TWO)
    before, momenta = tiny.numbers_of(net), {}
    halves = [gradients_of(tiny.ready(tiny.net()), images[part], labels[part]) for part in (slice(6), slice(6, 12))]
    mean = {name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]}
    whole = gradients_of(tiny.ready(tiny.net()), images, labels)
    assert np.abs(whole["0.weight"] - mean["0.weight"]).max() > 1e-4  # each share has its own statistics
    momenta = dict.fromkeys(mean, 0)
    nag(before, mean, momenta, .1, .9, dict.fromkeys(mean, 1e-3))

    trained(net, [(images, labels)], tiny.TWO)
    first, second = tiny.numbers_of(net, 0), tiny.numbers_of(net, 1)
    assert_close({name: first[name] for name in mean}, {name: before[name] for name in mean})
    assert all((first[name] == second[name]).all() for name in mean)


def test_devices_stay_bit_equal_over_more_steps_of_a_real_net():
    net = tiny.ready(model.get_model("atac_resnet20_v2", blocks=1), contexts=tiny.TWO)
    trained(net, [batch(8, seed) for seed in range(3)], tiny.TWO)
    first, second = tiny.numbers_of(net, 0), tiny.numbers_of(net, 1)
    for name in first:
        assert (first[name] == second[name]).all() == ("running" not in name), name


@pytest.mark.parametrize("mode", ["hybrid", "imperative"])
def test_the_meters_sums_are_an_offline_count(mode, monkeypatch):
    # With lr 0 the net stands still, so every batch can be counted again afterwards.
    batches = [batch(8, seed) for seed in range(5)]
    sums = []
    for lag in (0, 2, 10):
        monkeypatch.setattr(base, "LAG", lag)
        net = tiny.ready(tiny.net(), mode=mode)
        meter = trained(net, batches, lr=0.)
        sums.append((meter.images, meter.loss_sum, meter.correct))
    assert sums[0] == sums[1] == sums[2]
    loss_sum = correct = 0
    for images, labels in batches:
        with autograd.train_mode():
            logits = net(mx.nd.array(images)).asnumpy().astype(np.float64)
        loss_sum += (np.log(np.exp(logits).sum(1)) - logits[np.arange(8), labels]).sum()
        correct += (logits.argmax(1) == labels).sum()
    assert sums[0] == (40, pytest.approx(loss_sum, rel=1e-6), correct)
    assert len({tuple(labels) for _, labels in batches}) == 5  # else an overwritten result would not be seen


@pytest.mark.parametrize("contexts", [tiny.CPU, tiny.TWO])
def test_the_host_reads_two_numbers_a_step_and_device_and_waits_for_nothing_else(contexts, monkeypatch):
    read, waited = [], []
    asnumpy, waitall = mx.nd.NDArray.asnumpy, mx.nd.waitall
    monkeypatch.setattr(mx.nd.NDArray, "asnumpy", lambda array: read.append(array.size) or asnumpy(array))
    monkeypatch.setattr(mx.nd.NDArray, "wait_to_read", lambda array: waited.append(array))
    monkeypatch.setattr(mx.nd, "waitall", lambda: waited.append("the end") or waitall())
    net = tiny.ready(tiny.net(), contexts=contexts)
    program = tiny.program(net, contexts)
    read.clear()
    batches = ((.1, *batch(12, seed)) for seed in range(6))
    reads = [len(read) for _ in program.steps(tiny.fed(batches), Meter())]
    assert reads == [len(contexts) * max(0, step - base.LAG) for step in range(1, 7)]
    assert read == [2] * 6 * len(contexts) and waited == ["the end"]


def test_the_meter_is_complete_when_the_steps_end_early():
    net = tiny.ready(tiny.net())
    meter = Meter()
    steps = tiny.program(net).steps(tiny.fed((.1, *batch(8, seed)) for seed in range(9)), meter)
    for done in steps:
        if done == 4:
            assert meter.images == 8 * (4 - base.LAG)
            break
    steps.close()
    assert meter.images == 32


def test_an_error_of_the_data_passes_through():
    def broken():
        yield (.1, *batch(8))
        raise InputError("no more")

    net = tiny.ready(tiny.net())
    meter = Meter()
    with pytest.raises(InputError, match="no more"):
        tiny.train(tiny.program(net), broken(), meter)
    assert meter.images == 8


@pytest.mark.parametrize("lag", [0, 2])
def test_a_loss_that_is_no_number_stops_within_the_lag(lag, monkeypatch):
    monkeypatch.setattr(base, "LAG", lag)
    images, labels = batch(8)
    fed = []

    def batches():
        for step in range(20):
            fed.append(step)
            yield np.inf if step == 2 else .1, images, labels

    net = tiny.ready(tiny.net())
    meter = Meter()
    with pytest.raises(Diverged, match="^the loss is no longer a finite number$"):
        tiny.train(tiny.program(net), batches(), meter)
    assert meter.images == 24 and fed[-1] == 3 + lag


# Running statistics.

@pytest.mark.parametrize("mode", ["hybrid", "imperative"])
def test_every_batchnorm_moves_its_statistics_the_one_at_the_input_too(mode):
    net = tiny.ready(model.get_model("atac_resnet20_v2", blocks=1), mode=mode)
    images, labels = batch(16)
    images = images * np.array([1, 2, 3], np.float32).reshape(3, 1, 1) + .5
    before = tiny.numbers_of(net)
    trained(net, [(images, labels)] * 3)
    after = tiny.numbers_of(net)
    for name in after:
        assert (after[name] != before[name]).any() == (not name.startswith("features.0.") or "running" in name), name
    for name, start, goal in (("mean", 0, images.mean((0, 2, 3))), ("var", 1, images.var((0, 2, 3)))):
        np.testing.assert_allclose(after[f"features.0.running_{name}"], goal + .9 ** 3 * (start - goal), rtol=1e-4)


@pytest.mark.parametrize("contexts", [tiny.CPU, tiny.TWO])
def test_statistics_are_final_when_the_steps_end(contexts, monkeypatch):
    step = Program.step  # without the sums, whose reading would wait for most of the work by chance
    monkeypatch.setattr(Program, "step", lambda program, *batch: step(program, *batch)[:0])
    batches = [batch(256, seed) for seed in range(2)]
    for _ in range(3):
        net = tiny.ready(tiny.net(), contexts=contexts)
        trained(net, batches, contexts)
        at_once = net[1].running_var.list_data()[-1].asnumpy()
        mx.nd.waitall()
        assert (at_once == net[1].running_var.list_data()[-1].asnumpy()).all()


def test_every_device_keeps_its_own_statistics_from_the_first_step_on():
    images, labels = batch(12)
    expected = []
    for part in (slice(6), slice(6, 12)):
        net = tiny.ready(tiny.net())
        trained(net, [(images[part], labels[part])])
        expected.append(tiny.numbers_of(net)["1.running_mean"])
    for _ in range(10):
        net = tiny.ready(tiny.net(), contexts=tiny.TWO)
        trained(net, [(images, labels)], tiny.TWO)
        for device in (0, 1):
            assert (tiny.numbers_of(net, device)["1.running_mean"] == expected[device]).all()


def test_the_inputs_gradient_changes_no_weight(monkeypatch):
    runs = []
    for attach in (mx.nd.NDArray.attach_grad, lambda array: None):
        monkeypatch.setattr(mx.nd.NDArray, "attach_grad", attach)
        net = tiny.ready(model.get_model("atac_resnet20_v2", blocks=1))
        trained(net, [batch(8, seed) for seed in range(3)])
        runs.append(tiny.numbers_of(net))
    differ = {name for name in runs[0] if (runs[0][name] != runs[1][name]).any()}
    assert differ == {"features.0.running_mean", "features.0.running_var"}


def test_evaluation_within_training_is_that_of_the_saved_file(tmp_path):
    net = tiny.ready(tiny.net(), contexts=tiny.TWO)
    program = tiny.program(net, tiny.TWO)
    tiny.train(program, [(.1, *batch(12, seed)) for seed in range(3)])
    apart = [tiny.numbers_of(net, device)["1.running_mean"] for device in (0, 1)]
    assert (apart[0] != apart[1]).all()
    program.average()
    for device in (0, 1):
        np.testing.assert_allclose(tiny.numbers_of(net, device)["1.running_mean"], (apart[0] + apart[1]) / 2,
                                   rtol=1e-6)
    test = in_memory.EvalBatches(tiny.split(30), 7)
    within = tiny.score(net, test, 10, tiny.TWO)
    tiny.save(tmp_path / "x.params", net, tiny.saved())
    reloaded = tiny.ready(tiny.net(), seed=1)
    reloaded.load_parameters(str(tmp_path / "x.params"))
    again = tiny.score(reloaded, test, 10)
    assert within.loss == again.loss and (within.confusion == again.confusion).all()


def test_one_devices_statistics_stay_as_they_are():
    net = tiny.ready(tiny.net())
    program = tiny.program(net)
    tiny.train(program, [(.1, *batch())])
    before = tiny.numbers_of(net)
    program.average()
    assert all((before[name] == value).all() for name, value in tiny.numbers_of(net).items())


# Another forward pass on the net's parameters.

class Twin:
    """Computes what net does and counts how often."""

    def __init__(self, net, own_statistics=False):
        self.net, self.calls, self.own_statistics = net, 0, own_statistics

    def __call__(self, x):
        self.calls += 1
        return self.net(x)


def test_another_forward_pass_computes_and_the_net_is_trained():
    batches = [batch(8, seed) for seed in range(3)]
    net, other = tiny.ready(tiny.net()), tiny.ready(tiny.net())
    trained(other, batches)
    twin = Twin(net)
    tiny.train(tiny.program(net, forward=twin), ((.1, *pair) for pair in batches))
    assert twin.calls == 3
    expected = tiny.numbers_of(other)
    assert all((value == expected[name]).all() for name, value in tiny.numbers_of(net).items())
    test = in_memory.EvalBatches(tiny.split(30), 10)
    assert tiny.score(net, test, 10, forward=twin).loss == tiny.score(other, test, 10).loss
    assert twin.calls == 6


@pytest.mark.parametrize("own", [False, True])
def test_the_inputs_gradient_is_asked_for_unless_the_forward_pass_moves_statistics_itself(own):
    net = tiny.ready(model.get_model("atac_resnet20_v2", blocks=1))
    asked = []

    class Watching(Twin):
        def __call__(self, x):
            asked.append(x.grad is not None)
            return super().__call__(x)

    twin = Watching(net, own)
    tiny.train(tiny.program(net, forward=twin), [(.1, *batch(8))])
    assert asked == [not own]
    assert loss.wants_input_gradient(net, mx.cpu()) and not loss.wants_input_gradient(net, mx.gpu(0))


# GPUs, as far as a machine without one can show it.

def test_float16_is_for_gpus():
    for contexts in (tiny.CPU, [mx.gpu(0)]):
        assert placement.training_type("float32", contexts) == ("float32", None)
    dtype, sentence = placement.training_type("float16", tiny.CPU)
    assert dtype == "float32" and sentence.endswith(": float32 is used") and "\n" not in sentence
    assert placement.training_type("float16", [mx.gpu(0)])[0] == "float16"


class Scaled(nn.HybridBlock):
    """Logits that float16 can compute on a CPU: the mean of each channel, scaled."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.norm = nn.BatchNorm(in_channels=3)
            self.weight = self.params.get("weight", shape=(1, 3))

    def hybrid_forward(self, F, x, weight):
        return F.broadcast_mul(F.mean(self.norm(x), axis=(2, 3)), weight)


def test_float16_keeps_master_weights_of_full_precision():
    net = tiny.ready(tiny.net(), contexts=tiny.TWO)
    before = tiny.numbers_of(net)
    trainer = optimizer.make_trainer(net, tiny.recipe(), dtype="float16")
    for name, parameter in net._collect_params_with_prefix().items():
        assert np.dtype(parameter.dtype) == ("float32" if name.startswith("1.") else "float16"), name
        if not name.startswith("1."):
            for device in (0, 1):
                momentum, master = optimizer.optimizer_state(trainer, parameter, device)
                assert (master.asnumpy() == before[name]).all() and not momentum.asnumpy().any()
                assert (parameter.list_data()[device].asnumpy() == before[name].astype("float16")).all()
    assert (before["0.weight"] != before["0.weight"].astype("float16")).any()  # else nothing could be lost
    assert placement.input_type(net) == "float16" and placement.input_type(tiny.ready(tiny.net())) == "float32"


@pytest.mark.parametrize("mode", ["hybrid", "imperative"])
def test_steps_in_float16_follow_those_in_float32(mode):
    labels = np.arange(64) % 3
    noise = np.random.RandomState(0).normal(0, 1, (64, 3, 8, 8)).astype("float32")
    images = noise + np.eye(3, dtype="float32")[labels][:, :, None, None]
    losses, nets = [], []
    for dtype in ("float32", "float16"):
        net = tiny.ready(Scaled(), mode=mode)
        net.weight.set_data(mx.nd.array([[.3, .4, .5]]))
        program = tiny.program(net, dtype=dtype)
        seen = []
        net.norm.register_forward_pre_hook(lambda block, inputs, seen=seen: seen.append(inputs[0].dtype)
                                           if isinstance(inputs[0], mx.nd.NDArray) else None)
        meter = tiny.train(program, [(.1, images, labels)] * 20)
        if mode == "imperative":
            assert set(seen) == {np.dtype(dtype).type}
        evaluation = tiny.score(net, [(images, labels, 64)], 3)
        losses.append((meter.loss, evaluation.loss))
        nets.append(tiny.numbers_of(net))
        _, master = optimizer.optimizer_state(program.trainer, net.weight)
        master = net.weight.data() if master is None else master
        nets[-1]["master"] = master.asnumpy()
    assert losses[1] == pytest.approx(losses[0], rel=2e-3) and losses[0][1] < losses[0][0]
    assert nets[1]["weight"].dtype == np.float16 and nets[1]["master"].dtype == np.float32
    assert (nets[1]["weight"] == nets[1]["master"].astype("float16")).all()
    np.testing.assert_allclose(nets[1]["master"], nets[0]["master"], rtol=1e-2)


def gpu_stand_ins(monkeypatch):
    """Has the loop take its path for GPUs on CPU contexts; returns the threads that filled host memory."""
    threads, array = [], placement.array

    def filled(values, context, dtype="float32"):
        threads.append(threading.current_thread().name)
        return array(values, context, dtype)

    monkeypatch.setattr(placement, "array", filled)
    monkeypatch.setattr(placement, "kind", lambda contexts: "gpu")
    monkeypatch.setattr(mx, "cpu_pinned", lambda number: mx.cpu(number))
    return threads


@pytest.mark.parametrize("contexts", [tiny.CPU, tiny.TWO])
def test_a_thread_stages_batches_for_gpus_and_changes_no_bit(contexts, monkeypatch):
    batches = [batch(12, seed) for seed in range(4)]
    test = in_memory.EvalBatches(tiny.split(30), 7)
    found = []
    for gpus in (False, True):
        if gpus:
            threads = gpu_stand_ins(monkeypatch)
        net = tiny.ready(tiny.net(), contexts=contexts)
        meter = trained(net, batches, contexts)
        found.append((vars(meter), {name: value.tobytes() for name, value in tiny.numbers_of(net).items()},
                      tiny.score(net, test, 10, contexts).loss))
    assert found[0] == found[1]
    assert len(threads) == 4 * 2 * len(contexts) + 5 and all(name.startswith("prefetch") for name in threads)


def test_staging_ends_with_the_steps_and_passes_errors_on(monkeypatch):
    gpu_stand_ins(monkeypatch)
    closed = []

    def batches():
        try:
            for seed in range(100):
                if seed == 50:
                    raise InputError("no more")
                yield (.1, *batch(8, seed))
        finally:
            closed.append(True)

    net = tiny.ready(tiny.net())
    program, meter = tiny.program(net), Meter()
    steps = program.steps(tiny.fed(batches()), meter)
    assert [next(steps), next(steps)] == [1, 2]
    steps.close()
    assert closed and meter.images == 16
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
    with pytest.raises(InputError, match="no more"):
        tiny.train(program, batches(), meter)
    assert meter.images == 16 + 8 * 50


def test_a_batch_is_shared_out_in_order_and_the_last_device_takes_the_rest():
    images, labels = batch(7)
    for contexts, sizes in ((tiny.CPU, [7]), (tiny.TWO, [3, 4]), ([mx.cpu(index) for index in range(9)], [1] * 7)):
        shares = placement.shares(images, labels, contexts, "float16")
        assert [context for context, _, _ in shares] == contexts[:len(sizes)]
        assert [len(x) for _, x, _ in shares] == sizes
        assert all(x.dtype == np.float16 and y.dtype == np.float32 for _, x, y in shares)
        assert (np.concatenate([x.asnumpy() for _, x, _ in shares]) == images.astype("float16")).all()
        assert (np.concatenate([y.asnumpy() for _, _, y in shares]) == labels).all()


def test_host_memory_for_a_gpu_is_page_locked(monkeypatch):
    asked = []
    monkeypatch.setattr(mx, "cpu_pinned", lambda number: asked.append(number) or mx.cpu())
    placement.array(np.zeros(3, np.float32), mx.gpu(2))
    placement.array(np.zeros(3, np.float32), mx.cpu(1))
    assert asked == [2]


# Evaluation.

class Given(nn.HybridBlock):
    """Answers with logits that stand in the image: its first numbers."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def hybrid_forward(self, F, x):
        return F.slice_axis(F.reshape(x, (0, -1)), axis=1, begin=0, end=self.outputs)


def statement(logits, truth, labels):
    """Scores one image at a time; on a tie the lower class is the answer and the better rank."""
    confusion = np.zeros((labels, logits.shape[1]), int)
    loss = top5 = 0
    for row, label in zip(logits.astype(np.float64), truth):
        ranking = sorted(range(len(row)), key=lambda index: (-row[index], index))
        confusion[label, ranking[0]] += 1
        top5 += label in ranking[:5]
        loss += np.log(sum(np.exp(row - row[label])))
    return loss / len(truth), np.trace(confusion) / len(truth), top5 / len(truth), confusion


def batches_of(logits, truth, size):
    """As engine.data.cifar.EvalBatches: the last batch is filled up with images from the front."""
    images = np.zeros((len(logits), 3 * 4 * 4), np.float32)
    images[:, :logits.shape[1]] = logits
    images = images.reshape(-1, 3, 4, 4)
    for start in range(0, len(truth), size):
        chosen = np.arange(start, start + size) % len(truth)
        yield images[chosen], truth[chosen], min(size, len(truth) - start)


@pytest.mark.parametrize("contexts", [tiny.CPU, tiny.TWO])
def test_evaluation_is_the_plain_count(contexts):
    for (labels, outputs), size in itertools.product(((10, 10), (3, 3), (20, 40), (1, 1)), (7, 23, 50)):
        truth = RANDOM.randint(0, labels, 23)
        logits = RANDOM.randint(-3, 4, (23, outputs)).astype("float32")  # few values: many ties
        net = Given(outputs)
        net.hybridize(static_alloc=True, static_shape=True)
        found = tiny.score(net, batches_of(logits, truth, size), labels, contexts)
        loss, top1, top5, confusion = statement(logits, truth, labels)
        assert found.images == 23 and found.confusion.sum() == 23
        assert (found.loss, found.top1, found.top5) == (pytest.approx(loss, rel=1e-12), pytest.approx(top1),
                                                        pytest.approx(top5))
        assert (found.confusion == confusion).all()


def test_logits_beyond_the_reach_of_exp_are_scored():
    logits = np.array([[1e4, 0, -1e4]], np.float32)
    assert tiny.score(Given(3), batches_of(logits, np.array([2]), 1), 3).loss == 2e4
    assert tiny.score(Given(3), batches_of(logits, np.array([0]), 1), 3).loss == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_answers_that_are_no_numbers_are_divergence(value):
    logits = np.zeros((4, 3), np.float32)
    logits[3, 1] = value
    with pytest.raises(Diverged, match="not finite"):
        tiny.score(Given(3), batches_of(logits, np.zeros(4, int), 3), 3)


def test_nothing_to_evaluate_is_refused():
    with pytest.raises(InputError, match="^there are no images to evaluate$"):
        tiny.score(Given(3), [], 3)


def test_training_is_repeatable_to_the_bit_after_an_evaluation():
    def run():
        net = tiny.ready(model.get_model("atac_resnet20_v2", blocks=1))
        program = tiny.program(net)
        test = in_memory.EvalBatches(tiny.split(20), 20)
        scores = []
        for epoch in range(2):
            tiny.train(program, [(.1, *batch(8, 10 * epoch + seed)) for seed in range(3)])
            scores.append(tiny.score(net, test, 10).loss)
        return scores, {name: value.tobytes() for name, value in tiny.numbers_of(net).items()}

    assert run() == run()


# The loss.

def soft_cross_entropy(logits, targets):
    logits = logits.astype(np.float64)
    scores = logits - logits.max(axis=1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return -(targets * scores).sum(axis=1)


@pytest.mark.parametrize("smoothing, share", [(0., 1.), (.1, 1.), (0., .3), (.1, .7)])
def test_the_loss_is_the_cross_entropy_against_smoothed_and_mixed_targets(smoothing, share):
    logits, labels = RANDOM.normal(0, 3, (6, 10)).astype("float32"), np.array([0, 3, 9, 3, 1, 7])
    one_hot = np.eye(10)[labels] * (1 - smoothing) + smoothing / 10
    targets = share * one_hot + (1 - share) * one_hot[::-1]
    x = mx.nd.array(logits)
    x.attach_grad()
    with autograd.record():
        losses = loss.cross_entropy(x, mx.nd.array(labels), smoothing, share)
    losses.backward()
    np.testing.assert_allclose(losses.asnumpy(), soft_cross_entropy(logits, targets), rtol=1e-5, atol=1e-5)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(x.grad.asnumpy(), shifted / shifted.sum(axis=1, keepdims=True) - targets, atol=1e-5)


def test_without_smoothing_and_mixing_the_loss_is_gluons_to_the_bit():
    logits, labels = mx.nd.array(RANDOM.normal(0, 3, (6, 10))), mx.nd.array([0, 3, 9, 3, 1, 7])
    found, gradients = [], []
    for function in (loss.cross_entropy, gluon.loss.SoftmaxCrossEntropyLoss()):
        logits.attach_grad()
        with autograd.record():
            losses = function(logits, labels)
        losses.backward()
        found.append(losses.asnumpy())
        gradients.append(logits.grad.asnumpy())
    assert (found[0] == found[1]).all() and (gradients[0] == gradients[1]).all()


@pytest.mark.parametrize("share", [.3, .7])
def test_mixed_images_train_on_mixtures_and_count_the_label_with_the_larger_share(share):
    images, labels = batch(12)
    mixed = share * images + (1 - share) * images[::-1]
    net = tiny.ready(tiny.net(batch_norm=False))
    logits = net(mx.nd.array(mixed)).asnumpy()
    targets = .9 * (share * np.eye(10)[labels] + (1 - share) * np.eye(10)[labels[::-1]]) + .01
    meter = tiny.train(tiny.program(net, label_smoothing=.1), [(.1, images, labels, share)])
    assert meter.loss == pytest.approx(soft_cross_entropy(logits, targets).mean(), rel=1e-5)
    assert meter.correct == (logits.argmax(axis=1) == (labels if share > .5 else labels[::-1])).sum()


# A batch in parts.

@pytest.mark.parametrize("contexts", [tiny.CPU, tiny.TWO])
@pytest.mark.parametrize("mode", ["hybrid", "imperative"])
def test_a_batch_in_parts_is_the_whole_batch_where_there_is_no_batchnorm(contexts, mode):
    batches = [batch(16, seed) for seed in range(4)]
    nets, meters = [], []
    for accumulate in (1, 4):
        net = tiny.ready(tiny.net(batch_norm=False), contexts=contexts, mode=mode)
        meters.append(trained(net, batches, contexts, accumulate=accumulate))
        nets.append(tiny.numbers_of(net))
    assert_close(nets[1], nets[0])
    assert (meters[0].images, meters[0].correct) == (meters[1].images, meters[1].correct) == (64, meters[0].correct)
    assert meters[1].loss == pytest.approx(meters[0].loss, rel=1e-6)


def test_each_part_of_a_batch_has_its_own_batchnorm_statistics():
    images, labels = batch(16)
    net, reference = tiny.ready(tiny.net()), tiny.ready(tiny.net())
    parts = [gradients_of(reference, images[start:start + 4], labels[start:start + 4]) for start in range(0, 16, 4)]
    before = tiny.numbers_of(net)
    trained(net, [(images, labels)], momentum=0, wd=0, accumulate=4)
    after = tiny.numbers_of(net)
    for name in parts[0]:
        expected = before[name] - .1 * sum(part[name] for part in parts) / 4
        np.testing.assert_allclose(after[name], expected, atol=1e-6, err_msg=name)
    for name, value in tiny.numbers_of(reference).items():  # which has seen the same parts in the same order
        if "running" in name:
            np.testing.assert_allclose(after[name], value, rtol=1e-5, err_msg=name)


# Loss scaling. What it follows is plain arithmetic; the steps are float32 ones, which a CPU can do.

def test_the_loss_scale_halves_at_an_overflow_and_doubles_after_a_while():
    scale = LossScale()
    assert scale.value == 1
    for _ in range(3):
        scale.follow(False)
    assert (scale.value, scale.left_out, scale.sound) == (1 / 8, 3, 0)
    for _ in range(scale.PATIENCE - 1):
        scale.follow(True)
    assert scale.value == 1 / 8
    scale.follow(True)
    assert (scale.value, scale.sound) == (1 / 4, 0)
    scale.follow(True)
    scale.follow(False)
    assert (scale.value, scale.sound, scale.left_out) == (1 / 8, 0, 4)
    assert vars(LossScale(**vars(scale))) == vars(scale) == json.loads(json.dumps(vars(scale)))


def test_the_loss_scale_has_bounds():
    scale = LossScale(LossScale.MOST, LossScale.PATIENCE - 1)
    scale.follow(True)
    assert scale.value == LossScale.MOST
    with pytest.raises(Diverged, match="^the gradients overflow float16 at every loss scale$"):
        for _ in range(100):
            scale.follow(False)
    assert scale.value < LossScale.LEAST


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("contexts", [tiny.CPU, tiny.TWO])
def test_a_scaled_loss_makes_the_same_steps(contexts, accumulate):
    nets, meters = [], []
    for scale in (None, LossScale(2.0 ** 10)):
        net = tiny.ready(tiny.net(), contexts=contexts)
        program = tiny.program(net, contexts, accumulate=accumulate)
        program.scale = scale
        meters.append(tiny.train(program, ((.1, *batch(16, seed)) for seed in range(3))))
        nets.append(tiny.numbers_of(net))
    assert_close(nets[1], nets[0], 1e-7)
    assert meters[0] == meters[1]  # of the unscaled loss


def test_a_step_whose_gradients_overflow_is_left_out_and_the_next_is_not():
    net = tiny.ready(tiny.net(batch_norm=False))
    program = tiny.program(net)
    program.scale = scale = LossScale(2.0 ** 110)
    before, seen = tiny.numbers_of(net), []
    images, labels = batch(16)
    for _ in program.steps(tiny.fed(40 * [(1e-12, 1e8 * images, labels)]), Meter()):
        seen.append((scale.left_out, all((tiny.numbers_of(net)[name] == value).all() for name, value in
                                         before.items())))
    assert seen[0] == (1, True) and scale.left_out < 40
    assert [left_out == step + 1 for step, (left_out, _) in enumerate(seen)] == [same for _, same in seen]
    program.check()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gradients_of_both_types_are_looked_through(dtype):
    net = tiny.ready(tiny.net())
    trained(net, [batch(8)])
    if dtype == "float16":
        net.cast(dtype)
        for parameter in net.collect_params().values():
            if parameter.grad_req != "null":
                parameter.grad()[:] = 1
    assert loss.finite_gradients(net, mx.cpu())
    for name, parameter in net._collect_params_with_prefix().items():
        if parameter.grad_req != "null":
            kept = parameter.grad().copy()
            for value in (np.nan, np.inf):
                parameter.grad()[-1:] = value
                assert not loss.finite_gradients(net, mx.cpu()), name
            parameter.grad()[:] = kept
    assert loss.finite_gradients(net, mx.cpu())


# Saving in between.

def test_steps_that_settle_are_complete_and_change_no_bit():
    nets, images = [], []
    for settle in (None, lambda done: done % 3 == 0):
        net, meter, seen = tiny.ready(tiny.net()), Meter(), []
        for _ in tiny.program(net).steps(tiny.fed((.1, *batch(8, seed)) for seed in range(7)), meter, settle):
            seen.append(meter.images)
        nets.append({name: value.tobytes() for name, value in tiny.numbers_of(net).items()})
        images.append(seen)
    assert nets[0] == nets[1]
    assert images[0] == [0, 0, 8, 16, 24, 32, 40] and images[1] == [0, 0, 24, 24, 24, 48, 48]


# Data that cannot be read.

def test_any_error_of_a_data_thread_becomes_one_sentence():
    def broken(error):
        yield (.1, *batch(8))
        raise error

    net = tiny.ready(tiny.net())
    program = tiny.program(net)
    for error, said in ((OSError(5, "Input/output error"), "^a batch cannot be read .OSError: .* Input/output error.$"),
                        (KeyError("x"), "^a batch cannot be read .KeyError: 'x'.$"),
                        (InputError("x.JPEG is damaged"), "^x.JPEG is damaged$")):
        meter = Meter()
        with pytest.raises(DataFault, match=said):
            tiny.train(program, broken(error), meter)
        assert meter.images == 8

    def unreadable():
        yield (*batch(8), 8)
        raise OSError("gone")

    with pytest.raises(DataFault, match="^a batch cannot be read .OSError: gone.$"):
        tiny.score(net, unreadable(), 10)


# Several workers, as far as one process can play them.

def test_running_statistics_are_those_of_every_device_of_every_worker():
    nets = [tiny.ready(tiny.net(), contexts=tiny.TWO) for _ in range(2)]
    programs = [tiny.program(net, tiny.TWO) for net in nets]
    for seed, program in enumerate(programs):
        tiny.train(program, [(.1, *batch(8, seed))])
    names = ["1.running_mean", "1.running_var"]
    own = [[np.concatenate([tiny.numbers_of(net, device)[name] for name in names]) for device in (0, 1)]
           for net in nets]
    expected = {name: [tiny.numbers_of(net, device)[name] for net in nets for device in (0, 1)] for name in names}
    for rank, program in enumerate(programs):
        program.team = tiny.OneOfTwo(rank, own[1 - rank])
        found = program.running()
        assert sorted(found) == names
        for name in names:
            assert [array.tobytes() for array in found[name]] == [value.tobytes() for value in expected[name]]
        if rank == 0:
            kept = tiny.numbers_of(nets[0])
        program.average()
        for name in names:
            mean = np.mean([values[:4] if "mean" in name else values[4:] for pair in own for values in pair], axis=0)
            for device in (0, 1):
                np.testing.assert_allclose(tiny.numbers_of(nets[rank], device)[name], mean, rtol=1e-6)
    assert all((tiny.numbers_of(nets[0])[name] == value).all() for name, value in kept.items() if name not in names)


def test_an_evaluation_by_two_workers_is_that_of_all_images():
    logits, labels = RANDOM.normal(0, 1, (20, 7)).astype("float32"), RANDOM.randint(0, 6, 20)
    whole = tiny.score(Given(7), batches_of(logits, labels, 4), 6)
    halves = [tiny.score(Given(7), batches_of(logits[part], labels[part], 4), 6)
              for part in (slice(0, 12), slice(12, 20))]

    def sums(half):
        return np.concatenate([[half.images, half.loss * half.images, round(half.top5 * half.images)],
                               half.confusion.ravel()])

    for rank, part in enumerate((slice(0, 12), slice(12, 20))):
        scorer = Scorer(Given(7), tiny.CPU)
        scorer.team = tiny.OneOfTwo(rank, sums(halves[1 - rank]))
        found = scorer.score(batches_of(logits[part], labels[part], 4), 6)
        assert (found.images, found.top1, found.top5) == (20, whole.top1, whole.top5)
        assert found.loss == pytest.approx(whole.loss) and (found.confusion == whole.confusion).all()
