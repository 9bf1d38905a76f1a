"""The optimizer over all parameters at once: MXNet's own numbers to the bit, in as few calls as can be."""
import mxnet as mx
import numpy as np
import pytest
import tiny

from backend.gluon.optimizer import NAG

SHAPES = [(16, 3, 3, 3), (16,), (16,), (10, 16), (10,)]


def arrays(seed, dtype="float32"):
    generator = np.random.RandomState(seed)
    return [mx.nd.array(generator.normal(0, 1, shape), dtype=dtype) for shape in SHAPES]


def bits(values):
    return [value.asnumpy().tobytes() for value in values]


def updated(optimizer, dtype="float32", steps=3):
    """Weights and states after some steps of an optimizer, driven as Trainer drives it."""
    optimizer.rescale_grad = 1 / 128
    updater = mx.optimizer.get_updater(optimizer)
    weights = arrays(0, dtype)
    for step in range(steps):
        optimizer.set_learning_rate(.1 / (step + 1))
        updater(list(range(len(weights))), arrays(step + 1, dtype), weights)
    states = [state for index in range(len(weights)) for state in
              (updater.states[index] if isinstance(updater.states[index], tuple) else (updater.states[index],))]
    return bits(weights + [state for state in states if state is not None])


class Counted:
    """An operator for everything at once, made of MXNet's; keeps the arguments that are no arrays."""

    def __init__(self):
        self.calls = []

    def __call__(self, weights, grads, momenta, lr, momentum, wds, rescale_grad):
        self.calls.append((len(weights), lr, momentum, tuple(wds), rescale_grad))
        for weight, grad, state, wd in zip(weights, grads, momenta, wds):
            mx.nd.nag_mom_update(weight, grad, state, out=weight, lr=lr, wd=wd, momentum=momentum,
                                 rescale_grad=rescale_grad)


@pytest.mark.parametrize("dtype, settings", [
    ("float32", {"momentum": .9, "wd": 1e-3}), ("float32", {"momentum": 0., "wd": 1e-3}),
    ("float32", {"momentum": .9, "clip_gradient": .5}),
    ("float16", {"momentum": .9, "wd": 1e-3, "multi_precision": True}),
    ("float16", {"momentum": 0., "multi_precision": True})])
def test_it_is_mxnets_to_the_bit(dtype, settings):
    assert updated(NAG(**settings), dtype) == updated(mx.optimizer.NAG(**settings), dtype)


def test_an_operator_for_everything_is_called_once_a_step():
    operator = Counted()
    decayed = {1: 0., 4: 0.}  # as gamma, beta and bias under --no-wd
    optimizer, reference = NAG(operator, momentum=.9, wd=1e-3), mx.optimizer.NAG(momentum=.9, wd=1e-3)
    for made in (optimizer, reference):
        made.set_wd_mult(decayed)
    assert updated(optimizer) == updated(reference)
    assert operator.calls == [(5, .1 / step, .9, (1e-3, 0, 1e-3, 1e-3, 0), 1 / 128) for step in (1, 2, 3)]
    assert optimizer.num_update == reference.num_update == 3


@pytest.mark.parametrize("dtype, settings", [
    ("float32", {"momentum": 0.}), ("float32", {"momentum": .9, "clip_gradient": .5}),
    ("float16", {"momentum": .9, "multi_precision": True})])
def test_what_the_operator_is_not_for_goes_one_by_one(dtype, settings):
    operator = Counted()
    assert updated(NAG(operator, **settings), dtype) == updated(mx.optimizer.NAG(**settings), dtype)
    assert not operator.calls


def test_parameters_with_rates_of_their_own_go_one_by_one():
    operator = Counted()
    optimizer, reference = NAG(operator, momentum=.9), mx.optimizer.NAG(momentum=.9)
    for made in (optimizer, reference):
        made.set_lr_mult({2: .5})
    assert updated(optimizer) == updated(reference) and not operator.calls


@pytest.mark.parametrize("contexts", [tiny.CPU, tiny.TWO])
def test_a_trainer_hands_everything_over_at_once_on_each_device(contexts):
    operator, found = Counted(), []
    for update_all in (operator, None):
        net = tiny.ready(tiny.net(), contexts=contexts)
        generator = np.random.RandomState(0)
        batches = [(.1, generator.normal(0, 1, (8, 3, 32, 32)).astype("float32"), generator.randint(0, 10, 8))
                   for _ in range(3)]
        tiny.train(tiny.program(net, contexts, update_all=update_all), batches)
        found.append([value.tobytes() for device in range(len(contexts))
                      for value in tiny.numbers_of(net, device).values()])
    assert found[0] == found[1]
    assert [call[0] for call in operator.calls] == [6] * 3 * len(contexts)
