"""What a run and its backend exchange, and that each backend has what backend.base asks for."""
import inspect
import re

import numpy as np
import pytest
import tiny

from backend import base, gluon
from engine import schedule
from engine.data import in_memory
from engine.steps import Counts, Diverged, Meter, Steps
from support.errors import InputError


def test_a_step_has_its_rate_its_batch_and_its_share():
    recipe = tiny.recipe(epochs=4, warmup_epochs=1, mixup_alpha=.3, lr_decay_epochs=(2,))
    batches = in_memory.TrainBatches(tiny.split(64), 16, 5)
    found = list(Steps(batches, recipe, 5, epoch=0, first=1))
    assert len(found) == 3
    for step, ((rate, images, labels, share), expected) in enumerate(zip(found, batches.epoch(0, 1)), 1):
        assert rate == schedule.learning_rate(recipe, 0, step, 4) and share == schedule.mixing_share(recipe, 5, 0, step)
        assert (images == expected[0]).all() and (labels == expected[1]).all()


def test_the_draws_of_a_step_make_its_images_elsewhere():
    batches = in_memory.TrainBatches(tiny.split(64), 16, 5)
    padded = np.pad(batches.split.images, ((0, 0), (0, 0), (in_memory.PAD,) * 2, (in_memory.PAD,) * 2))
    steps = Steps(batches, tiny.recipe(), 5, epoch=1)
    for (rate, images, labels, share), (same_rate, draws, same_share) in zip(steps, steps.draws()):
        assert (rate, share) == (same_rate, same_share)
        made = [padded[index, :, y:y + 32, x:x + 32][:, :, ::-1 if mirrored else 1]
                for index, y, x, mirrored in zip(*draws)]
        assert (in_memory.normalise(np.stack(made)) == images).all()
        assert (batches.split.labels[draws.chosen] == labels).all()


def test_sums_that_are_not_finite_are_refused():
    for value in (np.nan, np.inf):
        with pytest.raises(Diverged):
            Meter().add(1, value, 0)
        with pytest.raises(Diverged):
            Counts(2).add(np.full((1, 2), value), np.array([0]))
    with pytest.raises(InputError, match="no images"):
        Counts(2).scores()


def test_the_gluon_backend_has_what_the_interface_asks_for():
    for name in re.findall(r"^    (\w+)\(", base.__doc__, re.MULTILINE):
        assert callable(getattr(gluon, name)), name
    assert issubclass(gluon.program.Program, base.Program) and not inspect.isabstract(gluon.program.Program)
    assert issubclass(gluon.program.Scorer, base.Scorer) and not inspect.isabstract(gluon.program.Scorer)
