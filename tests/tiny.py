"""Tiny data sets, nets and runs for the tests of the engine and of the two scripts."""
import contextlib
import io
import json
import logging
import os
import sys
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from cifar_files import binary, random_images
from mxnet.gluon import nn

from backend.gluon import distributed, placement
from backend.gluon.program import Program, Scorer
from engine import checkpoint, run, runlog
from engine.cli.program import run_script
from engine.data import in_memory
from engine.experiment import Experiment
from engine.figures import curves
from engine.recipe import CIFAR_PAPER, Recipe
from engine.steps import Meter
from model import zoo
from support import params_file

CPU = [mx.cpu()]
TWO = [mx.cpu(0), mx.cpu(1)]
TINY_NET = ["--model", "resnet20_v2", "--blocks", "1"]


# Data.

def split(count, seed=0, classes=10):
    """Noise in place of images, every class as often as the others."""
    return in_memory.Split(random_images(count, seed), (np.arange(count) % classes).astype(np.int32))


def cifar10(folder, train=64, test=40):
    """A folder with CIFAR-10 in the binary layout; returns it as text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("data_batch_1", train, 0), ("test_batch", test, 1)):
        (folder / f"{name}.bin").write_bytes(binary(random_images(count, seed), np.arange(count) % 10))
    return str(folder)


def cifar100(folder, train=64, test=40):
    """The same for CIFAR-100; coarse and fine labels are unrelated to each other."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", train, 0), ("test", test, 1)):
        (folder / f"{name}.bin").write_bytes(
            binary(random_images(count, seed), np.arange(count) % 20, 7 * np.arange(count) % 100))
    return str(folder)


def both_cifars(folder):
    """A folder with CIFAR-10 and CIFAR-100; returns it as text."""
    cifar10(folder)
    cifar100(folder)
    return str(folder)


# Nets.

def net(batch_norm=True, classes=10, units=4):
    """Convolution, BatchNorm, ReLU, average pool, dense; not initialized."""
    made = nn.HybridSequential()
    with made.name_scope():
        made.add(nn.Conv2D(units, 3, strides=4, in_channels=3))
        if batch_norm:
            made.add(nn.BatchNorm(in_channels=units))
        made.add(nn.Activation("relu"), nn.GlobalAvgPool2D(), nn.Flatten(), nn.Dense(classes, in_units=units))
    return made


def ready(made, seed=0, contexts=CPU, mode="hybrid"):
    """The net, initialized as a run does it."""
    placement.initialize(made, seed, contexts)
    placement.set_mode(made, mode)
    return made


def numbers_of(made, device=0):
    """All parameters of one device by structural name."""
    return {name: parameter.list_data()[device].asnumpy()
            for name, parameter in made._collect_params_with_prefix().items()}


def state_of(path):
    """Everything in a checkpoint of which bits are promised: weights, optimizer, statistics, position and sums."""
    arrays, attachments = params_file.read(path)
    found = {name: array.tobytes() for name, array in arrays.items()}
    found.update({name: content for name, content in attachments.items()
                  if name not in (checkpoint.SETTINGS, params_file.DIGEST)})
    position = json.loads(attachments[checkpoint.SETTINGS])["state"]
    del position["resumed"]  # how often it was interrupted
    found["position"] = position
    return found


def metrics_of(folder):
    """The records of a run's metrics.jsonl without what the clock decides."""
    return [{name: value for name, value in record.items() if "second" not in name}
            for record in runlog.read_metrics(folder / "metrics.jsonl")]


# Runs.

def recipe(**changes):
    return Recipe(**{"epochs": 2, "batch_size": 16, "lr": .1, "momentum": .9, "wd": 1e-3, "lr_decay_epochs": (1,),
                     **changes})


def experiment(model="resnet20_v2", recipe=CIFAR_PAPER, arguments=None, **changes):
    """The Experiment of a net with one block a stage on CIFAR-10; changes are those of an Experiment's fields."""
    known = zoo.complete_arguments(model, {"classes": 10, **(arguments or {"blocks": 1})})
    return Experiment(**{"model": model, "arguments": known, "dataset": "cifar10", "recipe": recipe, **changes})


def saved(class_names=tuple("abcdefghij"), **changes):
    """The Saved of a file without state; changes are those of `experiment`."""
    return checkpoint.Saved(experiment(**changes), {"sha256": "0" * 64, "variant": "official", "official": True,
                                                    "class_names": class_names and list(class_names)})


def program(net, contexts=CPU, forward=None, team=None, dtype="float32", update_all=None, **changes):
    """The Program of a net that is initialized; changes are the recipe's."""
    return Program(net, contexts, recipe(**changes), team or distributed.Team("device"), dtype, forward,
                   update_all=update_all)


def fed(batches):
    """(rate, images, labels) or (rate, images, labels, share) as a Program's steps take them."""
    for rate, images, labels, *share in batches:
        yield rate, images, labels, share[0] if share else 1.


def train(program, batches, meter=None):
    """Train a Program on batches as in `fed`; returns the meter."""
    meter = meter or Meter()
    for _ in program.steps(fed(batches), meter):
        pass
    return meter


def score(net, batches, labels, contexts=CPU, forward=None):
    """The Scores of a Gluon net."""
    return Scorer(net, contexts, forward).score(batches, labels)


def save(path, trained, saved):
    """Write a checkpoint of a Program, all workers of a team at once, or of the weights of a Gluon net alone."""
    if not isinstance(trained, Program):
        arrays = {name: array.astype(np.float32) for name, array in numbers_of(trained).items()}
        checkpoint.save(path, arrays, saved)
        return
    arrays = trained.arrays()
    if trained.team.writes:
        checkpoint.save(path, arrays, saved)


def restore(path, program):
    """Bring a Program back to a checkpoint; returns its Saved."""
    arrays, stored = checkpoint.load(path, program.forms())
    program.restore(arrays)
    return stored


def load_weights(path, net):
    """Give a net the weights of a checkpoint."""
    for name, array in checkpoint.weights(path).items():
        parameter = net._collect_params_with_prefix()[name]
        parameter.set_data(mx.nd.array(array, dtype=parameter.dtype))


def job(folder, contexts=CPU, images=128, seed=0, batches=None, held_out=None, batch_norm=True, team=None, made=None,
        forward=None, update_all=None, **changes):
    """A run of the tiny net (or of one made already) on noise; changes are the recipe's and the Job's."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("workers", "save_period", "save_interval", "log_interval")
    own = {name: changes.pop(name) for name in names if name in changes}
    decides = {name: changes.pop(name) for name in ("first_epoch", "dtype") if name in changes}
    chosen, team = recipe(**changes), team or distributed.Team("device")
    stored = saved(recipe=chosen, seed=seed, devices=len(contexts) * team.size, **decides)
    test = in_memory.EvalBatches(split(25, 9), 10)
    return run.Job(
        Program(made or ready(net(batch_norm), seed, contexts), contexts, chosen, team, stored.experiment.dtype,
                forward, update_all=update_all),
        saved=stored, provenance={"sha256": "0" * 64, "official": True, "train_images": images, "test_images": 25},
        batches=batches or in_memory.TrainBatches(split(images), chosen.batch_size * len(contexts), seed),
        score_batches=held_out or test, labels=10, scored_on="held-out" if held_out else "test",
        test_batches=test if held_out else None, directory=folder, **own)


class OneOfTwo(distributed.Team):
    """One of two workers, which holds the other's numbers ready."""

    size = 2

    def __init__(self, rank, other):
        super().__init__("device")
        self.rank, self.other = rank, other

    def each(self, values):
        values = np.array(values)
        other = np.reshape(self.other, values.shape).astype(values.dtype)
        return np.stack([values, other] if self.rank == 0 else [other, values])


class Hooked:
    """Training batches that call something before one of their steps."""

    def __init__(self, batches, epoch, step, call):
        self.batches, self.place, self.call, self.steps = batches, (epoch, step), call, batches.steps

    def epoch(self, index, start=0, workers=0):
        for step, batch in enumerate(self.batches.epoch(index, start, workers), start):
            if (index, step) == self.place:
                self.call()
            yield batch


def call(main, *arguments, folder=".", plot=False):
    """Run a script's main() in this process as its file does it; returns status, out and err.

    plot=False leaves curves empty, history.png among them, for the second that drawing takes.
    """
    kept = sys.argv, os.getcwd(), curves.draw
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    out, err = io.StringIO(), io.StringIO()
    os.chdir(folder)
    sys.argv = [f"{main.__module__}.py", *map(str, arguments)]
    if not plot:
        curves.draw = lambda runs, path, *_: path.touch()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                run_script(main)
            except SystemExit as end:
                status = end.code
                if isinstance(status, str):  # as the interpreter would do it
                    status = print(status, file=sys.stderr) or 1
    finally:
        sys.argv, curves.draw = kept[0], kept[2]
        os.chdir(kept[1])
        for handler in list(logging.getLogger().handlers):
            if handler not in handlers:
                handler.close()
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue())


def one_sentence(result, status, *parts):
    """Hold a failed call to its status and to one line on standard error that has all parts; returns the line."""
    assert result.status == status, result.err
    lines = result.err.strip().splitlines()
    assert lines and "Traceback" not in result.err, result.err
    for part in parts:
        assert part in lines[-1], result.err
    return lines[-1]


def gluoncv(module):
    """A module of GluonCV, hiding PyTorch 2, beside which GluonCV refuses to load; skips the test without GluonCV."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        return pytest.importorskip(f"gluoncv.{module}", exc_type=ImportError,
                                   reason="GluonCV, the reference here, is not installed")
