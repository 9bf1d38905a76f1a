"""What the training scripts share: older checkpoints, what may change on resume, flags of both scripts."""
import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny

import train_cifar
from backend import gluon
from engine import checkpoint, folders, run
from engine.cli import start as starting
from engine.data.dataset import Origin, Training
from engine.recipe import CIFAR_PAPER
from support import params_file
from support.errors import InputError
from support.lock import locked

LATER = ("label_smoothing", "mixup_alpha", "mixup_off_epochs", "accumulate")  # fields that the first version lacked
SHORT = ["--gpus", "", *tiny.TINY_NET, "--num-epochs", "2", "--batch-size", "16", "--lr-decay-epoch", "1"]


def as_written_before(path):
    """Bring a checkpoint into its first form, without the fields that versions before the last ones did not write."""
    arrays, attachments = params_file.read(path)
    new = json.loads(attachments.pop(checkpoint.SETTINGS))
    state, experiment = new["state"], new["experiment"]
    for name in ("resumed", "loss_scale"):
        del state[name]
    settings = {"format": 1, **{name: experiment[name] for name in ("model", "arguments", "dataset", "label_mode",
                                                                    "seed", "val_split", "devices", "dtype")},
                "recipe": {name: value for name, value in experiment["recipe"].items() if name not in LATER},
                "started_from": None, "data": new["data"], "operators": new["operators"], "command": new["command"],
                "scored_on": new["scored_on"], "state": state}
    del attachments[params_file.DIGEST]
    params_file.write(path, arrays, {**attachments, checkpoint.SETTINGS: json.dumps(settings).encode()})


def test_an_older_run_goes_on_to_the_bit_and_its_files_are_evaluated(tmp_path):
    data = tiny.cifar10(tmp_path / "data")
    how = [*SHORT, "--data-dir", data, "--save-dir", "run"]
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    assert tiny.call(train_cifar.main, *how, folder=tmp_path / "whole").status == 0
    assert tiny.call(train_cifar.main, *how, "--num-epochs", "1", folder=tmp_path / "parts").status == 0
    for name in (folders.LAST, folders.BEST):
        as_written_before(tmp_path / "parts" / "run" / name)
    result = tiny.call(train_cifar.main, *how, "--resume", folder=tmp_path / "parts")
    assert result.status == 0, result.err
    assert tiny.state_of(tmp_path / "whole/run/last.params") == tiny.state_of(tmp_path / "parts/run/last.params")
    assert tiny.metrics_of(tmp_path / "whole" / "run") == tiny.metrics_of(tmp_path / "parts" / "run")


# What may change when a run goes on.

@pytest.mark.parametrize("changes, said", [
    ({"seed": 1}, "seed=1 but the checkpoint has seed=0"),
    ({"model": "senet_resnet20_v2"}, "model=senet_resnet20_v2 but"),
    ({"recipe": dataclasses.replace(CIFAR_PAPER, epochs=3, lr=.1)}, "lr=0.1 but the checkpoint has lr=0.2"),
    ({"arguments": {"blocks": 2}}, "blocks=2 but"), ({"val_split": 5}, "val_split=5 but")])
def test_only_the_number_of_epochs_may_change(changes, said):
    with pytest.raises(InputError, match=f"^the command asks for {said}.*only --num-epochs may change"):
        starting.refuse_another_run(tiny.experiment(**changes), tiny.experiment(), {"epoch": 3, "step": 0})


def test_the_epochs_that_have_begun_stay():
    for (epoch, step), least in (((3, 0), 3), ((3, 1), 4), ((0, 0), 1)):
        def ask(epochs, state):
            recipe = dataclasses.replace(CIFAR_PAPER, epochs=epochs)
            starting.refuse_another_run(tiny.experiment(recipe=recipe), tiny.experiment(), state)

        state = {"epoch": epoch, "step": step}
        for epochs in (least, least + 1):
            ask(epochs, state)
        if least > 1:
            with pytest.raises(InputError, match=f"is in epoch {least} already, so --num-epochs {least - 1} is too"):
                ask(least - 1, state)


@pytest.mark.parametrize("before, now, said", [
    ("plain Gluon operators, as asked", "fused C++ operators for the whole net", True),
    ("fused C++ operators for 3 units (why)", "fused C++ operators for the whole net", True),
    ("fused C++ operators for 3 units (why)", "fused C++ operators for 3 units (other words)", False),
    ("plain Gluon operators, as asked", "plain Gluon operators: they are not built", False), (None, "anything", False)])
def test_a_run_that_is_computed_in_another_way_from_now_on_says_so(caplog, before, now, said):
    saved = dataclasses.replace(tiny.saved(), operators=before or "")
    start = starting.Start(tiny.experiment(), None, tiny.CPU, None, None, saved, "")
    with caplog.at_level("INFO"):
        starting.tell_operators(start, SimpleNamespace(operators=now))
    assert (f"--resume: the run so far was computed with {(before or '').partition(',')[0].partition(' (')[0]}; with "
            in caplog.text) == said


# The checkpoint that --resume means.

def test_the_checkpoint_to_go_on_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def found(resume, save_dir=None):
        return starting._checkpoint_of(SimpleNamespace(resume=resume, save_dir=save_dir), SimpleNamespace(name="name"))

    assert found(None) is found("") is found("", "a") is None
    for folder in ("a", "runs/name", "runs/name-2"):
        Path(folder).mkdir(parents=True)
        (Path(folder) / folders.LAST).touch()
    assert found("") == Path("runs/name-2/last.params") and found("", "a") == Path("a/last.params")
    assert found("a") == found("a", "a") == found("a/last.params", str(tmp_path / "a")) == Path("a/last.params")
    with pytest.raises(InputError, match="^--resume continues the run in a; leave --save-dir out$"):
        found("a", "b")


# Flags that both scripts have, on CIFAR.

def test_cifar_trains_with_smoothed_labels_mixed_images_and_batches_in_parts(tmp_path):
    data = tiny.cifar10(tmp_path / "data")
    seen = set()
    for flags in ([], ["--label-smoothing"], ["--mixup"], ["--accumulate", "4"]):
        folder = tmp_path / ("x" + "".join(flags))
        result = tiny.call(train_cifar.main, *SHORT, "--data-dir", data, "--save-dir", folder, *flags, folder=tmp_path)
        assert result.status == 0, result.err
        assert ("which can add up gradients" in result.err) == ("--accumulate" in flags)
        seen.add(tiny.metrics_of(folder)[-1]["train_loss"])
    assert len(seen) == 4


def test_cifar_saves_within_an_epoch_where_it_is_asked_to(tmp_path, monkeypatch):
    written, places = checkpoint.save, []

    def spied(path, *others):
        written(path, *others)
        if path.name == folders.LAST:
            state = checkpoint.read(path).state
            places.append((state["epoch"], state["step"]))

    monkeypatch.setattr(checkpoint, "save", spied)
    result = tiny.call(train_cifar.main, *SHORT, "--data-dir", tiny.cifar10(tmp_path / "data"), "--save-dir", "run",
                       "--save-interval", "3", folder=tmp_path)
    assert result.status == 0, result.err
    assert places == [(0, 3), (0, 4), (1, 0), (1, 3), (1, 4), (2, 0)]  # of four steps an epoch


def test_a_wrong_flag_of_a_run_leaves_nothing_behind(tmp_path):
    result = tiny.call(train_cifar.main, *SHORT, "--accumulate", "5", folder=tmp_path)
    tiny.one_sentence(result, 2, "a batch of 16 cannot be cut into 5 equal parts")
    assert not os.listdir(tmp_path)


# A folder has one run at a time.

@pytest.mark.parametrize("arguments", [["--save-dir", "{run}"], ["--resume", "{run}"]])
def test_a_folder_in_use_is_left_alone_and_is_free_again_after_the_run(tmp_path, arguments):
    data, folder = tiny.cifar10(tmp_path / "data"), tmp_path / "{run}"
    how = [*SHORT, "--data-dir", data, "--num-epochs", "1"]
    if "--resume" in arguments:
        assert tiny.call(train_cifar.main, *how, "--save-dir", folder, folder=tmp_path).status == 0
    folder.mkdir(exist_ok=True)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with locked(folder / folders.LOCK):
        result = tiny.call(train_cifar.main, *how, *arguments, folder=tmp_path)
        tiny.one_sentence(result, 1, f"{{run}} is in use by another run, process {os.getpid()}; wait for its end")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert tiny.call(train_cifar.main, *how, *arguments, folder=tmp_path).status == 0
    assert not (folder / folders.LOCK).exists()


# The end of a run.

@pytest.mark.parametrize("raised, status", [(run.Stopped("stopped", 15), 143), (InputError("a fault"), 1)])
def test_the_log_keeps_the_sentence_of_an_end_and_not_the_error_with_all_that_hangs_on_it(tmp_path, monkeypatch, caplog,
                                                                                         raised, status):
    def end(job, resume):
        raise raised

    monkeypatch.setattr(run, "train", end)
    flags = SimpleNamespace(num_data_workers=0, save_period=0, save_interval=0, log_interval=1, tensorboard=None)
    start = starting.Start(tiny.experiment(), None, tiny.CPU, gluon.distributed.Team("device"), None, None, "")
    training = Training(Origin(("a",), "official", {"sha256": "0" * 64, "official": True}), None, None, "test")
    program = SimpleNamespace(operators="", team=start.team, environment=dict)
    if status == 1:
        with caplog.at_level("DEBUG", "engine"), pytest.raises(InputError, match="^a fault$") as caught:
            starting.run_in(tmp_path, start, flags, training, program)
        assert caught.value is not raised and caught.value.__context__ is None
    else:
        assert starting.run_in(tmp_path, start, flags, training, program) == (143, None)
    assert str(raised) in caplog.text
    assert all(isinstance(argument, str) for record in caplog.records for argument in record.args)
