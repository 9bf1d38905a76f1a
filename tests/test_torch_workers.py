"""Several workers in PyTorch, under torchrun on 127.0.0.1: they train as one does, are stopped, killed and resumed."""
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny

torch = pytest.importorskip("torch", reason="PyTorch is not installed (requirements-torch.txt)")

import torch_team_program  # noqa: E402

from backend import gluon  # noqa: E402
from backend import torch as backend  # noqa: E402
from support.errors import InputError  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


def torchrun(folder, *command):
    """Two workers on this machine, as a process under way."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *map(str, command)], cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """What torch_team_program.py found in each of two workers."""
    folder = tmp_path_factory.mktemp("workers")
    job = torchrun(folder, ROOT / "tests" / "torch_team_program.py", folder)
    said = job.communicate(timeout=240)[0]
    assert job.returncode == 0, said
    return [np.load(folder / f"{rank}.npz") for rank in range(2)]


def part_of(found, name):
    return {key[len(name) + 1:]: found[key] for key in found.files if key.startswith(f"{name}/")}


def test_what_the_workers_do_together(workers):
    for found in workers:
        assert found["agreed"] == "å0" and found["any"].tolist() == [True, False]
        assert found["each"].tobytes() == np.array([[0, np.pi], [1, np.pi]], np.float32).tobytes()
        assert found["total"].tolist() == [2e9 + 3, 2e-300, -.2] and found["scalar"] == 3
        assert str(found["refused"]).startswith("the workers have different nets")
        assert found["threads"] == 0  # none is left that could abort the process at its end


@pytest.mark.parametrize("name, changes", [("plain", {}), ("parts", {"accumulate": 2})])
def test_two_workers_are_one_on_the_joined_batch(workers, name, changes):
    """Also if they begin with other weights: those of worker 0 count."""
    expected = torch_team_program.trained(backend.join("device"), False, **changes)
    first, second = (part_of(found, name) for found in workers)
    assert set(first) == set(expected)
    for key, value in expected.items():
        assert (first[key] == second[key]).all(), key
        if key != "sums":
            np.testing.assert_allclose(first[key], value, rtol=0, atol=1e-6, err_msg=key)
    assert first["sums"][[0, 2]].tolist() == expected["sums"][[0, 2]].tolist()
    assert first["sums"][1] == pytest.approx(expected["sums"][1], rel=1e-6)


def test_each_worker_keeps_its_own_statistics_and_their_mean_is_scored(workers):
    first, second = (part_of(found, "norm") for found in workers)
    names = {key for key in first if "running" in key and "/" not in key}
    assert names == {"1.running_mean", "1.running_var"}
    for key in (key for key in first if not key.startswith("own/")):
        assert (first[key] == second[key]).all(), key
    for name in names:
        own = [first[f"running/{rank}/{name}"] for rank in range(2)]
        assert (own[0] != own[1]).all() and (first[name] == np.mean(own, axis=0)).all()
        for rank, found in enumerate((first, second)):  # after restore
            assert (found[f"own/{name}"] == own[rank]).all()
    assert first["score"][0] == torch_team_program.TESTS


def test_they_are_the_two_devices_of_mxnet(workers):
    recipe = tiny.recipe(batch_size=8)
    program = gluon.prepare(tiny.net(), tiny.experiment(recipe=recipe, devices=2), tiny.TWO, gluon.join("device"),
                            fused="off")
    batches = torch_team_program.in_memory.TrainBatches(tiny.split(torch_team_program.IMAGES), 16, 0)
    list(program.steps(torch_team_program.Steps(batches, recipe, 0, 0), torch_team_program.Meter()))
    expected, found = program.arrays(), part_of(workers[0], "norm")
    assert set(expected) == {name for name in found if not name.startswith(("own/", "sums", "score"))}
    for name, value in expected.items():
        if "running_var" not in name:  # biased here, not there (docs/FIDELITY.md)
            np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


# Whole runs.

def command(data, *arguments):
    return [ROOT / "train_cifar.py", "--backend", "torch", "--gpus", "", *tiny.TINY_NET, "--data-dir", data,
            "--val-split", "40", "--batch-size", "4", "--num-epochs", "3", "--lr", ".01", "--save-interval", "1",
            "--no-tune", *arguments]


def workers_of(job):
    """The processes of a torchrun that train, in the order of their ranks."""
    found = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and (folder / "stat").read_text().rpartition(")")[2].split()[1] == str(job.pid):
                variables = (folder / "environ").read_bytes().split(b"\0")
                found.update({int(each[5:]): int(folder.name) for each in variables if each.startswith(b"RANK=")})
    return [found[rank] for rank in sorted(found)]


def until(job, condition):
    end = time.monotonic() + 120
    while not condition():
        assert job.poll() is None and time.monotonic() < end, job.communicate()[0]
        time.sleep(.02)


def test_a_run_is_stopped_and_killed_and_comes_to_the_same_bits(tmp_path):
    data, run = tiny.cifar10(tmp_path / "data", train=440, test=30), tmp_path / "run"
    whole = torchrun(tmp_path, *command(data, "--save-dir", "whole"))
    said = whole.communicate(timeout=240)[0]
    assert whole.returncode == 0, said
    assert "global batch 8 (4 on each of 2 devices, 1 in each of 2 workers), 50 steps an epoch" in said
    assert said.count("global batch") == 1  # the first worker speaks for all

    job = torchrun(tmp_path, *command(data, "--save-dir", "run"))
    until(job, (run / "last.params").exists)
    job.send_signal(signal.SIGTERM)
    said = job.communicate(timeout=60)[0]
    stops = {line for line in said.splitlines() if "stopped by SIGTERM" in line}
    assert job.returncode != 0 and len(stops) == 1 and said.count("stopped by SIGTERM") == 2, said  # at the same step

    job = torchrun(tmp_path, *command(data, "--resume", "run"))
    until(job, lambda: (run / "metrics.jsonl").read_text().count("\n") == 1)
    left = workers_of(job)
    os.kill(left[1], signal.SIGKILL)
    started = time.monotonic()
    said = job.communicate(timeout=60)[0]
    assert job.returncode != 0 and time.monotonic() - started < 60
    assert "exitcode  : -9" in said, said
    assert len(left) == 2 and not any(Path(f"/proc/{process}").exists() for process in left)

    job = torchrun(tmp_path, *command(data, "--resume", "run"))
    said = job.communicate(timeout=240)[0]
    assert job.returncode == 0, said
    for name in ("last.params", "best.params"):
        assert tiny.state_of(run / name) == tiny.state_of(tmp_path / "whole" / name)
    records = tiny.metrics_of(run)
    assert records == tiny.metrics_of(tmp_path / "whole")
    assert {(record["train_images"], record["val_images"]) for record in records} == {(400, 40)}
    result, expected = (json.loads((folder / "result.json").read_text()) for folder in (run, tmp_path / "whole"))
    assert result["best"] == expected["best"] and result["last"]["images"] == 30 and result["resumed"] == 2


# Refusals.

def test_an_environment_that_torchrun_has_not_made_is_a_sentence(monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError, match="^RANK and WORLD_SIZE .* and MASTER_ADDR not: start .* with torchrun"):
        backend.join("device")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert backend.join("device").size == 1
