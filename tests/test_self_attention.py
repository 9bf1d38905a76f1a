"""Self-attention layers against their formulas, written out in loops over heads and positions in plain NumPy."""
import mxnet as mx
import numpy as np
import numpy_units as plain
import pytest

from model.complexity import count
from model.self_attention import AugmentedConv, LocalAttention, StemAttention
from support.errors import InputError

# The formulas. Maps are (N, C, H, W); p holds a layer's numbers by its own names.

def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def attend(query, keys, values, bias):
    """One query (d,) over keys (K, d) with values (K, v) and further logits (K,): the weighted mean (v,)."""
    return softmax(keys @ query + bias) @ values


def halve(x):
    """3x3 mean with stride 2, over the positions inside the map."""
    n, c, height, width = x.shape
    y = np.zeros((n, c, (height + 1) // 2, (width + 1) // 2))
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            y[:, :, i, j] = x[:, :, max(2 * i - 1, 0):2 * i + 2, max(2 * j - 1, 0):2 * j + 2].mean((2, 3))
    return y


def enlarge(x, size):
    """Bilinear between the centres of the pixels, the border repeated."""
    def matrix(before):
        weights = np.zeros((size, before))
        for i in range(size):
            place = min(max((i + 0.5) * before / size - 0.5, 0), before - 1)
            low = min(int(place), max(before - 2, 0))
            weights[i, low] += 1 - (place - low)
            weights[i, min(low + 1, before - 1)] += place - low
        return weights

    return np.einsum("yi,xj,ncij->ncyx", matrix(x.shape[2]), matrix(x.shape[3]), x)


def augmented(x, p, training, heads, stride=1, half=False):
    side_of_output = x.shape[2] // stride
    conv = plain.convolution(x, p["conv.weight"], stride, 1)
    small = (halve(x) if half else x)[:, :, ::stride, ::stride]
    values, keys = p["output.weight"].shape[0], (p["qkv.weight"].shape[0] - p["output.weight"].shape[0]) // 2
    qkv = plain.pointwise(small, p["qkv.weight"], p.get("qkv.bias"))
    side, d, v = small.shape[2], keys // heads, values // heads
    assert p["height"].shape == p["width"].shape == (2 * side - 1, d)
    y = np.zeros((len(x), values, side, side))
    places = [(i, j) for i in range(side) for j in range(side)]
    for n in range(len(x)):
        for head in range(heads):
            query = qkv[n, head * d:(head + 1) * d]
            key = qkv[n, keys + head * d:keys + (head + 1) * d]
            value = qkv[n, 2 * keys + head * v:2 * keys + (head + 1) * v]
            for i, j in places:
                asked = query[:, i, j] / np.sqrt(d)
                bias = np.array([asked @ (p["width"][b - j + side - 1] + p["height"][a - i + side - 1])
                                 for a, b in places])
                y[n, head * v:(head + 1) * v, i, j] = attend(asked, np.array([key[:, a, b] for a, b in places]),
                                                             np.array([value[:, a, b] for a, b in places]), bias)
    y = plain.pointwise(y, p["output.weight"], p.get("output.bias"))
    return np.concatenate([conv, enlarge(y, side_of_output) if half else y], axis=1)


def local(x, p, training, heads, k, stride=1, padded=False):
    query, key, value = (plain.pointwise(x, p[f"{name}.weight"]) for name in ("query", "key", "value"))
    n, channels, height, width = x.shape
    d, reach = channels // heads, k // 2
    y = np.zeros(x.shape)
    for image in range(n):
        for head in range(heads):
            part = slice(head * d, (head + 1) * d)
            for i in range(height):
                for j in range(width):
                    keys, values = [], []
                    for a in range(-reach, reach + 1):
                        for b in range(-reach, reach + 1):
                            inside = 0 <= i + a < height and 0 <= j + b < width
                            if not inside and not padded:
                                continue
                            embedding = np.concatenate([p["row"][head, a + reach, 0], p["column"][head, 0, b + reach]])
                            keys.append((key[image, part, i + a, j + b] if inside else 0) + embedding)
                            values.append(value[image, part, i + a, j + b] if inside else np.zeros(d))
                    y[image, part, i, j] = attend(query[image, part, i, j], np.array(keys), np.array(values), 0)
    return y.reshape(n, channels, height // stride, stride, width // stride, stride).mean((3, 5))


def stem(x, p, block, heads):
    query, key, values = (plain.pointwise(x, p[f"{name}.weight"]) for name in ("query", "key", "value"))
    n, channels, height, width = query.shape
    d, mixtures = channels // heads, len(p["mixture"])
    value = np.zeros(query.shape)
    for i in range(height):
        for j in range(width):
            shares = softmax(p["mixture"] @ (p["row"][i % block, 0] + p["column"][0, j % block]))
            for m in range(mixtures):
                value[:, :, i, j] += shares[m] * values[:, m * channels:(m + 1) * channels, i, j]
    y = np.zeros(query.shape)
    for image in range(n):
        for head in range(heads):
            part = slice(head * d, (head + 1) * d)
            for i in range(height):
                for j in range(width):
                    rows, columns = (slice(place - place % block, place - place % block + block) for place in (i, j))
                    y[image, part, i, j] = attend(query[image, part, i, j],
                                                  key[image, part, rows, columns].reshape(d, -1).T,
                                                  value[image, part, rows, columns].reshape(d, -1).T, 0)
    return y


def numbers_in(layer, seed=0):
    """Fill a layer with random numbers in float64; returns them by name."""
    layer.initialize()
    layer.cast("float64")
    parameters = layer._collect_params_with_prefix()
    numbers = plain.random_numbers({name: parameters[name].shape for name in parameters}, np.random.RandomState(seed))
    for name, value in numbers.items():
        parameters[name].set_data(mx.nd.array(value, dtype="float64"))
    return numbers


def assert_forward(make, statement, shape):
    """Output in every mode, for maps whose layer changes their shape."""
    x = np.random.RandomState(1).normal(0, 1, shape)
    for mode in plain.MODES:
        layer = make()
        expected = statement(x, numbers_in(layer))
        assert expected.std() > 0.1
        if mode is not None:
            layer.hybridize(**mode)
        for _ in range(2):  # the second call runs the compiled graph
            np.testing.assert_allclose(layer(mx.nd.array(x, dtype="float64")).asnumpy(), expected, rtol=1e-6, atol=1e-7)


# Augmented convolution.

AUGMENTED = [(name, name) for name in ("conv", "qkv", "output", "height", "width")]


@pytest.mark.parametrize("use_bias", [True, False])
def test_augmented_convolution_is_its_formula(use_bias):
    plain.assert_agrees(
        lambda: AugmentedConv(5, size=3, heads=2, key_channels=4, value_ratio=0.4, use_bias=use_bias),
        lambda x, p, training: augmented(x, p, training, 2), (1, 5, 3, 3), AUGMENTED)


@pytest.mark.parametrize("largest, half", [(4, False), (3, True), (2, True)])
def test_large_maps_are_attended_at_half_their_side(largest, half):
    assert_forward(lambda: AugmentedConv(6, size=4, heads=2, key_channels=8, value_ratio=0.7, largest_map=largest),
                   lambda x, p: augmented(x, p, False, 2, half=half), (2, 6, 4, 4))


@pytest.mark.parametrize("largest, half", [(4, False), (2, True)])
def test_augmented_convolution_strides(largest, half):
    assert_forward(
        lambda: AugmentedConv(6, stride=2, size=4, heads=1, key_channels=4, value_ratio=0.5, largest_map=largest),
        lambda x, p: augmented(x, p, False, 1, stride=2, half=half), (2, 6, 8, 8))


def test_augmented_convolution_on_a_single_position():
    assert_forward(lambda: AugmentedConv(6, size=1, heads=1, key_channels=4, value_ratio=0.5),
                   lambda x, p: augmented(x, p, False, 1), (2, 6, 1, 1))


@pytest.mark.parametrize("channels, values", [(128, 8), (256, 24), (512, 48)])
def test_values_are_a_tenth_of_the_channels_in_whole_eights(channels, values):
    layer = AugmentedConv(channels, size=14)
    assert layer.output.weight.shape == (values, values, 1, 1)
    assert layer.conv.weight.shape == (channels - values, channels, 3, 3)
    assert layer.qkv.weight.shape == (320 + values, channels, 1, 1)
    assert layer.height.shape == layer.width.shape == (27, 20)


@pytest.mark.parametrize("arguments, said", [
    ({}, "an augmented convolution needs size, the side of its output"),
    ({"size": 0}, "size must be a whole number of at least 1, got 0"),
    ({"size": 7, "heads": 0}, "heads must be a whole number of at least 1, got 0"),
    ({"size": 7, "heads": 7}, "key_channels=160 cannot be divided among heads=7; choose another number of heads"),
    ({"size": 7, "key_channels": 0}, "key_channels must be a whole number"),
    ({"size": 7, "value_ratio": 0}, "value_ratio=0 leaves 0 of channels=128 to heads=8"),
    ({"size": 7, "value_ratio": 0.05}, "value_ratio=0.05 leaves 0 of channels=128 to heads=8"),
    ({"size": 7, "value_ratio": 1}, "value_ratio=1 leaves 128 of channels=128 to heads=8"),
    ({"size": 7, "value_ratio": "0.1"}, "value_ratio must be a finite number of at least 0, got '0.1'"),
    ({"size": 7, "largest_map": 0}, "largest_map must be a whole number of at least 1, got 0"),
    ({"size": 7, "use_bias": 1}, "use_bias must be True or False, got 1"),
])
def test_impossible_augmented_convolutions_are_a_sentence(arguments, said):
    with pytest.raises(InputError, match=said):
        AugmentedConv(128, **arguments)


# Local attention.

LOCAL = [(name, name) for name in ("query", "key", "value", "row", "column")]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("heads, k", [(1, 3), (2, 5)])
def test_local_attention_is_its_formula(heads, k, padded):
    plain.assert_agrees(lambda: LocalAttention(4, kernel_size=k, heads=heads, zero_padding=padded),
                        lambda x, p, training: local(x, p, training, heads, k, padded=padded), (1, 4, 3, 2), LOCAL)


@pytest.mark.parametrize("stride", [1, 2])
def test_local_attention_with_the_windows_of_the_paper(stride):
    assert_forward(lambda: LocalAttention(16, stride=stride), lambda x, p: local(x, p, False, 8, 7, stride),
                   (2, 16, 8, 8))


def test_local_attention_takes_any_map():
    layer = LocalAttention(16)
    layer.initialize()
    layer.hybridize()
    for shape in ((1, 16, 3, 5), (2, 16, 9, 4)):
        assert layer(mx.nd.zeros(shape)).shape == shape


@pytest.mark.parametrize("arguments, said", [
    ({"heads": 3}, "channels=64 cannot be divided among heads=3 in multiples of 2"),
    ({"heads": 64}, "channels=64 cannot be divided among heads=64 in multiples of 2"),
    ({"heads": 0}, "heads must be a whole number of at least 1, got 0"),
    ({"kernel_size": 4}, "kernel_size must be odd so that a window has a centre, got 4"),
    ({"kernel_size": 0}, "kernel_size must be a whole number of at least 1, got 0"),
    ({"stride": 0}, "stride must be a whole number of at least 1, got 0"),
    ({"zero_padding": None}, "zero_padding must be True or False, got None"),
])
def test_impossible_local_attention_is_a_sentence(arguments, said):
    with pytest.raises(InputError, match=said):
        LocalAttention(64, **arguments)


# The stem.

def test_stem_attention_is_its_formula():
    assert_forward(lambda: StemAttention(8, block=2, heads=2, mixtures=3), lambda x, p: stem(x, p, 2, 2), (2, 3, 4, 6))


def test_stem_attention_with_the_sizes_of_the_paper():
    assert_forward(lambda: StemAttention(16), lambda x, p: stem(x, p, 4, 4), (1, 3, 8, 8))


def test_stem_attention_learns_like_its_formula():
    """Gradients of every parameter against differences of the formula."""
    layer = StemAttention(4, block=2, heads=2, mixtures=2)
    numbers = numbers_in(layer)
    x = np.random.RandomState(1).normal(0, 1, (1, 3, 2, 4))
    weights = np.random.RandomState(2).normal(0, 1, (1, 4, 2, 4))
    expected = plain.numerical_gradients(lambda p: stem(x, p, 2, 2), numbers, weights)
    for mode in plain.MODES:
        if mode is not None:
            layer.hybridize(**mode)
        with mx.autograd.record():
            y = layer(mx.nd.array(x, dtype="float64"))
        y.backward(mx.nd.array(weights, dtype="float64"))
        for name, parameter in layer._collect_params_with_prefix().items():
            np.testing.assert_allclose(parameter.grad().asnumpy(), expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("arguments, said", [
    ({"heads": 5}, "channels=64 cannot be divided among heads=5"),
    ({"block": 0}, "block must be a whole number of at least 1, got 0"),
    ({"mixtures": 0}, "mixtures must be a whole number of at least 1, got 0"),
])
def test_impossible_stems_are_a_sentence(arguments, said):
    with pytest.raises(InputError, match=said):
        StemAttention(64, **arguments)


# In float32 MXNet computes with other kernels, whose blocks of channels the tests above never fill.

@pytest.mark.parametrize("make, shape", [
    (lambda: AugmentedConv(128, stride=2, size=8, largest_map=4), (2, 128, 16, 16)),
    (lambda: AugmentedConv(512, size=2), (2, 512, 2, 2)),
    (lambda: LocalAttention(64, stride=2), (2, 64, 8, 8)),
    (lambda: StemAttention(64), (2, 3, 16, 16)),
], ids=["augmented", "augmented last", "local", "stem"])
def test_single_precision_learns_as_double_precision_does(make, shape):
    """Between two convolutions and behind BatchNorm and ReLU, as in the net, at the paper's widths."""
    def run(dtype, mode):
        channels = make()(mx.sym.Variable("x")).infer_shape(x=shape)[1][0][1]
        net = mx.gluon.nn.HybridSequential()
        net.add(mx.gluon.nn.Conv2D(shape[1], 1, in_channels=shape[1]), make(),
                mx.gluon.nn.BatchNorm(in_channels=channels), mx.gluon.nn.Activation("relu"),
                mx.gluon.nn.Conv2D(16, 1, in_channels=channels))
        net.initialize()
        net.cast(dtype)
        parameters = net._collect_params_with_prefix()
        generator = np.random.RandomState(0)
        for parameter in parameters.values():
            fan = np.prod(parameter.shape[1:]) or 1
            parameter.set_data(mx.nd.array(generator.normal(0, fan ** -0.5, parameter.shape), dtype=dtype))
        if mode is not None:
            net.hybridize(**mode)
        x = mx.nd.array(generator.normal(0, 1, shape), dtype=dtype)
        with mx.autograd.record():
            y = net(x)
        y.backward(mx.nd.array(generator.normal(0, 1, y.shape), dtype=dtype))
        return [y.asnumpy()] + [parameter.grad().asnumpy() for parameter in parameters.values()
                                if parameter.grad_req != "null"]

    expected = run("float64", None)
    for mode in (None, {"static_alloc": True, "static_shape": True}):
        for ours, exact in zip(run("float32", mode), expected):
            np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-3 * max(np.abs(exact).max(), 1))


# Multiply-adds, counted by hand from the formulas.

def test_multiply_adds_of_an_augmented_convolution():
    side, channels, keys, values = 4, 64, 160, 8
    convolutions = side ** 2 * (9 * channels * (channels - values) + channels * (2 * keys + values) + values ** 2)
    attention = side ** 4 * (keys + values) + side ** 2 * keys * 2 * (2 * side - 1)
    assert count(AugmentedConv(channels, size=side, value_ratio=0.125), (channels, side, side)).macs \
        == convolutions + attention


def test_multiply_adds_of_local_attention():
    side, channels, k = 6, 16, 5
    per_position = 3 * channels ** 2 + 3 * k ** 2 * channels  # with keys, with embeddings, with values
    found = count(LocalAttention(channels, kernel_size=k), (channels, side, side))
    assert found.macs == side ** 2 * per_position
    assert found.total == found.trainable == 3 * channels ** 2 + k * channels


def test_multiply_adds_of_stem_attention():
    pixels, channels, block, mixtures = 8 * 12, 64, 4, 4
    per_pixel = 3 * channels * (2 + mixtures) + 2 * block ** 2 * channels
    found = count(StemAttention(channels), (3, 8, 12))
    assert found.macs == pixels * per_pixel + block ** 2 * channels * mixtures  # the last: shares of the mixture
    assert found.total == 3 * channels * (2 + mixtures) + channels * (2 * block + mixtures)
