"""The runner, with real trainings on a few images: stopped, killed, gone on with, failed and never done twice."""
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import test_runlog
import tiny

from engine import runlog
from engine.recipe import CIFAR_PAPER
from reproduce import grid, ledger, plan, runner
from support.lock import take

ROOT = Path(__file__).resolve().parent.parent
RELU, ATAC = (grid.cell(grid.CIFAR10, unit, 1) for unit in ("relu", "atac"))
EPOCHS = 20


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    tiny.cifar10(folder / "data", train=128)  # one step an epoch
    return folder


def options(place, **changes):
    """Work and ledger in the folder `place`."""
    for name in ("runs", "results"):
        (place / name).mkdir(exist_ok=True)
    return plan.Options(**{"data_dir": str(place / "data"), "work": place / "runs", "results": place / "results",
                             **changes})


def folder_of(run, made):
    data, _ = plan.find_data([run], made)
    return made.work / grid.name(run, data[run.data_name]["sha256"])


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(.02)


def epochs_in(folder):
    path = folder / "metrics.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def unlocked(folder):
    """Whether neither a script nor a training holds the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = take(folder / "lock")
    if lock is not None:
        os.close(lock)
    return lock is not None


def no_training(*_, **__):
    raise AssertionError("a training was started")


@pytest.fixture(scope="module")
def interrupted(place):
    """A run stopped by SIGTERM, then killed with its script, then finished; returns what was seen on the way."""
    made, run = options(place), grid.run(RELU, EPOCHS, 0)
    folder = folder_of(run, made)

    def stop():
        until(lambda: epochs_in(folder) >= 1)
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=stop).start()
    trainings = runner.Grid([run], made)
    with pytest.raises(runner.Stopped) as stopped:
        trainings.train()
    after_stop = plan.progress_of(folder), trainings.running

    script = subprocess.Popen([sys.executable, "-m", "reproduce", "run", "table3", "--only", "cifar10/relu/b1",
                               "--epochs", str(EPOCHS), "--gpus", "", "--data-dir", made.data_dir, "--runs",
                               str(made.work), "--results", str(made.results)], cwd=ROOT, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True)
    until(lambda: epochs_in(folder) > after_stop[0])
    held = not unlocked(folder)
    script.kill()
    script.communicate()
    until(lambda: unlocked(folder))
    after_kill = plan.progress_of(folder)

    runner.Grid([run], made).train()
    return {"run": run, "folder": folder, "stopped": stopped.value, "after_stop": after_stop, "held": held,
            "after_kill": after_kill}


def test_a_stopped_script_has_saved_its_trainings(interrupted):
    assert interrupted["stopped"].status == 128 + signal.SIGTERM
    epoch, running = interrupted["after_stop"]
    assert 1 <= epoch < EPOCHS and not running


def test_a_killed_script_takes_its_trainings_with_it(interrupted):
    assert interrupted["held"], "nothing held the folder while the script ran"
    epoch = interrupted["after_kill"]
    assert interrupted["after_stop"][0] <= epoch
    # Once for the script that was stopped, once for the one that was killed.
    assert (interrupted["folder"] / "train.log").read_text().count("stopped by SIGTERM") == 2 and epoch < EPOCHS


COUNTS_SIGTERM = """
import signal, sys, time
signals = []
def told(*_):
    signals.append(1)
    print("told", flush=True)
signal.signal(signal.SIGTERM, told)
print("ready", flush=True)
end = time.monotonic() + 60
while len(signals) < {0} and time.monotonic() < end:
    time.sleep(.02)
time.sleep({1})  # in which there might be more
sys.exit(len(signals))
"""


def supervised(source):
    """A Python program under child.py, that has said it is ready."""
    child = subprocess.Popen([sys.executable, "-m", "reproduce.child", str(os.getpid()), sys.executable, "-c", source],
                             cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize("sent, told", [([signal.SIGHUP] * 3, 1), ([signal.SIGTERM] * 2, 2)],
                         ids=["death of the parent", "asked twice"])
def test_the_parents_death_is_told_once(sent, told):
    # A parent with threads dies in pieces: the kernel may send its signal for each. A second SIGTERM would kill.
    child = supervised(COUNTS_SIGTERM.format(told, 2 - told))
    for place, number in enumerate(sent):
        child.send_signal(number)
        if place < told:
            assert child.stdout.readline() == "told\n"
    child.communicate()
    assert child.returncode == told


def test_no_training_outlives_its_supervisor():
    child = supervised("import time; print('ready', flush=True); time.sleep(60)")
    started = time.monotonic()
    child.kill()
    assert child.stdout.read() == "" and time.monotonic() - started < 30  # ends when the sleeper does
    child.wait()


def test_what_was_interrupted_is_gone_on_from_and_recorded(interrupted, place):
    folder, run = interrupted["folder"], interrupted["run"]
    metrics = runlog.read_metrics(folder / "metrics.jsonl")
    assert [record["epoch"] for record in metrics] == list(range(EPOCHS))
    record, = ledger.read(place / "results")
    result = record.result
    assert record.id == folder.name and record.experiment == run
    assert result.last.accuracy == metrics[-1]["val_accuracy"] and record.epochs == EPOCHS
    assert result.data["train_images"] == 128 and result.data["test_images"] == 40
    assert record.files["last.params"] == ledger.sha256(folder / "last.params")
    kept = ledger.folder_of(record.id, place / "results")
    assert record.files["train.log"] == ledger.sha256(kept / "train.log")
    assert result.resumed == 2 and result.chosen_on == "test" and result.environment["processor"]


def test_records_name_no_folder_of_the_machine(interrupted, place):
    # The runs' folder is the test's own here; in runs/grid it is a relative path too.
    record, = ledger.read(place / "results")
    text = json.dumps(record.as_json())
    assert str(ROOT) not in text and str(place / "data") not in text
    run = interrupted["run"]
    words = runner.command_of(run, grid.WORK / "name", None, plan.Options(data_dir="/somewhere"))
    assert not any(word.startswith("/") for word in words)


def test_a_finished_run_is_not_run_again(interrupted, place, monkeypatch):
    monkeypatch.setattr(runner.subprocess, "Popen", no_training)
    trainings = runner.Grid([interrupted["run"]], options(place))
    trainings.train()
    assert (trainings.done, trainings.failures) == (1, [])


def test_a_training_that_ended_unrecorded_is_recorded(interrupted, place, monkeypatch, tmp_path):
    monkeypatch.setattr(runner.subprocess, "Popen", no_training)
    made = options(place, results=tmp_path / "results")
    trainings = runner.Grid([interrupted["run"]], made)
    trainings.train()
    assert (trainings.done, trainings.failures) == (1, [])
    assert ledger.read(made.results) == ledger.read(place / "results")


def test_a_record_is_never_replaced_by_another_run(interrupted, place, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(place / "results", results)
    copy = tmp_path / "again"
    shutil.copytree(interrupted["folder"], copy, symlinks=True)
    assert ledger.add(copy, results).id == interrupted["folder"].name
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    lines[0]["train_loss"] += 1
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(runner.InputError, match="already holds the record of another run"):
        ledger.add(copy, results)
    lines[-1]["val_accuracy"] = .99
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(runner.InputError, match="are not of the same run"):
        ledger.add(copy, results)


def test_a_failed_run_stops_no_other(place, monkeypatch, tmp_path, caplog):
    made = options(tmp_path, data_dir=str(place / "data"), jobs=2)
    bad, good = grid.run(ATAC, 1, 1), grid.run(RELU, 1, 1)
    right = runner.command_of
    monkeypatch.setattr(runner, "command_of", lambda run, *rest: right(run, *rest) + (
        ["--lr", "never"] if run == bad else []))
    folder = folder_of(good, made)
    folder.mkdir()
    first, = test_runlog.records(1)
    (folder / "metrics.jsonl").write_text(json.dumps(first) + "\n")  # left by a kill within the first epoch
    absent = grid.run(grid.cell(grid.COARSE, "relu", 1), 1, 0)
    monkeypatch.setattr(plan.cifar, "download", lambda *_: (_ for _ in ()).throw(runner.InputError("no network")))
    with caplog.at_level("INFO"):
        trainings = runner.Grid([bad, absent, good], made)
        trainings.train()
    assert trainings.done == 1 and ledger.read(made.results)[0].cell == RELU
    reasons = dict(trainings.failures)
    assert "'never' is not a finite number" in reasons[bad] and "exit status 2" in reasons[bad]
    assert "holds CIFAR-10, not CIFAR-100" in reasons[absent]
    ended = [line for line in caplog.messages if "started" not in line and "1 epoch, seed" in line]
    assert len(ended) == 3 and sum("FAILED" in line for line in ended) == 2


def test_data_that_are_missing_are_said_once_and_before_anything_else(place, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(runner.subprocess, "Popen", no_training)
    monkeypatch.setattr(plan.cifar, "download", lambda *_: (_ for _ in ()).throw(runner.InputError("no network")))
    runs = [grid.run(grid.cell(task, "relu", b), 1, 0) for task in grid.TITLES for b in (1, 2)]
    with pytest.raises(runner.InputError, match="that folder does not exist.*CIFAR-10 could not be downloaded"):
        runner.Grid(runs, options(tmp_path, data_dir="no such folder")).train()
    assert not caplog.messages
    trainings = runner.Grid(runs[2:] + [grid.run(RELU, 1, 0)], options(tmp_path, data_dir=str(place / "data")))
    with pytest.raises(AssertionError, match="a training was started"):
        trainings.train()
    said, = (line for line in caplog.messages if "FAILED" in line)
    assert said.startswith("4 runs, the first is cifar100-coarse-b1-relu, 1 epoch, seed 0: FAILED: ")
    assert "holds CIFAR-10, not CIFAR-100" in said and "name the folder of CIFAR-100 with --data-dir" in said


@pytest.mark.parametrize("status, said", [
    (137, "killed by signal 9 (out of memory?); the same command resumes it from its checkpoint; log: "),
    (-9, "killed by signal 9 (out of memory?); "), (139, "killed by signal 11 (SIGSEGV); "),
    (134, "killed by signal 6 (SIGABRT); "), (1, "the last words (exit status 1; "), (255, "the last words (exit"),
    (143, "the last words (exit status 143; ")])
def test_why_a_training_failed(tmp_path, status, said):
    (tmp_path / "log").write_text("[Epoch 3] validation: err-top1=0.2\nthe last words\n\n")
    assert runner.ending(status, tmp_path / "log").startswith(said)


def test_a_training_that_is_killed_is_not_reported_with_its_last_line(place, monkeypatch, tmp_path):
    code = "import os, signal; print('[Epoch 3] validation'); os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(runner, "command_of", lambda *_: ["-c", code])
    trainings = runner.Grid([grid.run(RELU, 1, 1)], options(tmp_path, data_dir=str(place / "data")))
    trainings.train()
    (_, reason), = trainings.failures
    assert reason.startswith("killed by signal 9 (out of memory?)")


def test_a_ledger_that_cannot_be_written_is_said_at_the_start(tmp_path):
    (tmp_path / "results").write_bytes(b"")  # for root, too
    with pytest.raises(runner.InputError, match=f"{tmp_path / 'results'} cannot be written: "):
        ledger.require_writable(tmp_path / "results")
    ledger.require_writable(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").rglob("*")] == ["runs"]


def test_a_run_that_another_script_trains_is_waited_for(place, monkeypatch):
    monkeypatch.setattr(runner.subprocess, "Popen", no_training)
    made, run = options(place), grid.run(ATAC, 2, 0)
    folder_of(run, made).mkdir(parents=True, exist_ok=True)
    lock = take(folder_of(run, made) / "lock")
    trainings = runner.Grid([run], made)
    trainings.find_data()
    trainings.start_what_fits()
    assert trainings.waiting == [run] and not trainings.running
    os.close(lock)
    with pytest.raises(AssertionError, match="a training was started"):
        trainings.start_what_fits()


def test_the_plan_names_every_run_and_its_time(interrupted, place):
    runs = [interrupted["run"], grid.run(ATAC, EPOCHS, 0), grid.run(grid.cell(grid.COARSE, "relu", 1), 3, 0)]
    text = plan.text(runs, options(place, jobs=2))
    assert f"cifar10-b1-relu, {EPOCHS} epochs, seed 0: finished, in the ledger" in text
    assert f"cifar10-b1-atac, {EPOCHS} epochs, seed 0: to run, about " in text
    assert "cifar100-coarse-b1-relu, 3 epochs, seed 0: to run as soon as its data is there, about " in text
    assert text.count("holds CIFAR-10, not CIFAR-100") == 1
    assert "3 runs: 1 finished, 2 to do, 2 at a time on the CPU" in text
    assert "the ledger's runs on this kind of hardware" in text
    empty = plan.text([grid.run(ATAC, 3, 0)], options(place, results=place / "nothing"))
    assert "no estimate: the ledger has no run yet" in empty


def a_record(processor="A", seconds=100., gpus=(), model="atac_resnet20_v2", images=(900, 300)):
    run = tiny.experiment(model, CIFAR_PAPER.scaled(10))
    result = SimpleNamespace(seconds=seconds, environment={"processor": processor, "gpus": list(gpus)},
                             data={"train_images": images[0], "test_images": images[1]})
    return SimpleNamespace(experiment=run, epochs=10, result=result, smoke=images[0] < grid.WHOLE)


def test_speeds(monkeypatch):
    def estimate(cell, records, on_gpu=False):
        chosen, hardware = plan.records_for_speed(records, on_gpu)
        return plan.epoch_seconds(chosen, cell, {"train_images": 1800, "test_images": 600}), hardware

    monkeypatch.setattr(plan.system, "processor", lambda: "A")
    seconds, hardware = estimate(ATAC, [a_record(), a_record("B", 700.)])
    assert seconds == pytest.approx(20)  # twice the images, of the same net on this processor
    relu, _ = estimate(RELU, [a_record(), a_record("B", 700.)])
    assert 10 < relu < 20 and "this kind" in hardware  # by its multiply-adds
    seconds, hardware = estimate(ATAC, [a_record("B", 700.)])
    assert seconds == pytest.approx(140) and "OTHER hardware (B)" in hardware
    monkeypatch.setattr(plan.runlog, "gpu_names", lambda: ["G"])
    seconds, _ = estimate(ATAC, [a_record(), a_record(gpus=["G"], seconds=1.)], on_gpu=True)
    assert seconds == pytest.approx(.2)
    assert estimate(ATAC, []) == (None, "OTHER hardware ()")


def test_the_speed_of_a_smoke_run_counts_only_where_there_is_no_other():
    whole = a_record(seconds=6000., images=(50_000, 10_000))
    assert plan.epoch_seconds([a_record(seconds=900.), whole], ATAC, plan.OFFICIAL) == pytest.approx(600)
    assert plan.epoch_seconds([a_record()], ATAC, plan.OFFICIAL) > 500


def test_jobs_on_the_cpu_share_its_cores(place, monkeypatch, tmp_path):
    given = []

    def note(command, env, **_):
        given.append(env["OMP_NUM_THREADS"])
        raise OSError(12, "no memory")

    monkeypatch.setattr(runner.subprocess, "Popen", note)
    monkeypatch.setattr(runner.threads, "usable_cores", lambda: 8)
    for jobs, threads in ((1, "8"), (2, "8"), (4, "8"), (4, "1")):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        made = options(tmp_path, data_dir=str(place / "data"), jobs=jobs)
        trainings = runner.Grid([grid.run(RELU, 1, 0)], made)
        trainings.find_data()
        trainings.start_what_fits()
        (_, reason), = trainings.failures
        assert "cannot be started: [Errno 12] no memory" in reason and len(trainings.free) == jobs
    assert given == ["8", "4", "2", "1"]


def test_runs_at_a_time_follow_gpus_cores_and_runs(monkeypatch):
    monkeypatch.setattr(plan, "usable_cores", lambda: 8)
    for gpus, runs, jobs in (((0, 1), 9, 2), ((), 9, 8), ((), 3, 3), ((), 0, 1)):
        assert plan.default_jobs(gpus, [None] * runs) == jobs


def test_jobs_share_the_gpus():
    assert runner.Grid([], plan.Options(gpus=(2, 3), jobs=3)).free == [2, 3, 2]
    assert runner.Grid([], plan.Options(jobs=2)).free == [None, None]


def test_gpu_names_come_from_the_driver(monkeypatch, tmp_path):
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\nprintf 'Model X\\nModel X\\n'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runlog.gpu_names() == ["Model X"]
    fake.unlink()
    assert runlog.gpu_names() == []
