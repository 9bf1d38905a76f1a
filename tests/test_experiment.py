"""The one value of a run and the one of what came out: JSON both ways, what cannot be, what differs, older forms."""
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import tiny

import train_cifar
from engine import checkpoint, old_forms
from engine.experiment import Experiment, Result, Score
from engine.recipe import CIFAR_PAPER, IMAGENET_RELEASED
from reproduce import ledger
from support.errors import InputError

IMAGENET = Experiment("ge_resnet50_v1b", {"classes": 1000, "input_size": 64, "last_gamma": True, "stages": [3, 4]},
                      "imagenet", IMAGENET_RELEASED, input_size=64, crop_ratio=.875, dtype="float16", devices=2,
                      start="x.params", first_epoch=3, seed=7)
DATA = {"variant": "official", "sha256": "0" * 64, "official": True, "train_images": 50_000, "test_images": 10_000}
SCORE = Score(399, .9, .99, .3, 10_000)


def result(**changes):
    return Result(**{
        "experiment": tiny.experiment(), "data": DATA, "last": SCORE, "best": dataclasses.replace(SCORE, epoch=5),
        "chosen_on": "test", "seconds": 60., "resumed": 1,
        "train_images_per_second": 1e3, "operators": "plain", "command": "python train_cifar.py",
        "environment": {"processor": "x", "threads": None, "contexts": "[cpu(0)]", "gpus": [], "git_revision": None},
        **changes})


def through_json(value):
    return type(value).from_json(json.loads(json.dumps(value.as_json())))


@pytest.mark.parametrize("value", [
    tiny.experiment(), IMAGENET, tiny.experiment(dataset="cifar100", label_mode="fine", val_split=5000),
    result(), result(chosen_on="held-out", held_out={"last": SCORE, "best": SCORE})])
def test_json_both_ways(value):
    assert through_json(value) == value
    later = {**value.as_json(), "of_a_later_version": 1}
    with pytest.raises(InputError, match="'of_a_later_version' is unknown to this version"):
        type(value).from_json(later)


def test_equal_experiments_are_one_key_however_their_arguments_were_given():
    one = Experiment("x", {"classes": 10, "act_layers": [1, 2]}, "cifar10", CIFAR_PAPER)
    two = Experiment("x", (("act_layers", (1, 2)), ("classes", 10)), "cifar10", CIFAR_PAPER)
    assert one == two and len({one, two}) == 1 and one.net == {"act_layers": [1, 2], "classes": 10}


def test_what_a_later_version_added_takes_its_default():
    older = tiny.experiment().as_json()
    del older["first_epoch"], older["recipe"]["accumulate"]
    assert Experiment.from_json(older) == tiny.experiment()


@pytest.mark.parametrize("changes, said", [
    ({"arguments": {}}, "arguments has no 'classes'"), ({"arguments": {"classes": 0}}, "arguments.classes is not"),
    ({"arguments": {"classes": 1, "x": [[]]}}, r"arguments.x\[0\] is not a number, text"),
    ({"dataset": "mnist"}, "dataset is not one of"), ({"label_mode": "fine"}, "label_mode cannot be fine for cifar10"),
    ({"dataset": "cifar100"}, "label_mode cannot be None"),
    ({"seed": 2 ** 32}, "seed"), ({"seed": True}, "seed"), ({"input_size": 1}, "input_size"),
    ({"crop_ratio": 0}, "crop_ratio"), ({"val_split": -1}, "val_split"), ({"dtype": "int8"}, "dtype"),
    ({"devices": 0}, "devices"), ({"model": 3}, "model"), ({"recipe": None}, "recipe is not an object"),
    ({"first_epoch": 400}, "first_epoch 400 leaves nothing of 400 epochs"), ({"recipe": {}}, "epochs is missing"),
    ({"recipe": {**vars(CIFAR_PAPER), "lr": "x"}}, "lr is not a finite number of at least 0"),
    ({"format": 3}, "its format is 3, and this version reads 2")])
def test_what_no_run_can_be_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        Experiment.from_json({**tiny.experiment().as_json(), **changes})


@pytest.mark.parametrize("changes, said", [
    ({"last": {**vars(SCORE), "epoch": 3}}, "its last epoch is 3, of 400 from 0"),
    ({"held_out": {"last": vars(SCORE), "best": vars(SCORE)}}, "held_out has scores, but"),
    ({"data": {**DATA, "sha256": "0"}}, "data.sha256 is not a SHA-256"),
    ({"best": {**SCORE.__dict__, "accuracy": 1.5}}, "best.accuracy is not a number from 0 to 1"),
    ({"seconds": float("nan")}, "seconds is not a finite number")])
def test_results_that_cannot_be_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        Result.from_json({**result().as_json(), **changes})


def test_the_difference_in_words():
    own = tiny.experiment("atac_resnet20_v2")
    assert own.difference(own) is None
    assert own.difference(tiny.experiment("atac_resnet20_v2", CIFAR_PAPER.scaled(40)), "the record has") \
        == "epochs=400 but the record has epochs=40"
    assert own.difference(tiny.experiment()) == "model=atac_resnet20_v2 but the other has model=resnet20_v2"
    without = dataclasses.replace(own, arguments={**own.net, "inner_relu": False})
    assert own.difference(without) == "inner_relu=True but the other has inner_relu=False"


def test_names():
    assert tiny.experiment("atac_resnet20_v2", arguments={"blocks": 3}).name == "cifar10_atac_resnet20_v2_b3_seed0"
    assert tiny.experiment(dataset="cifar100", label_mode="coarse", seed=2).name \
        == "cifar100-coarse_resnet20_v2_b1_seed2"
    assert IMAGENET.name == "imagenet64_ge_resnet50_v1b_seed7"


# What was written before.

def test_settings_of_the_first_form():
    old = {"format": 1, "model": "ge_resnet50_v1b", "arguments": IMAGENET.net, "dataset": "imagenet",
           "label_mode": None, "seed": 7, "input_size": 64, "crop_ratio": .875, "recipe": IMAGENET.as_json()["recipe"],
           "devices": 2, "dtype": "float16", "started_from": "x.params", "command": "c", "operators": "o",
           "scored_on": "validation",
           "data": {"variant": "v", "sha256": "s", "official": False, "class_names": ["a"], "input_size": 64},
           "state": {"epoch": 4, "step": 1, "meter": {"images": 1, "loss_sum": .1, "correct": 0}, "best": None,
                     "first_epoch": 3}}
    saved = checkpoint.Saved.from_json(old)
    assert saved.experiment == IMAGENET
    assert saved.data == {"variant": "v", "sha256": "s", "official": False, "class_names": ["a"]}
    assert saved.state == {"epoch": 4, "step": 1, "meter": old["state"]["meter"], "best": None, "resumed": 0,
                           "loss_scale": None}
    assert (saved.command, saved.operators, saved.scored_on, saved.workers) == ("c", "o", "validation", 1)


@pytest.mark.parametrize("changes", [{"recipe": None}, {"data": []}, {"state": 3}, {"seed": -1}, {"arguments": "x"}])
def test_a_first_form_that_is_none_is_refused(changes):
    old = {"model": "x", "arguments": {}, "dataset": "cifar10", "label_mode": None, "recipe": {}, "seed": 0, "data": {}}
    with pytest.raises(InputError, match=next(iter(changes))):
        old_forms.saved({**old, **changes})


FIRST_FORM = Path(__file__).resolve().parent / "data" / "run_of_first_form"  # of tiny.cifar10's images, 16 held out


def test_a_finished_run_of_the_first_form_is_read_and_resumed(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(FIRST_FORM, run)
    shutil.copy(run / "last.params", run / "best.params")  # kept once
    old = json.loads((run / "result.json").read_text())
    record = ledger.make(run)
    assert (record.experiment, record.result.resumed) == (tiny.experiment(
        recipe=dataclasses.replace(CIFAR_PAPER.scaled(2), batch_size=32), val_split=16), 0)
    assert record.result.held_out["last"].accuracy == old["last"]["accuracy"]
    assert record.result.best.accuracy == old["test_of_best"]["accuracy"]
    assert record.result.data["train_images"], record.result.data["test_images"] == (64, 40)
    assert ledger.add(run, tmp_path / "results") == record and ledger.read(tmp_path / "results") == [record]
    data = tiny.cifar10(tmp_path / "data")
    more = tiny.call(train_cifar.main, "--gpus", "", "--data-dir", data, "--resume", "run", "--num-epochs", "3",
                     folder=tmp_path)
    assert more.status == 0, more.err
    result = Result.from_json(json.loads((run / "result.json").read_text()))
    assert (result.last.epoch, result.resumed) == (2, 1)
    assert result.experiment == dataclasses.replace(record.experiment, recipe=dataclasses.replace(
        record.experiment.recipe, epochs=3))


def test_a_run_of_the_first_form_with_damaged_provenance_is_a_sentence(tmp_path):
    shutil.copytree(FIRST_FORM, tmp_path / "run")
    args = json.loads((tmp_path / "run" / "args.json").read_text())
    for odd in ({}, {"files": [{"name": "test_batch.bin"}]}, {"files": 3}, {"splits": []}):
        (tmp_path / "run" / "args.json").write_text(json.dumps({**args, "provenance": odd}))
        with pytest.raises(InputError, match="args.json.provenance"):
            ledger.make(tmp_path / "run")
