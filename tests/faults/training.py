"""Trainings whose numbers break: rates that explode, losses and gradients that are none, sizes that do not fit."""
import json
import random
import shutil

import cifar_files
import numpy as np
import tiny

from engine import run, runlog
from engine.data import cifar, in_memory
from engine.figures import curves
from engine.steps import Diverged
from support import params_file
from support.errors import InputError

from .suite import FAULT, Case, Round, Theme

RATES, POISON, SIZES, WORKERS, LABELS = (
    "an exploding learning rate", "NaN or infinity in a batch, a loss or a gradient", "batches and sets of any size",
    "a data worker that dies", "labels outside the classes")
CASES = (RATES, POISON, SIZES, WORKERS, LABELS)


class Broken(RuntimeError):
    """What a data worker dies of."""


def trained(folder, **changes):
    """(outcome, detail) of a small run; every number that it leaves behind is finite."""
    job = tiny.job(folder, **changes)
    try:
        result = run.train(job)
        outcome = "trained", ""
        json.dumps(result.as_json(), allow_nan=False)
        assert (folder / "result.json").exists()
    except InputError as error:
        outcome = ("refused", str(error)) if "\n" not in str(error) else (FAULT, f"not one sentence: {error!r}")
        assert not (folder / "result.json").exists()
    for path in folder.glob("*.params"):  # none, or sound ones
        arrays, _ = params_file.read(path)
        assert all(np.isfinite(array).all() for array in arrays.values()), f"{path.name} holds what is no number"
    metrics = folder / "metrics.jsonl"
    if metrics.exists():
        runlog.read_metrics(metrics)  # refuses what is not finite
    return outcome


def rates(rng, folder):
    return trained(folder, lr=10 ** rng.uniform(-3, 38), momentum=rng.choice((0, .9, .999)), wd=10 ** rng.uniform(-5,
                                                                                                                  30),
                   images=32, batch_norm=rng.random() < .5, seed=rng.randrange(100), epochs=rng.choice((1, 2)))


def poison(rng, folder):
    value = rng.choice((np.nan, np.inf, -np.inf, 3e38))
    step, epoch = rng.randrange(2), rng.randrange(2)
    batches = in_memory.TrainBatches(tiny.split(32), 16, 0)

    class Poisoned:
        steps, batch_size = batches.steps, batches.batch_size

        def epoch(self, index, start=0, workers=0):
            for place, (images, labels) in enumerate(batches.epoch(index, start, workers), start):
                if (index, place) == (epoch, step):
                    images.flat[rng.randrange(images.size)] = value
                    if rng.random() < .5:
                        images[:] = value
                yield images, labels

    return trained(folder, batches=Poisoned(), images=32, batch_norm=rng.random() < .5)


def sizes(rng, folder):
    images, batch = rng.choice((1, 2, 15, 16, 17, 33)), rng.choice((1, 2, 15, 16, 17, 34, 1000))
    tests, at_once = rng.choice((1, 2, 10, 11)), rng.choice((1, 3, 10, 11, 50))
    test = in_memory.EvalBatches(tiny.split(tests, 5), at_once)
    assert sum(count for _, _, count in test) == tests
    batches = in_memory.TrainBatches(tiny.split(images), batch, 0)
    assert batches.steps == images // batch
    assert sum(len(labels) for _, labels in batches.epoch(0)) == images // batch * batch
    job = tiny.job(folder, batches=batches, batch_size=batch, images=images)
    job.score_batches = test
    result = run.train(job)
    assert result.last.images == tests
    return "trained", f"{images} images by {batch}"


def workers(rng, folder):
    batches = in_memory.TrainBatches(tiny.split(64), 16, 0)
    make, place = batches._batch, (rng.randrange(2), rng.randrange(4))

    def breaking(epoch, step):
        if (epoch, step) == place:
            raise rng.choice((Broken("a worker died"), OSError(5, "Input/output error"), MemoryError()))
        return make(epoch, step)

    batches._batch = breaking
    try:
        outcome, detail = trained(folder, batches=batches, images=64, workers=rng.choice((0, 1, 3)))
    except (Broken, OSError, MemoryError) as error:  # not hidden, and not a hang
        outcome, detail = "ended by the worker's error", type(error).__name__
    if outcome == "trained":
        return FAULT, "the run went on without a batch"
    if place[0] == 1 and not (folder / run.LAST).exists():
        return FAULT, "the checkpoint of the epoch before is gone"
    return outcome, detail


def labels(rng, folder):
    wrong = rng.choice((10, 11, 100, 255))
    content = bytearray(cifar_files.binary(cifar_files.random_images(8), np.arange(8)))
    image = rng.randrange(8)
    content[image * 3073] = wrong
    folder.mkdir(parents=True, exist_ok=True)
    tiny.cifar10(folder, 8, 8)
    (folder / rng.choice(("data_batch_1.bin", "test_batch.bin"))).write_bytes(bytes(content))
    try:
        cifar.load("cifar10", folder)
    except InputError as error:
        said = f"image {image} has {wrong} among its labels"
        return ("refused", str(error)) if said in str(error) else (FAULT, f"{error} does not say: {said}")
    return FAULT, f"label {wrong} was read"


MAKERS = dict(zip(CASES, (rates, poison, sizes, workers, labels)))


def one(case, rng, folder):
    kept = curves.draw
    curves.draw = lambda runs, path, *_: path.touch()  # for the second that drawing takes
    try:
        return MAKERS[case](rng, folder)
    except InputError as error:
        return ("refused", str(error)) if "\n" not in str(error) else (FAULT, f"not one sentence: {error!r}")
    except (Exception, Diverged) as error:
        return FAULT, f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        curves.draw = kept


def run_rounds(rounds, seed, folder):
    for number in range(rounds):
        case = CASES[number % len(CASES)]
        place = folder / "training"
        shutil.rmtree(place, ignore_errors=True)
        outcome, detail = one(case, random.Random(f"{seed}/training/{number}"), place)
        yield Round(case, outcome, f"round {number}: {detail}")


THEME = Theme("training", "Numbers that break, sizes that do not fit", 400, (
    Case(RATES, "the run ends with a sentence that names the epoch and the last good checkpoint; checkpoints, metrics "
                "and results only hold finite numbers", "that a run which diverges without infinities is noticed"),
    Case(POISON, "the same", "that a wrong but finite batch is noticed"),
    Case(SIZES, "every image is scored once, whatever the batch size; images that do not fill a batch are left out of "
                "that epoch; a batch larger than the set is refused"),
    Case(WORKERS, "the run ends at once with the worker's error and never hangs; the checkpoint of the epoch before is "
                  "there"),
    Case(LABELS, "refused with the file, the byte, the image and the number of classes"),
), run_rounds)
