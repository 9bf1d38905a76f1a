"""The recipe's numbers, what it refuses, and how it shrinks."""
import dataclasses
import math

import pytest

from engine.recipe import CIFAR_PAPER, IMAGENET_PAPER, IMAGENET_RELEASED, Recipe
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
        "warmup_epochs": 0, "warmup_lr": 0.0, "label_smoothing": 0.0, "mixup_alpha": 0.0, "mixup_off_epochs": 0,
        "accumulate": 1}


def test_a_recipe_is_frozen_and_comes_back_from_its_json_form():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CIFAR_PAPER.lr = 1
    stored = {**dataclasses.asdict(CIFAR_PAPER), "lr_decay_epochs": [300, 350]}
    assert Recipe(**stored) == CIFAR_PAPER
    assert hash(Recipe(**stored)) == hash(CIFAR_PAPER)


@pytest.mark.parametrize("name, least", [("epochs", 1), ("batch_size", 1), ("lr_decay_period", 0),
                                         ("warmup_epochs", 0)])
def test_counts_have_a_least_value(name, least):
    refused(f"^{name} is not a whole number of at least {least}$", **{name: least - 1})
    assert getattr(Recipe(**{**PLAIN, name: least}), name) == least


@pytest.mark.parametrize("name", ["lr", "momentum", "wd", "lr_decay", "warmup_lr"])
@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, -math.inf])
def test_rates_are_finite_and_not_negative(name, value):
    refused(f"^{name} is not a (finite )?number of at least 0", **{name: value})
    assert getattr(Recipe(**{**PLAIN, name: 0}), name) == 0


def test_what_else_is_refused():
    refused("^momentum is not a number of at least 0 and below 1$", momentum=1)
    refused("^lr_mode is not one of step, cosine$", lr_mode="poly")
    for decays in ((5, 5), (7, 5)):
        refused("^lr_decay_epochs must rise, got ", lr_decay_epochs=decays)
    refused(r"^lr_decay_epochs\[0\] is not a whole number of at least 1$", lr_decay_epochs=(0, 5))
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


# ImageNet.

def test_the_two_recipes_for_imagenet():
    assert dataclasses.asdict(IMAGENET_PAPER) == {
        **dataclasses.asdict(CIFAR_PAPER), "epochs": 160, "lr": 0.075, "wd": 0.0, "lr_decay_epochs": (40, 60)}
    assert dataclasses.asdict(IMAGENET_RELEASED) == {
        **dataclasses.asdict(CIFAR_PAPER), "epochs": 160, "lr": 0.075, "wd": 1e-4, "no_wd": True, "lr_mode": "cosine",
        "lr_decay_epochs": (40, 60), "warmup_epochs": 5, "label_smoothing": 0.1}
    assert IMAGENET_RELEASED.scaled(64).warmup_epochs == 2 and IMAGENET_PAPER.scaled(8).lr_decay_epochs == (2, 3)


def test_a_recipe_of_a_checkpoint_that_was_written_before_a_field_came_has_its_default():
    stored = {name: value for name, value in dataclasses.asdict(CIFAR_PAPER).items()
              if name not in ("label_smoothing", "mixup_alpha", "mixup_off_epochs", "accumulate")}
    assert Recipe(**stored) == CIFAR_PAPER


def test_what_is_refused_of_smoothing_mixing_and_parts():
    refused("^label_smoothing is not a number of at least 0 and below 1$", label_smoothing=1)
    refused("^label_smoothing is not a number of at least 0 and below 1$", label_smoothing=-.1)
    refused("^mixup_off_epochs needs mixup_alpha", mixup_off_epochs=1)
    refused("^a batch of 32 cannot be cut into 3 equal parts", accumulate=3)
    refused("^accumulate is not a whole number of at least 1$", accumulate=0)
    made = Recipe(**{**PLAIN, "accumulate": 32, "mixup_alpha": .2, "mixup_off_epochs": 5})
    assert made.scaled(4).mixup_off_epochs == 2


@pytest.mark.parametrize("changes", [
    {"epochs": 2.5}, {"epochs": True}, {"batch_size": "8"}, {"lr": "0.1"}, {"lr": None}, {"lr": False}, {"no_wd": 1},
    {"lr_mode": 3}, {"lr_decay_epochs": (1.5,)}, {"lr_decay_epochs": "ab"}, {"momentum": [.9]}])
def test_values_of_another_type_are_refused(changes):
    name, = changes
    refused(rf"^{name}(\[0\])? is not ", **changes)
