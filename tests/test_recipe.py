"""The recipe's numbers, what it refuses, and how it shrinks."""
import dataclasses
import math

import pytest

from engine.recipe import CIFAR_PAPER, Recipe
from support.errors import InputError

PLAIN = {"epochs": 10, "batch_size": 32, "lr": .1, "momentum": .9, "wd": 1e-4}


def refused(sentence, **changes):
    with pytest.raises(InputError, match=sentence) as caught:
        Recipe(**{**PLAIN, **changes})
    assert "\n" not in str(caught.value)


def test_the_papers_recipe():
    assert dataclasses.asdict(CIFAR_PAPER) == {
        "epochs": 400, "batch_size": 128, "lr": 0.2, "momentum": 0.9, "wd": 0.0001, "no_wd": False,
        "lr_mode": "step", "lr_decay": 0.1, "lr_decay_epochs": (300, 350), "lr_decay_period": 0,
        "warmup_epochs": 0, "warmup_lr": 0.0}


def test_a_recipe_is_frozen_and_comes_back_from_its_json_form():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CIFAR_PAPER.lr = 1
    stored = {**dataclasses.asdict(CIFAR_PAPER), "lr_decay_epochs": [300, 350]}
    assert Recipe(**stored) == CIFAR_PAPER
    assert hash(Recipe(**stored)) == hash(CIFAR_PAPER)


@pytest.mark.parametrize("name, least", [("epochs", 1), ("batch_size", 1), ("lr_decay_period", 0),
                                         ("warmup_epochs", 0)])
def test_counts_have_a_least_value(name, least):
    refused(f"^{name} must be at least {least}, got {least - 1}$", **{name: least - 1})
    assert getattr(Recipe(**{**PLAIN, name: least}), name) == least


@pytest.mark.parametrize("name", ["lr", "momentum", "wd", "lr_decay", "warmup_lr"])
@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, -math.inf])
def test_rates_are_finite_and_not_negative(name, value):
    refused(f"^{name} must be a finite number of at least 0, got {value}$", **{name: value})
    assert getattr(Recipe(**{**PLAIN, name: 0}), name) == 0


def test_what_else_is_refused():
    refused("^momentum must be below 1, got 1$", momentum=1)
    refused("^lr_mode is 'step' or 'cosine', got 'poly'$", lr_mode="poly")
    for decays in ((0, 5), (5, 5), (7, 5), (-1,)):
        refused("^lr_decay_epochs must be rising epochs of at least 1, got ", lr_decay_epochs=decays)
    refused("^warmup_epochs=10 leaves nothing of 10 epochs$", warmup_epochs=10)
    assert Recipe(**{**PLAIN, "warmup_epochs": 9}).warmup_epochs == 9


@pytest.mark.parametrize("epochs, decays", [(1, ()), (2, (1,)), (8, (6, 7)), (24, (18, 21)), (40, (30, 35)),
                                            (400, (300, 350)), (800, (600, 700))])
def test_scaled_moves_the_decays_in_proportion(epochs, decays):
    scaled = CIFAR_PAPER.scaled(epochs)
    assert (scaled.epochs, scaled.lr_decay_epochs) == (epochs, decays)
    assert dataclasses.replace(scaled, epochs=400, lr_decay_epochs=(300, 350)) == CIFAR_PAPER


def test_scaled_moves_warmup_and_period_too_and_a_period_never_vanishes():
    recipe = Recipe(**{**PLAIN, "epochs": 100, "lr_decay_period": 30, "warmup_epochs": 5})
    assert (recipe.scaled(20).lr_decay_period, recipe.scaled(20).warmup_epochs) == (6, 1)
    assert (recipe.scaled(2).lr_decay_period, recipe.scaled(2).warmup_epochs) == (1, 0)
