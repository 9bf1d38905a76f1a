"""The units' formulas in plain NumPy, float64, written from the paper and its sources and not from model/.

A unit is a function of x (N, C, H, W), of a dict p of its numbers and of `training`, which selects the batch's own
statistics in BatchNorm. Convolution weights lie as MXNet's do: (out, in / groups, rows, columns).
"""
import math

import numpy as np

EPSILON = 1e-5  # of every BatchNorm

erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def batch_norm(x, p, name, training):
    """gamma (x - mean) / sqrt(var + eps) + beta, with the biased variance of the batch in training."""
    if training:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    else:
        mean, variance = p[name + ".running_mean"], p[name + ".running_var"]
    gamma, beta = p[name + ".gamma"], p[name + ".beta"]
    mean, variance, gamma, beta = (value[:, None, None] for value in (mean, variance, gamma, beta))
    return gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta


def pointwise(x, weight, bias=None):
    """1x1 convolution: a matrix product over the channels at every position."""
    y = np.einsum("oc,nchw->nohw", weight[:, :, 0, 0], x)
    return y if bias is None else y + bias[:, None, None]


def convolution(x, weight, stride=1, padding=0):
    """Sum of shifted inputs, one shift for each place of the kernel."""
    rows, columns = weight.shape[2:]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = (x.shape[2] - rows) // stride + 1, (x.shape[3] - columns) // stride + 1
    y = np.zeros((x.shape[0], weight.shape[0], height, width))
    for i in range(rows):
        for j in range(columns):
            part = x[:, :, i:i + stride * height:stride, j:j + stride * width:stride]
            y += np.einsum("oc,nchw->nohw", weight[:, :, i, j], part)
    return y


def depthwise(x, weight, padding=0, bias=None):
    """Each channel with its own kernel."""
    rows, columns = weight.shape[2:]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = x.shape[2] - rows + 1, x.shape[3] - columns + 1
    y = sum(weight[:, 0, i, j][:, None, None] * x[:, :, i:i + height, j:j + width]
            for i in range(rows) for j in range(columns))
    return y if bias is None else y + bias[:, None, None]


def average(x):
    """Global average pool, the two axes kept."""
    return x.mean((2, 3), keepdims=True)


# Scalar activations.

def relu(x, p=None, training=False):
    return np.maximum(x, 0)


def leaky_relu(x, p, training, alpha=0.1):
    return np.where(x > 0, x, alpha * x)


def prelu(x, p, training):
    return np.where(x > 0, x, p["slope"][0] * x)


def elu(x, p, training, alpha=1.0):
    return np.where(x > 0, x, alpha * (np.exp(np.minimum(x, 0)) - 1))


def selu(x, p, training):
    return 1.0507009873554805 * elu(x, p, training, 1.6732632423543772)


def gelu(x, p, training):
    return x * (1 + erf(x / math.sqrt(2))) / 2


def swish(x, p, training, beta=1.0):
    return x * sigmoid(beta * x)


def sine(x, p, training):
    return np.sin(x)


# Learned gates. p names the layers in the order of the formula: first, second.

def attention(x, p, training, inner_relu=True):
    """Equation 4: sigmoid(BN(PW2(delta(BN(PW1(x))))))."""
    y = batch_norm(pointwise(x, p["first.weight"]), p, "first_bn", training)
    y = relu(y) if inner_relu else y
    return sigmoid(batch_norm(pointwise(y, p["second.weight"]), p, "second_bn", training))


def atac(x, p, training, inner_relu=True):
    return attention(x, p, training, inner_relu) * x


def se_activation(x, p, training, inner_relu=True):
    return attention(average(x), p, training, inner_relu) * x


def xunit(x, p, training):
    y = relu(batch_norm(x, p, "first_bn", training))
    y = depthwise(y, p["first.weight"], p["first.weight"].shape[2] // 2, p["first.bias"])
    return np.exp(-batch_norm(y, p, "second_bn", training) ** 2) * x


def nin(x, p, training):
    y = relu(batch_norm(pointwise(relu(x), p["first.weight"]), p, "first_bn", training))
    return relu(batch_norm(pointwise(y, p["second.weight"]), p, "second_bn", training))


def nin_single(x, p, training):
    return relu(batch_norm(pointwise(relu(x), p["first.weight"]), p, "first_bn", training))


def excitation(y, p):
    y = relu(pointwise(y, p["first.weight"], p["first.bias"]))
    return sigmoid(pointwise(y, p["second.weight"], p["second.bias"]))


def squeeze_excitation(x, p, training):
    return excitation(average(x), p) * x


def theta_minus(x, p, training):
    return sigmoid(average(x)) * x


def gather(x, p, training):
    return batch_norm(depthwise(x, p["gather.weight"]), p, "gather_bn", training)


def theta(x, p, training):
    return sigmoid(gather(x, p, training)) * x


def theta_plus(x, p, training):
    return excitation(gather(x, p, training), p) * x


# The host of Table II.

def resnet_v2(x, p, blocks, unit=relu):
    """Logits of the CIFAR host in inference, p by the net's own names, the same parameterless unit at every site."""
    y = (x - p["features.0.running_mean"][:, None, None]) \
        / np.sqrt(p["features.0.running_var"][:, None, None] + EPSILON)
    y = convolution(y, p["features.1.weight"], 1, 1)
    for stage in (1, 2, 3):
        for block in range(blocks):
            name = f"features.{stage + 1}.{block}."
            stride = 2 if stage > 1 and block == 0 else 1
            z = unit(batch_norm(y, p, name + "bn1", False), None, False)
            z = convolution(z, p[name + "conv1.weight"], stride, 1)
            z = unit(batch_norm(z, p, name + "bn2", False), None, False)
            z = convolution(z, p[name + "conv2.weight"], 1, 1)
            if stride == 2:
                y = convolution(y, p[name + "downsample.weight"], 2)
            y = y + z
    y = unit(batch_norm(y, p, "features.5", False), None, False).mean((2, 3))
    return y @ p["output.weight"].T + p["output.bias"]


# Comparison of a Gluon block with a statement.

MODES = (None, {}, {"static_alloc": True}, {"static_alloc": True, "static_shape": True})  # None: imperative


def numerical_gradients(function, values, weights, step=1e-6):
    """Central differences of sum(weights * function(values)) with respect to every number in a dict of arrays."""
    gradients = {}
    for name, value in values.items():
        gradients[name] = np.zeros_like(value)
        for place in np.ndindex(*value.shape):
            kept, ends = value[place], []
            for moved in (kept + step, kept - step):
                value[place] = moved
                ends.append((weights * function(values)).sum())
            value[place] = kept
            gradients[name][place] = (ends[0] - ends[1]) / (2 * step)
    return gradients


def random_numbers(shapes, generator):
    """Values for a dict of name to shape: gammas, betas and running statistics away from their initial ones."""
    values = {}
    for name, shape in shapes.items():
        if name.endswith((".gamma", ".running_var")):
            values[name] = generator.uniform(0.5, 1.5, shape)
        else:
            values[name] = generator.normal(0, 0.5, shape)
    return values


def filled(net, seed=0, dtype="float32"):
    """The net with random numbers that `dtype` can hold, at which every parameter matters."""
    import mxnet as mx

    net.initialize()
    parameters = net._collect_params_with_prefix()
    numbers = random_numbers({name: parameters[name].shape for name in parameters}, np.random.RandomState(seed))
    for name, value in numbers.items():
        if name.endswith("weight"):
            value /= np.sqrt(np.prod(value.shape[1:]))  # logits of the size of the images
        # MXNet's forward writes a 1 into a gamma with scale=False; center=False freezes beta, but MXNet still adds it.
        if name in ("features.0.gamma", "features.0.beta"):
            value[:] = name.endswith("gamma")
        parameters[name].set_data(mx.nd.array(value.astype(dtype)))
    return net


def assert_agrees(make, statement, shape, layers=(), training=False, seed=0):
    """Hold a block to its statement in float64: output and every gradient, in each of MODES, alone and within a net.

    Within a net (between two scalings) MXNet's memory planner lets operators work in place, which is where its own
    PReLU goes wrong.

    make: builds the block. layers: pairs of the block's own layer name and the statement's. A parameter of the block
    that stands in none of them is a KeyError, so the statement has to account for all of them.
    """
    import mxnet as mx

    generator = np.random.RandomState(seed)
    layers = dict(layers)
    blocks = make()._collect_params_with_prefix()
    stated = {}
    for name in blocks:
        layer, _, number = name.rpartition(".")
        stated[name] = f"{layers[layer]}.{number}" if layer else layers[name]
    numbers = random_numbers({name: blocks[name].shape for name in stated}, generator)
    values = {"x": generator.normal(0, 1, shape), **{stated[name]: numbers[name] for name in stated}}
    weights = generator.normal(0, 1, shape)

    def function(values):
        return statement(values["x"], values, training)

    expected = function(values)
    assert expected.shape == tuple(shape)
    learned = {name: value for name, value in values.items() if ".running_" not in name}

    def learned_function(some):
        return function({**values, **some})

    gradients = numerical_gradients(learned_function, learned, weights)

    for mode in MODES:
        for within in (False, True):
            block = make()
            block.initialize()
            parameters = block._collect_params_with_prefix()
            net, before, after = (_within(block), 2, 4) if within else (block, 1, 1)
            net.cast("float64")
            for name, parameter in parameters.items():
                parameter.set_data(mx.nd.array(numbers[name], dtype="float64"))
            if mode is not None:
                net.hybridize(**mode)
            x = mx.nd.array(values["x"] / before, dtype="float64")
            x.attach_grad()
            with mx.autograd.record(train_mode=training):
                y = net(x)
            # Backward has a mode of its own, training by default, which would differentiate through batch statistics
            # that inference never used.
            y.backward(mx.nd.array(weights / after, dtype="float64"), train_mode=training)
            # MXNet keeps slopes and the like in float32: agreement ends at six digits.
            where = f"mode {mode}, within a net: {within}"
            np.testing.assert_allclose(y.asnumpy() / after, expected, rtol=1e-6, atol=1e-9, err_msg=f"output, {where}")
            np.testing.assert_allclose(x.grad.asnumpy() / before, gradients["x"], rtol=1e-5, atol=1e-7,
                                       err_msg=f"gradient of x, {where}")
            for name, parameter in parameters.items():
                if parameter.grad_req != "null":
                    np.testing.assert_allclose(parameter.grad().asnumpy(), gradients[stated[name]], rtol=1e-5,
                                               atol=1e-7, err_msg=f"gradient of {name}, {where}")
            assert {name for name in parameters if parameters[name].grad_req == "null"} \
                == {name for name in parameters if ".running_" in name}


def _within(block):
    """The block between two operators, x -> 4 block(2 x)."""
    from mxnet.gluon import nn

    net = nn.HybridSequential()
    net.add(nn.HybridLambda(lambda F, x: 2 * x), block, nn.HybridLambda(lambda F, y: 4 * y))
    return net
