"""The refinement modules against their formulas, and what their arguments may be."""
import functools

import numpy_units as plain
import pytest

from model import refine
from support.errors import InputError

ATTENTION = [("gate.0", "first"), ("gate.1", "first_bn"), ("gate.3", "second"), ("gate.4", "second_bn")]


# Local and global attention.

@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("reduction, shape", [(1, (2, 4, 3, 5)), (1, (1, 4, 1, 1)), (4, (1, 4, 2, 3))])
def test_localse_is_its_formula(reduction, shape, training):
    plain.assert_agrees(lambda: refine.LocalSE(4, reduction=reduction), plain.atac, shape, ATTENTION, training)


def test_localse_does_not_reduce_by_default():
    assert refine.LocalSE(6).gate[0].weight.shape == (6, 6, 1, 1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("reduction, channels, shape", [(16, 16, (2, 16, 2, 3)), (2, 6, (1, 6, 1, 1)),
                                                        (6, 6, (1, 6, 5, 2)), (1, 3, (2, 3, 2, 2))])
def test_se_is_its_formula(reduction, channels, shape, training):
    plain.assert_agrees(lambda: refine.SE(channels, reduction=reduction), plain.squeeze_excitation, shape,
                        [("gate.1", "first"), ("gate.3", "second")], training)


def test_se_reduces_by_sixteen_by_default():
    assert refine.SE(32).gate[1].weight.shape == (2, 32, 1, 1)
    assert refine.GEThetaPlus(32, 4).gate[2].weight.shape == (2, 32, 1, 1)


# Gather-excite.

@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 3, 1, 1)])
def test_theta_minus_is_its_formula_and_has_no_parameters(shape, training):
    plain.assert_agrees(lambda: refine.GEThetaMinus(3), plain.theta_minus, shape, (), training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(3, 4, 3, 3), (1, 4, 5, 5), (2, 4, 1, 1)])
def test_theta_is_its_formula(shape, training):
    plain.assert_agrees(lambda: refine.GETheta(4, shape[2]), plain.theta, shape,
                        [("gate.0", "gather"), ("gate.1", "gather_bn")], training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("reduction, shape", [(2, (3, 4, 3, 3)), (4, (1, 4, 4, 4)), (1, (2, 3, 1, 1))])
def test_theta_plus_is_its_formula(reduction, shape, training):
    plain.assert_agrees(lambda: refine.GEThetaPlus(shape[1], shape[2], reduction), plain.theta_plus, shape,
                        [("gate.0", "gather"), ("gate.1", "gather_bn"), ("gate.2", "first"), ("gate.4", "second")],
                        training)


# Arguments.

@pytest.mark.parametrize("module", [refine.LocalSE, refine.SE, functools.partial(refine.GEThetaPlus, size=8)])
@pytest.mark.parametrize("reduction, said", [
    (0, "whole number of at least 1"), (2.5, "whole number of at least 1"), (True, "whole number of at least 1"),
    ("2", "whole number of at least 1"), (3, "does not divide channels=16; allowed here are 1, 2, 4, 8, 16")])
def test_a_wrong_reduction_is_refused(module, reduction, said):
    with pytest.raises(InputError, match=said):
        module(16, reduction=reduction)


@pytest.mark.parametrize("module", [refine.GETheta, refine.GEThetaPlus])
def test_gather_excite_with_parameters_needs_the_size_of_its_map(module):
    with pytest.raises(InputError, match="needs size"):
        module(16)
    with pytest.raises(InputError, match="size must be a whole number"):
        module(16, 0)


@pytest.mark.parametrize("module", [refine.LocalSE, refine.SE, refine.GEThetaMinus,
                                    functools.partial(refine.GETheta, size=8),
                                    functools.partial(refine.GEThetaPlus, size=8)])
@pytest.mark.parametrize("channels", [0, 16.0, "16"])
def test_channels_that_are_no_whole_number_are_refused(module, channels):
    with pytest.raises(InputError, match="channels must be a whole number of at least 1"):
        module(channels)
