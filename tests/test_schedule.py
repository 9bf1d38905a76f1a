"""The learning rate on numbers, and against GluonCV's scheduler at every step."""
import dataclasses

import pytest
import tiny

from engine.recipe import CIFAR_PAPER, Recipe
from engine.schedule import learning_rate, mixing_share


def rates(recipe, steps):
    return [learning_rate(recipe, epoch, step, steps) for epoch in range(recipe.epochs) for step in range(steps)]


@pytest.mark.parametrize("epoch, rate", [(0, .2), (299, .2), (300, .02), (349, .02), (350, .002), (399, .002)])
def test_the_papers_schedule_at_the_first_and_last_step_of_an_epoch(epoch, rate):
    for step in (0, 389):
        assert learning_rate(CIFAR_PAPER, epoch, step, 390) == pytest.approx(rate, rel=1e-12)


def test_a_period_takes_the_place_of_the_list():
    recipe = dataclasses.replace(CIFAR_PAPER, lr_decay_period=2, lr_decay=.5)
    assert [learning_rate(recipe, epoch, 0, 3) for epoch in range(7)] == [.2, .2, .1, .1, .05, .05, .025]


def test_warmup_rises_in_a_straight_line_and_reaches_the_rate_at_its_last_step():
    recipe = dataclasses.replace(CIFAR_PAPER, warmup_epochs=2, warmup_lr=.05)
    assert rates(dataclasses.replace(recipe, epochs=3), 2)[:5] == pytest.approx([.05, .1, .15, .2, .2])


def test_a_warmup_of_one_step_starts_at_the_warmup_rate():
    recipe = Recipe(3, 32, .2, .9, 0, warmup_epochs=1, warmup_lr=.01)
    assert rates(recipe, 1) == [.01, .2, .2]


def test_cosine_starts_at_the_rate_ends_at_zero_and_never_rises():
    recipe = Recipe(5, 32, .2, .9, 0, lr_mode="cosine")
    found = rates(recipe, 7)
    assert found[0] == .2 and found[-1] == pytest.approx(0, abs=1e-12)
    assert found == sorted(found, reverse=True)
    assert rates(dataclasses.replace(recipe, epochs=1), 1) == [.2]  # nowhere to fall to


@pytest.mark.parametrize("warmup", [0, 2])
@pytest.mark.parametrize("mode", ["step", "cosine"])
def test_every_step_is_gluoncvs(mode, warmup):
    utils = tiny.gluoncv("utils")
    epochs, steps = 12, 5
    recipe = Recipe(epochs, 32, .075, .9, 0, lr_mode=mode, lr_decay=.3, lr_decay_epochs=(4, 9),
                    warmup_epochs=warmup, warmup_lr=.01)
    # As the authors' ImageNet script puts it together.
    parts = [utils.LRScheduler(mode, base_lr=.075, target_lr=0, nepochs=epochs - warmup, iters_per_epoch=steps,
                               step_epoch=[4 - warmup, 9 - warmup], step_factor=.3)]
    if warmup:
        parts.insert(0, utils.LRScheduler("linear", base_lr=.01, target_lr=.075, nepochs=warmup,
                                          iters_per_epoch=steps))
    reference = utils.LRSequential(parts)
    assert rates(recipe, steps) == pytest.approx([reference(step) for step in range(epochs * steps)], rel=1e-12,
                                                 abs=1e-15)


def test_it_depends_on_nothing_but_its_arguments():
    recipe = dataclasses.replace(CIFAR_PAPER, lr_mode="cosine", warmup_epochs=5)
    asked = [(399, 389), (0, 0), (4, 389), (5, 0), (200, 17)]
    assert [learning_rate(recipe, *place, 390) for place in asked] \
        == [learning_rate(recipe, *place, 390) for place in reversed(asked)][::-1]


# Mixing.

def test_the_share_of_mixed_images_is_a_function_of_seed_epoch_and_step():
    recipe = dataclasses.replace(CIFAR_PAPER, mixup_alpha=.2, mixup_off_epochs=10)
    places = [(seed, epoch, step) for seed in (0, 1) for epoch in (0, 389) for step in (0, 1, 389)]
    shares = [mixing_share(recipe, *place) for place in places]
    assert len(set(shares)) == len(places) and all(0 <= share <= 1 for share in shares)
    assert shares == [mixing_share(recipe, *place) for place in places]
    assert mixing_share(recipe, 0, 390, 0) == mixing_share(recipe, 0, 399, 5) == 1  # the last ten
    assert mixing_share(CIFAR_PAPER, 0, 0, 0) == 1


@pytest.mark.parametrize("alpha", [.2, 1.])
def test_shares_are_from_the_beta_distribution(alpha):
    recipe = dataclasses.replace(CIFAR_PAPER, mixup_alpha=alpha)
    shares = [mixing_share(recipe, 0, 0, step) for step in range(4000)]
    mean = sum(shares) / len(shares)
    variance = sum((share - mean) ** 2 for share in shares) / len(shares)
    assert mean == pytest.approx(.5, abs=.03) and variance == pytest.approx(1 / (8 * alpha + 4), rel=.05)
