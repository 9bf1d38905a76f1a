"""The team that trains together in MXNet: alone, several, refused environments, Horovod."""
import os
import subprocess
import sys
import threading
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
import team_program
import tiny
from mxnet import gluon

from backend.gluon import distributed
from support.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


# Alone.

@pytest.mark.parametrize("name", ["device", "local"])
def test_a_team_of_one_does_everything_without_anybody(name):
    with distributed.join(name) as team:
        assert (team.rank, team.size, team.local_rank, team.kvstore) == (0, 1, 0, name)
        total = team.total(np.array([[1e9 + 1, -2]], np.float32))
        assert total.dtype == np.float64 and total.tolist() == [[1e9, -2]]  # what float32 made of it
        assert team.total(3).shape == () and team.total([]).shape == (0,)
        assert team.each(np.arange(6, dtype=np.float32).reshape(2, 3)).shape == (1, 2, 3)
        assert team.agreed({"a": [1, "ü", None]}) == {"a": [1, "ü", None]}
        assert team.any(np.bool_(True)) is True and team.any(0) is False
        net = tiny.ready(tiny.net())
        before = tiny.numbers_of(net)
        team.broadcast(net)
        assert all((before[name] == value).all() for name, value in tiny.numbers_of(net).items())
        team.barrier()


def test_its_trainer_is_gluons():
    nets = [tiny.ready(tiny.net(False), contexts=tiny.TWO) for _ in range(2)]
    images, labels = team_program.batch(0)
    programs = [tiny.program(net, tiny.TWO) for net in nets]
    trainers = [distributed.Team("local").trainer(nets[0].collect_params(), mx.optimizer.NAG(momentum=.9)),
                gluon.Trainer(nets[1].collect_params(), "nag", {"momentum": .9}, kvstore="local")]
    for program, program.trainer in zip(programs, trainers):
        tiny.train(program, [(.1, images, labels)] * 2)
    expected = tiny.numbers_of(nets[1])
    assert all((value == expected[name]).all() for name, value in tiny.numbers_of(nets[0]).items())


def test_a_worker_that_fails_does_not_wait_for_the_others():
    left = []

    class Watched(distributed.Team):
        def leave(self):
            left.append(True)

    with pytest.raises(InputError), Watched("device"):
        raise InputError("broken")
    assert not left
    with Watched("device"):
        pass
    assert left


# Several workers in this process, with a sum of their own, so that what stands above it is seen without Horovod.

class Threads(distributed._Many):
    """A worker in a thread of this process; the sums are MXNet's own, of float32."""

    def __init__(self, rank, size, meeting, values):
        super().__init__(None)
        self.rank, self.size, self.meeting, self.values = rank, size, meeting, values

    def _add(self, values):
        assert values.dtype == np.float32 and values.ndim == 1
        self.values[self.rank] = values
        self.meeting.wait(20)
        total = np.sum(self.values, axis=0, dtype=np.float32)
        self.meeting.wait(20)
        return total


def together(size, work):
    """The results of work(team) in `size` workers, in the order of their ranks; their first error is raised."""
    meeting, values = threading.Barrier(size), [None] * size
    results = [None] * size

    def run(rank):
        try:
            results[rank] = work(Threads(rank, size, meeting, values))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def test_totals_are_exact_where_float32_is_not_and_equal_to_the_bit():
    random = np.random.RandomState(0)
    parts = random.normal(0, 1, (3, 4, 50)) * 10. ** random.randint(-300, 300, (3, 4, 50))
    parts[:, 0, 0] = 1_000_000_001, 999_999_999, 3
    parts[:, 0, 1] = np.inf, 1, -0.
    parts[:, 0, 2] = np.nan, 1, 2
    totals = together(3, lambda team: team.total(parts[team.rank]))
    for total in totals:
        assert total.tobytes() == ((parts[0] + parts[1]) + parts[2]).tobytes()
    assert totals[0][0, 0] == 2_000_000_003


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_each_worker_sees_every_workers_numbers(dtype):
    parts = (np.random.RandomState(0).normal(0, 1, (4, 2, 3)) * 1000).astype(dtype)
    for found in together(4, lambda team: team.each(parts[team.rank])):
        assert found.dtype == dtype and found.tobytes() == parts.tobytes()


def test_the_first_workers_value_and_anybodys_flag_count():
    values = ["ü" * 1000, None, {"long": list(range(100))}]
    assert together(3, lambda team: team.agreed(values[team.rank])) == [values[0]] * 3
    assert together(3, lambda team: team.any(team.rank == 2)) == [True] * 3
    assert together(3, lambda team: team.any(False)) == [False] * 3


def test_the_first_workers_parameters_are_everybodys_on_all_devices():
    nets = [tiny.ready(tiny.net(), seed, tiny.TWO) for seed in range(2)]
    expected = tiny.numbers_of(nets[0])
    assert (tiny.numbers_of(nets[1])["0.weight"] != expected["0.weight"]).any()
    together(2, lambda team: team.broadcast(nets[team.rank]))
    for net in nets:
        for device in (0, 1):
            assert all((value == expected[name]).all() for name, value in tiny.numbers_of(net, device).items())


def test_different_nets_are_refused_by_all():
    nets = [tiny.ready(tiny.net()), tiny.ready(tiny.net(units=5))]
    messages = []

    def work(team):
        with pytest.raises(InputError) as caught:
            team.broadcast(nets[team.rank])
        messages.append(str(caught.value))

    together(2, work)
    assert len(messages) == 2 and all(message.startswith("the workers have different nets") for message in messages)


# Refusals.

def test_nccl_without_gpus_is_refused(monkeypatch):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    with pytest.raises(InputError, match="^--kvstore nccl needs GPUs"):
        distributed.join("nccl")


def test_torchruns_workers_would_each_train_alone(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert distributed.join("device").size == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="^torchrun has started 2 workers.*--backend torch.*--kvstore horovod$"):
        distributed.join("device")


def test_horovod_that_is_not_there_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "horovod.mxnet", None)
    monkeypatch.setitem(sys.modules, "horovod", None)
    with pytest.raises(InputError, match="^--kvstore horovod: Horovod is not installed.*requirements-horovod.txt"):
        distributed.join("horovod")


# Horovod.

def check_training(folder, size):
    """All workers' results are equal, and those of one process on the joined batches."""
    net, meter = team_program.train(distributed.Team("device"), seed=0)
    results = [np.load(folder / f"{rank}.npz") for rank in range(size)]
    for result in results:
        for name, value in tiny.numbers_of(net).items():
            assert (result[f"net.{name}"] == results[0][f"net.{name}"]).all()
            np.testing.assert_allclose(result[f"net.{name}"], value, rtol=0, atol=1e-5, err_msg=name)
        assert result["images"] == meter.images == team_program.BATCH * team_program.STEPS
        assert result["loss_sum"] == pytest.approx(meter.loss_sum, rel=1e-6)
        assert (result["total"] == [1e9 * size + size + sum(range(size)), 1e-300 * size, np.sum([-.1] * size)]).all()
        assert (result["each"] == np.array([[rank, np.pi] for rank in range(size)], np.float32)).all()
        assert result["agreed"] == "å0" and list(result["any"]) == [True, False]


def horovodrun(*arguments):
    """Two workers under horovodrun on this machine."""
    pytest.importorskip("horovod.mxnet", reason="Horovod is not installed")
    command = [sys.executable, str(ROOT / "tests" / "team_program.py"), *map(str, arguments)]
    return subprocess.run(
        [sys.executable, "-c", "from horovod.runner.launch import run_commandline; run_commandline()", "-np", "2",
         "--gloo", "-H", "localhost:2", *command], env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120)


def test_two_horovod_workers_train_as_one_process_does(tmp_path):
    result = horovodrun("train", tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    check_training(tmp_path, 2)


def test_a_horovod_workers_fault_ends_the_job(tmp_path):
    result = horovodrun("fail", tmp_path)
    assert result.returncode != 0 and "the second worker has a fault" in result.stdout + result.stderr
