"""The learning rate and the share of mixed images, as pure functions of the recipe and the step."""
import math

from .seeds import random_stream

_MIXING = 100  # the key of the random numbers here; the keys of the data count from 0


def learning_rate(recipe, epoch, step, steps):
    """Learning rate of step `step` (from 0) of epoch `epoch` (from 0), with `steps` steps in an epoch.

    The warmup rises linearly from warmup_lr to lr at its last step. The cosine falls from lr at the first step after
    the warmup to 0 at the last step of the run. Both count as GluonCV's LRScheduler.
    """
    warmup = recipe.warmup_epochs * steps
    done = epoch * steps + step
    if done < warmup:
        return recipe.warmup_lr + (recipe.lr - recipe.warmup_lr) * done / max(warmup - 1, 1)
    if recipe.lr_mode == "cosine":
        last = recipe.epochs * steps - warmup - 1
        return recipe.lr * (1 + math.cos(math.pi * min(done - warmup, last) / max(last, 1))) / 2
    if recipe.lr_decay_period:
        decays = epoch // recipe.lr_decay_period
    else:
        decays = sum(decay <= epoch for decay in recipe.lr_decay_epochs)
    return recipe.lr * recipe.lr_decay ** decays


def mixing_share(recipe, seed, epoch, step):
    """Share of an image if a step mixes pairs of images [Zhang et al. 2018], from Beta(alpha, alpha); 1: no mixing."""
    if not recipe.mixup_alpha or epoch >= recipe.epochs - recipe.mixup_off_epochs:
        return 1.0
    return float(random_stream(seed, _MIXING, epoch, step).beta(recipe.mixup_alpha, recipe.mixup_alpha))
