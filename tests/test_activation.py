"""Every unit that stands where a ReLU stood against its formula, and what its arguments may be."""
import functools

import mxnet as mx
import numpy as np
import numpy_units as plain
import pytest

from model import activation
from support.errors import InputError

ODD_SHAPES = [(2, 3, 4, 5), (1, 1, 1, 1), (1, 5, 1, 7), (3, 2, 6, 1)]
SCALAR = {
    "ReLU": (activation.ReLU, plain.relu),
    "LeakyReLU": (activation.LeakyReLU, plain.leaky_relu),
    "LeakyReLU 0.3": (functools.partial(activation.LeakyReLU, alpha=0.3),
                      functools.partial(plain.leaky_relu, alpha=0.3)),
    "ELU": (activation.ELU, plain.elu),
    "ELU 0.5": (functools.partial(activation.ELU, alpha=0.5), functools.partial(plain.elu, alpha=0.5)),
    "SELU": (activation.SELU, plain.selu),
    "GELU": (activation.GELU, plain.gelu),
    "Swish": (activation.Swish, plain.swish),
    "Swish 1.7": (functools.partial(activation.Swish, beta=1.7), functools.partial(plain.swish, beta=1.7)),
    "Sine": (activation.Sine, plain.sine),
}
WITH_RELU = [("gate.0", "first"), ("gate.1", "first_bn"), ("gate.3", "second"), ("gate.4", "second_bn")]
WITHOUT_RELU = [("gate.0", "first"), ("gate.1", "first_bn"), ("gate.2", "second"), ("gate.3", "second_bn")]


def shifted(layers):
    """The names with a global pool in front of the gate."""
    return [(f"gate.{int(own[5:]) + 1}", stated) for own, stated in layers]


# Arguments that all units share.

@pytest.mark.parametrize("value", [0, -1, 2.5, 2.0, True, "2", None, [2]])
def test_whole_refuses_what_is_no_whole_number_of_at_least_one(value):
    with pytest.raises(InputError, match=r"^blocks must be a whole number of at least 1, got "):
        activation.whole("blocks", value)


def test_whole_takes_numpy_integers_and_its_own_least_value():
    assert activation.whole("blocks", np.int64(3)) == 3
    assert type(activation.whole("blocks", np.int64(3))) is int
    assert activation.whole("count", 0, least=0) == 0


def test_reduced_lists_the_divisors():
    assert activation.reduced(12, 3) == 4
    assert activation.reduced(12, 12) == 1
    with pytest.raises(InputError, match="reduction=5 does not divide channels=12; allowed here are 1, 2, 3, 4, 6, 12"):
        activation.reduced(12, 5)
    with pytest.raises(InputError, match="does not divide"):
        activation.reduced(12, 24)


# Scalar activations.

@pytest.mark.parametrize("shape", ODD_SHAPES)
@pytest.mark.parametrize("name", SCALAR)
def test_scalar_unit_is_its_formula(name, shape):
    unit, statement = SCALAR[name]
    for training in (False, True):
        plain.assert_agrees(lambda: unit(shape[1]), statement, shape, training=training)


@pytest.mark.parametrize("shape", ODD_SHAPES)
def test_prelu_is_its_formula_with_one_slope_for_all_channels(shape):
    plain.assert_agrees(lambda: activation.PReLU(shape[1]), plain.prelu, shape, [("alpha", "slope")], training=True)


def test_prelu_starts_at_a_quarter_whatever_the_nets_initializer():
    unit = activation.PReLU(8)
    unit.initialize(mx.init.MSRAPrelu())
    assert unit.alpha.data().asnumpy().tolist() == [0.25]


@pytest.mark.parametrize("dtype, name", [*(("float32", name) for name in [*SCALAR, "PReLU"]), ("float64", "GELU")])
def test_scalar_unit_stays_finite_far_out_and_at_zero(dtype, name):
    unit, statement = SCALAR.get(name, (activation.PReLU, plain.prelu))
    numbers = np.array([-1e4, -100, -20, -1e-3, 0, 1e-3, 20, 100, 1e4]).reshape((1, 1, 3, 3))
    block = unit(1)
    block.initialize()
    block.cast(dtype)
    x = mx.nd.array(numbers, dtype=dtype)
    x.attach_grad()
    with mx.autograd.record():
        y = block(x)
    y.backward()
    with np.errstate(over="ignore"):  # the statement's exp(1e4) is an honest infinity
        expected = statement(x.asnumpy().astype("float64"), {"slope": np.array([0.25])}, True)
    np.testing.assert_allclose(y.asnumpy(), expected, rtol=1e-6, atol=1e-6)
    assert np.isfinite(x.grad.asnumpy()).all()


@pytest.mark.parametrize("unit, argument", [(activation.LeakyReLU, "alpha"), (activation.ELU, "alpha"),
                                            (activation.Swish, "beta")])
def test_scalar_units_refuse_what_is_no_number(unit, argument):
    for value in ("0.1", None, True, float("nan"), float("inf"), [1], -0.5):
        if value == -0.5 and unit is not activation.LeakyReLU:
            assert unit(4, **{argument: value}) is not None
            continue
        with pytest.raises(InputError, match=f"^{argument} must be a finite number"):
            unit(4, **{argument: value})


# Attentional units.

@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 3, 5), (1, 6, 1, 1), (3, 6, 1, 1), (1, 6, 1, 4)])
@pytest.mark.parametrize("reduction", [1, 2, 3, 6])
def test_atac_is_its_formula(reduction, shape, training):
    plain.assert_agrees(lambda: activation.ATAC(6, reduction), plain.atac, shape, WITH_RELU, training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 3, 5), (1, 6, 3, 2)])
@pytest.mark.parametrize("reduction", [1, 2, 3, 6])
def test_seactivation_is_its_formula(reduction, shape, training):
    plain.assert_agrees(lambda: activation.SEActivation(6, reduction), plain.se_activation, shape,
                        shifted(WITH_RELU), training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("unit, statement, layers", [
    (activation.ATAC, plain.atac, WITHOUT_RELU),
    (activation.SEActivation, plain.se_activation, shifted(WITHOUT_RELU)),
])
def test_attention_without_its_inner_relu_is_its_formula(unit, statement, layers, training):
    plain.assert_agrees(lambda: unit(6, 2, inner_relu=False), functools.partial(statement, inner_relu=False),
                        (2, 6, 3, 5), layers, training)


def test_atac_on_one_channel():
    plain.assert_agrees(lambda: activation.ATAC(1, 1), plain.atac, (2, 1, 3, 2), WITH_RELU, True)


def test_on_a_single_position_atac_and_seactivation_are_one():
    """Their only difference is the pool, and a 1x1 map is its own average."""
    mx.random.seed(1)
    local, pooled = activation.ATAC(6), activation.SEActivation(6)
    x = mx.nd.random.normal(shape=(4, 6, 1, 1))
    for block in (local, pooled):
        block.initialize(mx.init.MSRAPrelu())
        block(x)
    for ours, theirs in zip(local._collect_params_with_prefix().values(),
                            pooled._collect_params_with_prefix().values()):
        theirs.set_data(ours.data())
    np.testing.assert_array_equal(local(x).asnumpy(), pooled(x).asnumpy())
    wide = mx.nd.random.normal(shape=(4, 6, 2, 2))
    assert np.abs(local(wide).asnumpy() - pooled(wide).asnumpy()).max() > 1e-3


@pytest.mark.parametrize("mode", plain.MODES)
def test_batch_norm_keeps_nine_tenths_of_its_running_statistics_a_step(mode):
    generator = np.random.RandomState(3)
    block = activation.ATAC(4)
    block.initialize(mx.init.MSRAPrelu())
    block.cast("float64")
    if mode is not None:
        block.hybridize(**mode)
    weight = block.gate[0].weight.data().asnumpy()
    mean, variance = np.zeros(2), np.ones(2)
    for _ in range(3):
        x = generator.normal(1, 2, (2, 4, 3, 5))
        with mx.autograd.record():
            block(mx.nd.array(x, dtype="float64")).backward()
        seen = plain.pointwise(x, weight)
        mean = 0.9 * mean + 0.1 * seen.mean((0, 2, 3))
        variance = 0.9 * variance + 0.1 * seen.var((0, 2, 3))
    mx.nd.waitall()
    np.testing.assert_allclose(block.gate[1].running_mean.data().asnumpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(block.gate[1].running_var.data().asnumpy(), variance, rtol=1e-6)
    block(mx.nd.array(x, dtype="float64")).wait_to_read()  # inference leaves them alone
    np.testing.assert_allclose(block.gate[1].running_mean.data().asnumpy(), mean, rtol=1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kernel_size, shape", [(9, (2, 3, 3, 5)), (9, (1, 2, 1, 1)), (3, (1, 3, 4, 2)),
                                                (1, (2, 3, 1, 4)), (5, (2, 1, 7, 6))])
def test_xunit_is_its_formula(kernel_size, shape, training):
    plain.assert_agrees(lambda: activation.XUnit(shape[1], kernel_size), plain.xunit, shape,
                        [("gate.0", "first_bn"), ("gate.2", "first"), ("gate.3", "second_bn")], training)


def test_xunit_has_a_nine_by_nine_kernel_by_default():
    assert activation.XUnit(4).gate[2].weight.shape == (4, 1, 9, 9)


@pytest.mark.parametrize("unit", [activation.ATAC, activation.SEActivation, activation.NiN])
@pytest.mark.parametrize("reduction", [0, -2, 2.5, 2.0, True, "2", None])
def test_a_reduction_that_is_no_whole_number_is_refused(unit, reduction):
    with pytest.raises(InputError, match="reduction must be a whole number of at least 1"):
        unit(16, reduction)


@pytest.mark.parametrize("unit", [activation.ATAC, activation.SEActivation, activation.NiN])
def test_a_reduction_that_does_not_divide_the_channels_is_refused(unit):
    with pytest.raises(InputError, match="reduction=3 does not divide channels=16; allowed here are 1, 2, 4, 8, 16"):
        unit(16, 3)


@pytest.mark.parametrize("unit", [activation.ATAC, activation.SEActivation, activation.XUnit, activation.NiN,
                                  functools.partial(activation.NiN, layers=1)])
def test_channels_that_are_no_whole_number_are_refused(unit):
    for channels in (0, 16.0, "16"):
        with pytest.raises(InputError, match="channels must be a whole number of at least 1"):
            unit(channels)


def test_inner_relu_is_true_or_false():
    for value in ("no", 0, 1, None):
        with pytest.raises(InputError, match="inner_relu must be True or False"):
            activation.ATAC(16, 2, inner_relu=value)


@pytest.mark.parametrize("kernel_size, said", [(8, "kernel_size must be odd"), (0, "kernel_size must be a whole"),
                                               (-9, "kernel_size must be a whole"),
                                               (9.0, "kernel_size must be a whole"),
                                               ("9", "kernel_size must be a whole")])
def test_xunit_refuses_kernels_that_have_no_centre(kernel_size, said):
    with pytest.raises(InputError, match=said):
        activation.XUnit(16, kernel_size)


# NiN.

@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 3, 5), (1, 6, 1, 1), (1, 6, 4, 1)])
@pytest.mark.parametrize("reduction", [1, 2, 6])
def test_nin_is_its_formula(reduction, shape, training):
    plain.assert_agrees(lambda: activation.NiN(6, reduction), plain.nin, shape,
                        [("1", "first"), ("2", "first_bn"), ("4", "second"), ("5", "second_bn")], training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 5, 1, 1)])
def test_the_other_reading_of_nin_is_its_formula(shape, training):
    plain.assert_agrees(lambda: activation.NiN(5, layers=1), plain.nin_single, shape,
                        [("1", "first"), ("2", "first_bn")], training)


@pytest.mark.parametrize("layers", [0, 3, -1, 1.0, True, "2", None])
def test_nin_has_one_layer_or_two(layers):
    with pytest.raises(InputError, match="layers must be 1 or 2"):
        activation.NiN(16, layers=layers)
