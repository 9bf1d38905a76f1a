"""What the tests of the fused operators share: float64 references, distances and the library itself."""
import os
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet import autograd

ROOT = Path(__file__).resolve().parent.parent
STATIC = {"static_alloc": True, "static_shape": True}


def distance(found, expected, floor=0.0):
    """Largest difference in units of the largest expected number, or of `floor` where that is larger."""
    assert found.shape == expected.shape
    assert np.isfinite(found).all() and np.isfinite(expected).all()
    return np.abs(found.astype(np.float64) - expected).max() / max(np.abs(expected).max(), floor, 1e-300)


def distances(found, expected):
    """Distance of each array in a dict.

    What is zero up to rounding is measured in units of the largest array, single numbers (PReLU's slopes: sums over
    whole maps, of which little may be left) in units of the largest of them.
    """
    largest = max(np.abs(array).max() for array in expected.values()) if expected else 0
    single = max([np.abs(array).max() for array in expected.values() if array.size == 1], default=0)
    return {name: distance(found[name], array, largest if np.abs(array).max() < 1e-10 * largest else
                           single if array.size == 1 else 0) for name, array in expected.items()}


def all_distances(found, expected):
    """The same for several dicts."""
    return {name: error for pair in zip(found, expected) for name, error in distances(*pair).items()}


def randomize(net, seed=1):
    """Gammas, betas and running statistics away from their initial values, as after some training."""
    generator = np.random.RandomState(seed)
    for name, parameter in net._collect_params_with_prefix().items():
        kind, shape = name.rpartition(".")[2], parameter.shape
        values = {"gamma": generator.uniform(.5, 1.5, shape), "beta": generator.normal(0, .5, shape),
                  "running_mean": generator.normal(0, .5, shape), "running_var": generator.uniform(.5, 1.5, shape)}
        if kind in values:
            parameter.set_data(mx.nd.array(values[kind]))
    return net


def copy_numbers(source, target):
    """Give target the parameters of source, which may be of another type."""
    numbers = source._collect_params_with_prefix()
    for name, parameter in target._collect_params_with_prefix().items():
        parameter.set_data(numbers[name].list_data()[0].astype(parameter.dtype))
    return target


def in_float64(make, net):
    """A net of the same constructor with net's numbers, in float64."""
    double = make()
    double.initialize()
    double.cast("float64")
    return copy_numbers(net, double)


def gradients_of(net, device=0):
    return {name: parameter.list_grad()[device].asnumpy() for name, parameter
            in net._collect_params_with_prefix().items() if parameter.grad_req != "null"}


def statistics_of(net, device=0):
    return {name: parameter.list_data()[device].asnumpy() for name, parameter
            in net._collect_params_with_prefix().items() if ".running_" in f".{name}"}


def step(net, forward, x, dy, input_gradient=True):
    """A training step through forward: output, gradient of x (None without), gradients and statistics of net."""
    x = mx.nd.array(x, dtype=x.dtype)
    if input_gradient:
        x.attach_grad()
    with autograd.record():
        y = forward(x)
    y.backward(mx.nd.array(dy, dtype=dy.dtype))
    mx.nd.waitall()
    return y.asnumpy(), x.grad.asnumpy() if input_gradient else None, gradients_of(net), statistics_of(net)


def run(code, *arguments, timeout=300, **environment):
    """Run Python code in a process of its own, in the repository; a variable that is None is taken away."""
    settings = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, timeout=timeout,
                          env={name: value for name, value in settings.items() if value is not None},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
