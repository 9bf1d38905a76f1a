"""Whole runs: to the end, stopped and gone on with, diverged; and the folders they live in.

The runs here are of a tiny net in this process; test_train_cifar.py has the script as a process of its own.
"""
import dataclasses
import itertools
import json
import logging
import math
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
import tiny

from backend.gluon import program
from backend.gluon.distributed import Team
from backend.gluon.program import Program
from engine import checkpoint, folders, run, runlog, steps
from engine.data import in_memory
from engine.experiment import Result
from engine.figures import curves
from engine.steps import LossScale
from support.errors import InputError, OutOfMemory

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    """Drawing is tested in test_runlog.py and takes a second."""
    monkeypatch.setattr(curves, "draw", lambda runs, path, *_: path.touch())


def stopped_at(place, number=signal.SIGTERM, devices=1):
    """Batches that have the process send itself a signal before step place[1] of epoch place[0]."""
    batches = in_memory.TrainBatches(tiny.split(128 * devices), 16 * devices, 0)
    return tiny.Hooked(batches, *place, lambda: os.kill(os.getpid(), number))


def assert_same_run(folder, other):
    """Two finished runs are equal: checkpoints to the bit, metrics but for times, results."""
    for name in (folders.LAST, folders.BEST):
        assert tiny.state_of(folder / name) == tiny.state_of(other / name), name
    assert tiny.metrics_of(folder) == tiny.metrics_of(other)
    results = [json.loads((path / "result.json").read_text()) for path in (folder, other)]
    assert [results[0][key] for key in ("last", "best", "experiment")] \
        == [results[1][key] for key in ("last", "best", "experiment")]


# To the end.

def test_a_run_leaves_its_records(tmp_path, caplog):
    job = tiny.job(tmp_path, save_period=2, epochs=3, log_interval=3)
    with caplog.at_level(logging.INFO):
        result = run.train(job)
    assert sorted(os.listdir(tmp_path)) == ["best.params", "epoch-0002.params", "history.png", "last.params",
                                            "metrics.jsonl", "result.json"]
    records = runlog.read_metrics(tmp_path / "metrics.jsonl")
    assert [record["epoch"] for record in records] == [0, 1, 2]
    assert [record["lr"] for record in records] == pytest.approx([.1, .01, .01])
    for record in records:
        assert (record["train_images"], record["val_images"], record["scored_on"]) == (128, 25, "test")
        assert record["seconds"] > 0 and record["train_images_per_second"] > 0
        assert set(record) == {
            "epoch", "lr", "train_loss", "train_accuracy", "train_images", "val_loss", "val_accuracy", "val_top5",
            "val_images", "scored_on", "seconds", "train_images_per_second"}

    assert result == Result.from_json(json.loads((tmp_path / "result.json").read_text()))
    assert (result.experiment, result.chosen_on, result.resumed) == (job.experiment, "test", 0)
    assert vars(result.last) == {"epoch": 2, "accuracy": records[2]["val_accuracy"], "top5": records[2]["val_top5"],
                                 "loss": records[2]["val_loss"], "images": 25}
    best = max(records, key=lambda record: record["val_accuracy"])  # the first of equals
    assert vars(result.best) == {"epoch": best["epoch"], "accuracy": best["val_accuracy"], "loss": best["val_loss"],
                                 "top5": best["val_top5"], "images": 25}
    assert result.environment["mxnet"] and result.seconds == pytest.approx(sum(r["seconds"] for r in records))

    text = caplog.text
    assert text.count("Batch [3]\tSpeed: ") == text.count("Batch [6]\tSpeed: ") == 3 and "Batch [8]" not in text
    assert f"[Epoch 2] validation: err-top1={1 - records[2]['val_accuracy']:f} " in text
    assert f"[Epoch 0] train={records[0]['train_accuracy']:f} val={records[0]['val_accuracy']:f}" in text


def test_the_files_hold_the_epochs_they_are_named_for(tmp_path):
    result = run.train(tiny.job(tmp_path, save_period=1, epochs=3))
    states = {name: checkpoint.read(tmp_path / name).state for name in os.listdir(tmp_path)
              if name.endswith(".params")}
    assert {name: state["epoch"] for name, state in states.items()} == {
        "epoch-0001.params": 1, "epoch-0002.params": 2, "epoch-0003.params": 3, "last.params": 3,
        "best.params": result.best.epoch + 1}
    assert tiny.state_of(tmp_path / "last.params") == tiny.state_of(tmp_path / "epoch-0003.params")
    best = tmp_path / f"epoch-{result.best.epoch + 1:04d}.params"
    assert tiny.state_of(tmp_path / "best.params") == tiny.state_of(best)


def test_of_equal_epochs_the_first_is_the_best(tmp_path):
    result = run.train(tiny.job(tmp_path, batch_norm=False, lr=0., epochs=3))  # a net that stands still
    assert result.best.epoch == 0 and result.best.accuracy == result.last.accuracy
    assert checkpoint.read(tmp_path / folders.BEST).state["epoch"] == 1


def test_a_checkpoints_score_is_that_of_its_weights(tmp_path):
    job = tiny.job(tmp_path, tiny.TWO)
    run.train(job)
    for name in (folders.LAST, folders.BEST):
        net = tiny.ready(tiny.net(), 5)
        tiny.load_weights(tmp_path / name, net)
        found = tiny.score(net, job.score_batches, 10)
        assert checkpoint.read(tmp_path / name).score == {
            "images": 25, "accuracy": found.top1, "top5": found.top5, "loss": found.loss}


def test_the_rates_of_the_schedule_reach_the_optimizer(tmp_path, monkeypatch):
    rates = []
    step = Program.step

    def spied(program, *batch):
        sums = step(program, *batch)
        rates.append(program.trainer.learning_rate)
        return sums

    monkeypatch.setattr(Program, "step", spied)
    run.train(tiny.job(tmp_path, images=64, epochs=3, warmup_epochs=1, lr_decay_epochs=(2,)))
    assert rates == pytest.approx([0, .1 / 3, .2 / 3, .1] + 4 * [.1] + 4 * [.01])


def test_a_held_out_split_chooses_and_the_test_images_are_scored_once(tmp_path, monkeypatch):
    scored = []
    score = Program.score
    monkeypatch.setattr(Program, "score", lambda program, batches, *others:
                        scored.append(batches) or score(program, batches, *others))
    held_out = in_memory.EvalBatches(tiny.split(30, 4), 10)
    job = tiny.job(tmp_path, held_out=held_out, epochs=3)
    result = run.train(job)
    assert scored == [held_out] * 3 + [job.test_batches] * 2
    assert result.chosen_on == "held-out" and result.held_out["last"].images == 30
    for name, told in ((folders.LAST, result.last), (folders.BEST, result.best)):
        net = tiny.ready(tiny.net())
        tiny.load_weights(tmp_path / name, net)
        found = tiny.score(net, job.test_batches, 10)
        assert (told.accuracy, told.top5, told.loss, told.images) == (found.top1, found.top5, found.loss, 25)


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_no_bit(tmp_path, workers):
    run.train(tiny.job(tmp_path / "a"))
    run.train(tiny.job(tmp_path / "b", workers=workers))
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_another_seed_is_another_run(tmp_path):
    run.train(tiny.job(tmp_path / "a", seed=0))
    run.train(tiny.job(tmp_path / "b", seed=1))
    assert tiny.metrics_of(tmp_path / "a") != tiny.metrics_of(tmp_path / "b")


def test_another_forward_pass_and_another_update_reach_every_step_and_score(tmp_path):
    plain = run.train(tiny.job(tmp_path / "plain"))
    calls, updates = [], []

    def update_all(weights, grads, momenta, lr, momentum, wds, rescale_grad):
        updates.append(lr)
        for weight, grad, state, wd in zip(weights, grads, momenta, wds):
            mx.nd.nag_mom_update(weight, grad, state, out=weight, lr=lr, wd=wd, momentum=momentum,
                                 rescale_grad=rescale_grad)

    made = tiny.ready(tiny.net())
    job = tiny.job(tmp_path / "other", made=made, update_all=update_all,
                   forward=lambda x: calls.append(len(x)) or made(x))
    assert run.train(job).last == plain.last
    assert_same_run(tmp_path / "plain", tmp_path / "other")
    assert calls == 2 * (8 * [16] + 3 * [10]) and updates == pytest.approx(8 * [.1] + 8 * [.01])


def test_a_runs_type_reaches_its_trainer(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(program, "make_trainer", lambda net, recipe, *others: asked.append(others) or 1 / 0)
    team = Team("device")
    with pytest.raises(ZeroDivisionError):
        tiny.job(tmp_path, dtype="float16", team=team)
    assert asked == [("device", "float16", None, team)]


# Stopped and gone on with.

@pytest.mark.parametrize("contexts", [tiny.CPU, tiny.TWO])
def test_n_epochs_and_n_more_are_2n(tmp_path, contexts):
    run.train(tiny.job(tmp_path / "whole", contexts, epochs=4, lr_decay_epochs=(1, 3)))
    run.train(tiny.job(tmp_path / "halves", contexts, epochs=2, lr_decay_epochs=(1, 3)))
    run.train(tiny.job(tmp_path / "halves", contexts, epochs=4, lr_decay_epochs=(1, 3)),
              tmp_path / "halves" / folders.LAST)
    assert_same_run(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.parametrize("place, number, devices", [
    ((1, 5), signal.SIGTERM, 1), ((1, 5), signal.SIGINT, 2), ((0, 1), signal.SIGTERM, 2), ((1, 1), signal.SIGTERM, 1),
    ((0, 0), signal.SIGINT, 1)])
def test_a_stop_within_an_epoch_and_the_rest_are_the_whole(tmp_path, place, number, devices):
    contexts = tiny.TWO[:devices]
    how = {"epochs": 3, "images": 128 * devices}
    run.train(tiny.job(tmp_path / "whole", contexts, **how))
    with pytest.raises(run.Stopped) as caught:
        run.train(tiny.job(tmp_path / "parts", contexts, batches=stopped_at(place, number, devices), **how))
    assert caught.value.status == 128 + number
    folder = tmp_path / "parts"
    assert str(caught.value) == (
        f"stopped by {number.name} in epoch {place[0]} after step {place[1] + 1} of 8; everything is saved in "
        f"{folder / 'last.params'}: to resume, give the same command with --resume {folder}")
    state = checkpoint.read(folder / folders.LAST).state
    assert (state["epoch"], state["step"]) == (place[0], place[1] + 1)
    assert state["meter"]["images"] == (place[1] + 1) * 16 * devices
    assert len(tiny.metrics_of(folder)) == place[0]
    run.train(tiny.job(folder, contexts, **how), folder / folders.LAST)
    assert_same_run(tmp_path / "whole", folder)


def test_a_stop_in_the_last_step_of_an_epoch_scores_it_first(tmp_path):
    run.train(tiny.job(tmp_path / "whole"))
    with pytest.raises(run.Stopped, match="^stopped by SIGTERM before epoch 1; everything is saved in "):
        run.train(tiny.job(tmp_path / "parts", batches=stopped_at((0, 7))))
    assert len(tiny.metrics_of(tmp_path / "parts")) == 1
    run.train(tiny.job(tmp_path / "parts"), tmp_path / "parts" / folders.LAST)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_stop_at_the_very_end_changes_nothing(tmp_path):
    run.train(tiny.job(tmp_path / "whole"))
    run.train(tiny.job(tmp_path / "stopped", batches=stopped_at((1, 7))))
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_two_stops_one_after_the_other(tmp_path):
    run.train(tiny.job(tmp_path / "whole"))
    folder = tmp_path / "parts"
    with pytest.raises(run.Stopped):
        run.train(tiny.job(folder, batches=stopped_at((0, 2))))
    with pytest.raises(run.Stopped, match="in epoch 0 after step 6 of 8"):
        run.train(tiny.job(folder, batches=stopped_at((0, 5))), folder / folders.LAST)
    run.train(tiny.job(folder), folder / folders.LAST)
    assert_same_run(tmp_path / "whole", folder)


def test_the_handlers_of_signals_come_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    seen = []

    def look():
        seen.extend(signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT))

    job = tiny.job(tmp_path, epochs=1)
    job.batches = tiny.Hooked(job.batches, 0, 0, look)
    run.train(job)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert all(callable(handler) and handler not in before for handler in seen)


def test_a_second_signal_is_left_to_the_system(tmp_path):
    handlers = []
    job = tiny.job(tmp_path, epochs=1)

    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        handlers.append(signal.getsignal(signal.SIGTERM))

    job.batches = tiny.Hooked(job.batches, 0, 1, twice)
    with pytest.raises(run.Stopped):
        run.train(job)
    assert handlers == [signal.SIG_DFL]


def test_a_run_goes_on_from_an_earlier_epoch_and_its_metrics_with_it(tmp_path):
    run.train(tiny.job(tmp_path / "whole", epochs=3))
    folder = tmp_path / "again"
    run.train(tiny.job(folder, epochs=3, save_period=1))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "cut of')
    run.train(tiny.job(folder, epochs=3), folder / "epoch-0001.params")
    assert_same_run(tmp_path / "whole", folder)


def test_a_finished_run_that_goes_on_writes_its_result_again(tmp_path):
    first = run.train(tiny.job(tmp_path))
    (tmp_path / "result.json").unlink()
    again = run.train(tiny.job(tmp_path), tmp_path / folders.LAST)
    assert again == dataclasses.replace(first, environment=again.environment, resumed=1)
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match="^all 2 epochs are done, but .*metrics.jsonl does not have them"):
        run.train(tiny.job(tmp_path), tmp_path / folders.LAST)


# Checkpoints within an epoch.

def copies_of(job, name=folders.LAST):
    """Every state that a run writes to a file of this name, in order: list of (epoch, step, whole content)."""
    seen, path = [], job.directory / name

    def look():
        if path.exists():
            content = path.read_bytes()
            if not seen or seen[-1][2] != content:
                state = checkpoint.read(path).state
                seen.append((state["epoch"], state["step"], content))

    return look, seen


@pytest.mark.parametrize("contexts", [tiny.CPU, tiny.TWO])
def test_checkpoints_within_an_epoch_change_no_bit_and_each_goes_on_to_the_same_end(tmp_path, contexts, monkeypatch):
    how = {"contexts": contexts, "images": 128 * len(contexts), "mixup_alpha": .2, "label_smoothing": .1}
    run.train(tiny.job(tmp_path / "whole", **how))
    job = tiny.job(tmp_path / "often", save_interval=3, **how)
    look, seen = copies_of(job)
    written = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *arguments: (written(*arguments), look()))
    run.train(job)
    monkeypatch.setattr(checkpoint, "save", written)
    assert_same_run(tmp_path / "whole", tmp_path / "often")
    # Every third of eight steps, the end of the epoch before it is scored, and after it.
    assert [place[:2] for place in seen] == [(0, 3), (0, 6), (0, 8), (1, 0), (1, 3), (1, 6), (1, 8), (2, 0)]
    for epoch, step, content in seen:
        folder = tmp_path / f"{epoch}-{step}"
        folder.mkdir()
        (folder / folders.LAST).write_bytes(content)
        (folder / folders.BEST).write_bytes((tmp_path / "whole" / folders.BEST).read_bytes())  # epoch 0 was the best
        lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines(keepends=True)
        (folder / "metrics.jsonl").write_text("".join(lines[:epoch]))
        run.train(tiny.job(folder, save_interval=3, **how), folder / folders.LAST)
        assert_same_run(tmp_path / "whole", folder)


def test_no_checkpoint_is_written_within_an_epoch_unless_asked(tmp_path, monkeypatch):
    places = []
    written = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda path, *others: places.append(path.name) or written(path, *others))
    run.train(tiny.job(tmp_path, epochs=1))
    assert places == [folders.BEST, folders.LAST]


@pytest.mark.parametrize("changes", [{"mixup_alpha": .3}, {"label_smoothing": .1}, {"accumulate": 4}])
def test_every_way_of_training_goes_on_to_the_bit(tmp_path, changes):
    run.train(tiny.job(tmp_path / "plain"))
    run.train(tiny.job(tmp_path / "whole", **changes))
    with pytest.raises(run.Stopped):
        run.train(tiny.job(tmp_path / "parts", batches=stopped_at((1, 4)), **changes))
    run.train(tiny.job(tmp_path / "parts", **changes), tmp_path / "parts" / folders.LAST)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert tiny.metrics_of(tmp_path / "plain") != tiny.metrics_of(tmp_path / "whole")  # it does something


def test_the_last_epochs_are_not_mixed(tmp_path):
    for name, changes in (("both", {"mixup_alpha": .3}), ("one", {"mixup_alpha": .3, "mixup_off_epochs": 1})):
        run.train(tiny.job(tmp_path / name, **changes))
    both, one = (tiny.metrics_of(tmp_path / name) for name in ("both", "one"))
    assert both[0] == one[0] and both[1] != one[1]


def test_the_loss_scale_of_a_float16_run_goes_on(tmp_path, monkeypatch):
    make, built = program.make_trainer, []
    monkeypatch.setattr(program, "make_trainer", lambda net, recipe, kvstore, dtype, *others: make(
        net, recipe, kvstore, "float32", *others))  # a CPU has no float16; the scale is the same
    follow = LossScale.follow
    monkeypatch.setattr(LossScale, "follow", lambda scale, finite: built.append(scale) or follow(scale, finite))
    job = tiny.job(tmp_path, epochs=1, dtype="float16")
    monkeypatch.setattr(program, "finite_gradients", lambda *_: len(built) != 2)  # the third step overflows
    run.train(job)
    state = checkpoint.read(tmp_path / folders.LAST).state
    assert state["loss_scale"] == {"value": .5, "sound": 5, "left_out": 1}
    job = tiny.job(tmp_path, epochs=2, dtype="float16")
    run.train(job, tmp_path / folders.LAST)
    state = checkpoint.read(tmp_path / folders.LAST).state
    assert state["loss_scale"] == {"value": .5, "sound": 13, "left_out": 1}


def test_a_run_from_foreign_weights_enters_its_schedule_late(tmp_path):
    result = run.train(tiny.job(tmp_path, epochs=3, first_epoch=1, lr_decay_epochs=(1, 2)))
    assert [(record["epoch"], record["lr"]) for record in tiny.metrics_of(tmp_path)] == [
        (1, pytest.approx(.01)), (2, pytest.approx(.001))]
    assert result.last.epoch == 2 and result.experiment.first_epoch == 1


def test_a_run_that_entered_late_goes_on_with_its_history(tmp_path, caplog):
    run.train(tiny.job(tmp_path, epochs=2, first_epoch=1))
    run.train(tiny.job(tmp_path, epochs=3, first_epoch=1), tmp_path / folders.LAST)
    assert [record["epoch"] for record in tiny.metrics_of(tmp_path)] == [1, 2]
    assert "the history will lack" not in caplog.text
    (tmp_path / "metrics.jsonl").unlink()
    run.train(tiny.job(tmp_path, epochs=4, first_epoch=1), tmp_path / folders.LAST)
    assert "has only 0 of the 2 epochs before the checkpoint" in caplog.text


def test_a_step_that_an_epoch_does_not_have_is_refused(tmp_path):
    with pytest.raises(run.Stopped):
        run.train(tiny.job(tmp_path, batches=tiny.Hooked(in_memory.TrainBatches(tiny.split(128), 16, 0), 0, 6,
                                                         lambda: os.kill(os.getpid(), signal.SIGTERM))))
    with pytest.raises(InputError, match="is at step [67] of an epoch, which has 4 here: it is not a checkpoint of"):
        run.train(tiny.job(tmp_path, batches=in_memory.TrainBatches(tiny.split(64), 16, 0)), tmp_path / folders.LAST)


# Data that cannot be read.

def broken_at(place, error):
    def fail():
        raise error
    return tiny.Hooked(in_memory.TrainBatches(tiny.split(128), 16, 0), *place, fail)


@pytest.mark.parametrize("error, said", [(OSError(5, "Input/output error"), "a batch cannot be read (OSError: "),
                                         (InputError("a.JPEG is damaged"), "a.JPEG is damaged;")])
def test_a_batch_that_cannot_be_read_ends_in_a_sentence_and_the_steps_before_it_are_kept(tmp_path, error, said):
    run.train(tiny.job(tmp_path / "whole"))
    folder = tmp_path / "parts"
    with pytest.raises(InputError) as caught:
        run.train(tiny.job(folder, batches=broken_at((1, 5), error)))
    assert str(caught.value).startswith(f"epoch 1, step 5: {said}") and "\n" not in str(caught.value)
    assert str(caught.value).endswith(f"; the last good checkpoint is {folder / folders.LAST}")
    assert checkpoint.read(folder / folders.LAST).state["step"] == 5
    run.train(tiny.job(folder), folder / folders.LAST)
    assert_same_run(tmp_path / "whole", folder)


def test_a_very_first_batch_that_cannot_be_read_leaves_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match="^epoch 0, step 0: .*gone.*there is no checkpoint yet$"):
        run.train(tiny.job(tmp_path, batches=broken_at((0, 0), OSError("gone"))))
    assert not (tmp_path / folders.LAST).exists()


def test_a_lack_of_memory_keeps_the_last_checkpoint_and_does_not_wait_for_the_device(tmp_path, monkeypatch):
    waits = []

    def refused():
        monkeypatch.setattr(mx.nd, "waitall", lambda: waits.append(1))  # the real one would not come back
        raise mx.MXNetError("MXNetError: Failed to allocate CPU Memory")

    batches = tiny.Hooked(in_memory.TrainBatches(tiny.split(128), 16, 0), 1, 3, refused)
    with pytest.raises(OutOfMemory, match=r"^there is not enough memory \(MXNetError: Failed to allocate CPU Memory\): "
                       r".*; the last good checkpoint is .*last\.params$"):
        run.train(tiny.job(tmp_path, batches=batches))
    assert not waits and checkpoint.read(tmp_path / folders.LAST).state["epoch"] == 1


STUCK = """
import ctypes, sys, threading
from engine import signals

libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
with signals.StopSignal(float(sys.argv[1])):
    threading.Timer(.2, lambda: print("ready", flush=True)).start()
    for _ in range(2):
        libc.pthread_mutex_lock(lock)  # the second time for ever, and no signal ends that
"""


@pytest.mark.parametrize("patience, again, said", [
    ("600", True, ""),
    (".5", False, "the step under way did not end in the 0.5 s since SIGTERM: left without saving it\n")])
def test_a_step_that_never_ends_does_not_keep_the_process(patience, again, said):
    with subprocess.Popen([sys.executable, "-c", STUCK, patience], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 60
        while again and process.poll() is None and time.monotonic() < end:  # two that come at once may count as one
            time.sleep(.1)
            process.send_signal(signal.SIGTERM)
        try:
            assert (process.wait(60), process.stderr.read()) == (128 + signal.SIGTERM, said)
        finally:
            process.kill()


@pytest.mark.parametrize("steps, interval, lines", [(3, 100, [3]), (1, 1, [1]), (4, 1, [1, 2, 3, 4]), (4, 3, [3])])
def test_every_epoch_has_a_line_and_every_line_an_accuracy(tmp_path, caplog, steps, interval, lines):
    with caplog.at_level(logging.INFO):
        run.train(tiny.job(tmp_path, images=16 * steps, log_interval=interval))
    found = [record.args for record in caplog.records if record.msg.startswith("Epoch[%d] Batch [%d]")]
    assert [(epoch, step) for epoch, step, *_ in found] == [(epoch, step) for epoch in (0, 1) for step in lines]
    assert all(0 <= accuracy <= 1 for _, _, _, accuracy, _ in found)


def test_what_is_left_is_told_after_every_epoch_but_the_last(tmp_path, caplog, monkeypatch):
    clock = itertools.count(step=1200)  # seconds: twenty minutes pass from one look to the next, four looks an epoch
    monkeypatch.setattr(run, "time", SimpleNamespace(time=lambda: next(clock), monotonic=time.monotonic))
    with caplog.at_level(logging.INFO):
        run.train(tiny.job(tmp_path, epochs=3))
    told = [record.getMessage() for record in caplog.records if record.getMessage().endswith(" left")]
    assert told == ["about 2.0 h left", "about 60 min left"]


# A terminal that goes away.

def test_sighup_stops_a_run_like_sigterm_unless_it_was_started_to_ignore_it(tmp_path):
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(run.Stopped, match="^stopped by SIGHUP in epoch 0 after step 3 of 8") as caught:
            run.train(tiny.job(tmp_path / "a", batches=stopped_at((0, 2), signal.SIGHUP)))
        assert caught.value.status == 128 + signal.SIGHUP
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does it
        run.train(tiny.job(tmp_path / "b", batches=stopped_at((0, 2), signal.SIGHUP)))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)


CHILD = """
import os, sys, time
sys.path[:0] = [{root!r}, {tests!r}]
from support import runtime
runtime.prepare()
import tiny
from pathlib import Path
from engine import run, runlog
from engine.data import in_memory
runlog.start_logging()


def wait():
    print("WAITING", flush=True)
    while os.isatty(0):
        time.sleep(.02)
    time.sleep(.2)  # the signal comes with the end of the terminal


batches = tiny.Hooked(in_memory.TrainBatches(tiny.split(128), 16, 0), 1, 3, wait)
try:
    run.train(tiny.job(Path({folder!r}), batches=batches, log_interval=1))
except run.Stopped as stop:
    runlog.log.warning("%s", stop)
    sys.exit(stop.status)
"""


def test_a_terminal_that_is_closed_leaves_the_run_saved(tmp_path):
    root = Path(__file__).resolve().parent.parent
    code = CHILD.format(root=str(root), tests=str(root / "tests"), folder=str(tmp_path))
    child, terminal = pty.fork()
    if not child:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which a caller under nohup ignores
        os.execv(sys.executable, [sys.executable, "-c", code])
    seen = b""
    while b"WAITING" not in seen:
        seen += os.read(terminal, 1 << 16)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 128 + signal.SIGHUP
    state = checkpoint.read(tmp_path / folders.LAST).state
    assert (state["epoch"], state["step"]) == (1, 4)


# Divergence.

def test_divergence_within_an_epoch_keeps_the_last_good_checkpoint(tmp_path):
    job = tiny.job(tmp_path, epochs=3, lr_decay=1e30, lr_decay_epochs=(1,))
    with pytest.raises(InputError) as caught:
        run.train(job)
    assert str(caught.value) == (
        "the training diverged in epoch 1: the loss is no longer a finite number; the last good checkpoint is "
        f"{tmp_path / 'last.params'}. Try a smaller --lr, or a warmup (--warmup-epochs)")
    assert checkpoint.read(tmp_path / folders.LAST).state["epoch"] == 1
    assert len(tiny.metrics_of(tmp_path)) == 1 and not (tmp_path / "result.json").exists()
    run.train(tiny.job(tmp_path, epochs=3), tmp_path / folders.LAST)  # whole enough to go on from
    for value in tiny.numbers_of(job.program.net).values():
        assert value.dtype == np.float32


def test_divergence_before_the_first_checkpoint_says_so(tmp_path):
    with pytest.raises(InputError, match="^the training diverged in epoch 0: .*; there is no checkpoint yet. Try "):
        run.train(tiny.job(tmp_path, lr=1e30))
    assert not (tmp_path / folders.LAST).exists()


@pytest.mark.parametrize("step", [3, 7])
def test_weights_that_break_are_neither_scored_nor_saved(tmp_path, monkeypatch, step):
    rates = steps.learning_rate
    monkeypatch.setattr(steps, "learning_rate", lambda recipe, *place:
                        math.inf if place == (1, step, 8) else rates(recipe, *place))
    add = steps.Meter.add
    monkeypatch.setattr(steps.Meter, "add", lambda meter, *_: add(meter, 16, 16., 1))  # no loss shows it
    with pytest.raises(InputError, match="^the training diverged in epoch 1: .* is no longer finite; the last good "):
        run.train(tiny.job(tmp_path))
    assert checkpoint.read(tmp_path / folders.LAST).state["epoch"] == 1
    assert len(tiny.metrics_of(tmp_path)) == 1


# Folders.

def test_a_folder_without_a_name_gets_a_free_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [folders.new_directory(None, "x") for _ in range(3)]
    assert [str(path) for path in made] == ["runs/x", "runs/x-2", "runs/x-3"] and made[2].is_dir()


@pytest.mark.parametrize("file", ["last.params", "best.params", "metrics.jsonl"])
def test_a_folder_with_a_run_is_not_overwritten(tmp_path, file):
    assert folders.new_directory(tmp_path, "x") == tmp_path  # a folder that exists, without a run
    (tmp_path / file).write_text("1")
    advice = "resume it with --resume" if file == folders.LAST else \
        "its last.params is gone: resume another of its checkpoints with --resume FILE"
    with pytest.raises(InputError, match=f"holds a run already: {advice}, or give another --save-dir"):
        folders.new_directory(tmp_path, "x")


def test_a_run_that_was_killed_before_it_saved_anything_does_not_block_its_folder(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "train.log").write_text("going")
    assert folders.new_directory(tmp_path, "x") == tmp_path


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for place, reason in (("file", "File exists"), ("file/sub", "Not a directory")):
        with pytest.raises(InputError, match=f"{place} cannot be made: {reason}; give another --save-dir"):
            folders.new_directory(tmp_path / place, "x")


def test_the_newest_run_is_the_last_numbered_one_with_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folders.newest_directory("x") is None
    first, second, _ = (folders.new_directory(None, "x") for _ in range(3))
    assert folders.newest_directory("x") is None
    (first / folders.LAST).touch()
    assert folders.newest_directory("x") == first
    (second / folders.LAST).touch()
    assert folders.newest_directory("x") == second  # and not the third, which has saved nothing


def test_folders_of_nobody_are_one_sentence():
    for call in (lambda: folders.new_directory("~nobody-of-this-name/x", "x"),
                 lambda: folders.checkpoint_to_resume("~nobody-of-this-name/x"),
                 lambda: folders.checkpoint_to_resume("x" * 5000)):
        with pytest.raises(InputError, match="write the path in full|File name too long"):
            call()


def test_what_resume_names(tmp_path):
    with pytest.raises(InputError, match="^--resume: there is no checkpoint .*last.params; name a run's folder"):
        folders.checkpoint_to_resume(tmp_path)
    with pytest.raises(InputError, match="^--resume: there is no checkpoint .*none"):
        folders.checkpoint_to_resume(tmp_path / "none")
    for name in ("last.params", "epoch-0002.params"):
        (tmp_path / name).touch()
    assert folders.checkpoint_to_resume(str(tmp_path)) == tmp_path / "last.params"
    assert folders.checkpoint_to_resume(tmp_path / "epoch-0002.params") == tmp_path / "epoch-0002.params"


# A folder in which a run has ended before its first checkpoint.

@pytest.mark.parametrize("epochs, best, taken", [(0, False, False), (1, False, False), (1, True, False),
                                                 (2, True, True), (0, True, True)])
def test_a_run_that_ended_within_its_first_epoch_is_begun_anew_by_resume(tmp_path, epochs, best, taken):
    fields = dict.fromkeys(runlog.METRICS, 0)
    (tmp_path / folders.METRICS).write_text("".join(json.dumps({**fields, "epoch": epoch}) + "\n"
                                                for epoch in range(epochs)))
    if best:
        (tmp_path / "best.params").write_bytes(b"x")
    for resumed in (True, False):
        if taken or (not resumed and (epochs or best)):
            with pytest.raises(InputError, match="holds a run already: its last.params is gone"):
                folders.new_directory(tmp_path, "x", resumed)
        else:
            assert folders.new_directory(tmp_path, "x", resumed) == tmp_path
