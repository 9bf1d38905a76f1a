"""--tensorboard: the event files, and that a run's numbers do not know of them."""
import contextlib
import logging
import os
import struct
import sys

import numpy as np
import pytest
import tiny

import train_cifar
from engine import runlog, tensorboard
from engine.steps import Scores
from support import ROOT

Event = pytest.importorskip("tensorboardX.proto.event_pb2",
                            reason="tensorboardX is not installed (requirements-tensorboard.txt)").Event

UNITS = [f"gates/{place}" for place in ("s1b1.act1", "s1b1.act2", "s2b1.act1", "s2b1.act2", "s3b1.act1", "s3b1.act2",
                                        "head")]
KINDS = {"gluon": ["--backend", "gluon"], "plain": ["--backend", "gluon", "--fused", "off"],
         "imperative": ["--backend", "gluon", "--fused", "off", "--mode", "imperative"],
         "torch": ["--backend", "torch"]}
SCALARS = ["train/accuracy", "train/images_per_second", "train/loss", "train/lr", "validation/accuracy",
           "validation/loss", "validation/top5"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.cifar10(tmp_path_factory.mktemp("cifar10"))


def train(folder, data, *arguments, model="atac_resnet20_v2", epochs=2):
    return tiny.call(train_cifar.main, "--gpus", "", "-j", "0", "--model", model, "--blocks", "1", "--num-epochs",
                     epochs, "--batch-size", "16", "--lr-decay-epoch", "1", "--data-dir", data, "--save-dir", "run",
                     *arguments, folder=folder)


# Reading what was written.

def events(folder):
    """[(step, {tag: number, or a histogram}, whether it is a start)] of a folder's files, in order."""
    found = []
    for path in sorted(folder.iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            length, = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12:place + 12 + length])
            values = {value.tag: value.histo if value.HasField("histo") else value.simple_value
                      for value in event.summary.value}
            found.append((event.step, values, event.HasField("session_log")))
            place += 16 + length
    return found


def curves(folder):
    """{tag: {step: value}} as TensorBoard shows them: a start hides what came before it from its step on."""
    found = {}
    for step, values, start in events(folder):
        if start:
            found = {tag: {at: value for at, value in points.items() if at < step} for tag, points in found.items()}
        for tag, value in values.items():
            assert step not in found.get(tag, {})
            found.setdefault(tag, {})[step] = value
    return found


# The files.

def test_the_tests_have_the_pin_of_the_users():
    pin = (ROOT / "requirements-tensorboard.txt").read_text().splitlines()[-1]
    assert pin.startswith("tensorboardX==") and pin in (ROOT / "requirements-dev.txt").read_text().splitlines()


def test_tensorboard_reads_it(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for start in (0, 2):  # the second process repeats what the first had done from step 2 on
        board = tensorboard.Board(tmp_path, start, _Batches())
        for step in (1, 2, 3)[start // 2:]:
            board.step(step, a=step + start)
            board.epoch(step, Scores(20, 1., .5, .9, None), lambda images: {"features.0": np.array([.1, .9])})
        board.close()
    read = accumulator.EventAccumulator(str(tmp_path), size_guidance={"histograms": 0})
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("train/a")] == [(1, 1), (2, 4), (3, 5)]
    assert [event.step for event in read.Histograms("gates/head")] == [1, 2, 3]
    shown = read.Histograms("gates/head")[0].histogram_value
    assert (shown.num, shown.min, shown.max, sum(shown.bucket)) == (2, .1, .9, 2)


def test_gates_that_are_not_numbers_have_no_histogram(tmp_path):
    board = tensorboard.Board(tmp_path / "run", 0, _Batches())
    board.epoch(1, Scores(20, np.nan, .1, .5, None),
                lambda images: {"features.0": np.full(4, np.nan), "features.1": np.array([0., .1, .1, 1.])})
    board.close()
    found = curves(tmp_path / "run")
    assert np.isnan(found["validation/loss"][1]) and sum(tag.startswith("gates") for tag in found) == 1


# A run.

@pytest.mark.parametrize("kind", KINDS)
def test_a_run_has_the_same_bits_with_and_without_curves(tmp_path, data, kind):
    if kind == "torch":
        pytest.importorskip("torch")
    runs = []
    for name, flags in (("without", []), ("with", ["--tensorboard", "curves"])):
        (tmp_path / name).mkdir()
        result = train(tmp_path / name, data, *KINDS[kind], "--log-interval", "3", *flags)
        assert result.status == 0, result.err
        runs.append(tmp_path / name / "run")
    for file in ("last.params", "best.params"):
        assert tiny.state_of(runs[0] / file) == tiny.state_of(runs[1] / file)
    assert tiny.metrics_of(runs[0]) == tiny.metrics_of(runs[1])
    found, records = curves(tmp_path / "with" / "curves" / "run"), runlog.read_metrics(runs[1] / "metrics.jsonl")
    assert sorted(found) == sorted([*UNITS, *SCALARS])
    assert list(found["train/loss"]) == list(found["train/lr"]) == [3, 7]
    assert np.allclose([*found["train/lr"].values()], [.2, .02])
    for name in ("accuracy", "loss", "top5"):
        assert np.allclose([*found[f"validation/{name}"].values()], [record[f"val_{name}"] for record in records])
    for unit in UNITS:
        assert list(found[unit]) == [4, 8]
        shown = found[unit][8]
        assert 0 < shown.min < shown.max < 1 and shown.num % tensorboard.IMAGES == 0 and sum(shown.bucket) == shown.num


def test_a_net_without_gates_has_curves_alone(tmp_path, data):
    result = train(tmp_path, data, "--tensorboard", "curves", model="resnet20_v2", epochs=1)
    assert result.status == 0, result.err
    found = curves(tmp_path / "curves" / "run")
    assert "validation/top5" in found and not [tag for tag in found if tag.startswith("gates")]


def test_the_folder_has_the_name_of_the_runs_folder(tmp_path, data):
    (tmp_path / "here").mkdir()
    result = tiny.call(train_cifar.main, "--gpus", "", *tiny.TINY_NET, "--num-epochs", "1", "--batch-size", "16",
                       "--lr-decay-epoch", "1", "--data-dir", data, "--save-dir", ".", "--tensorboard", "../curves",
                       folder=tmp_path / "here")
    assert result.status == 0 and "curves: tensorboard --logdir ../curves\n" in result.err
    assert os.listdir(tmp_path / "curves") == ["here"] and curves(tmp_path / "curves" / "here")


def test_a_resumed_run_continues_its_curves(tmp_path, data):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    assert train(tmp_path / "whole", data, "--tensorboard", "curves", "--log-interval", "2", epochs=3).status == 0
    place = tmp_path / "parts" / "curves" / "run"
    for epochs in (1, 3):
        result = train(tmp_path / "parts", data, "--tensorboard", "curves", "--log-interval", "2", "--resume",
                       epochs=epochs)
        assert result.status == 0, result.err
        if epochs == 1:  # and of an epoch that was lost when it was killed
            killed = tensorboard.Board(place, 5, _Batches())
            killed.step(6, loss=9., lr=9.)
            killed.close()
    found, whole = curves(place), curves(tmp_path / "whole" / "curves" / "run")
    for tags in (found, whole):
        del tags["train/images_per_second"]
    assert found == whole and list(found["validation/loss"]) == [4, 8, 12]


# What goes wrong.

def test_a_folder_that_cannot_be_written_is_one_sentence_before_the_run(tmp_path, data):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        result = train(tmp_path, data, "--tensorboard", place)
        tiny.one_sentence(result, 1, f"{place} cannot be written: ", "give another folder to --tensorboard")
        assert os.listdir(tmp_path) == ["file"]


class _Batches:
    def __iter__(self):
        yield np.zeros((20, 3, 32, 32), np.float32), np.zeros(20, np.int32), 20


def test_a_disk_that_fails_ends_the_curves_and_not_the_run(tmp_path, caplog):
    board = tensorboard.Board(tmp_path / "run", 0, _Batches())
    board.step(1, loss=1.)
    with open("/dev/full", "wb") as full, caplog.at_level(logging.WARNING):
        written, board._file._py_recordio_writer._writer = board._file._py_recordio_writer._writer, full
        for step in (2, 3):
            board.step(step, loss=1.)
        board.epoch(4, Scores(20, 1., .5, .9, None), lambda images: {"head": images})
        board.close()
        with contextlib.suppress(OSError):
            full.close()
    written.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'run'} cannot be written: No space left on device; the training continues without TensorBoard"]
    assert list(curves(tmp_path / "run")["train/loss"]) == [1]


def test_without_tensorboardx_it_is_one_sentence_before_the_run(tmp_path, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    result = train(tmp_path, data, "--tensorboard", "curves")
    tiny.one_sentence(result, 1, "--tensorboard: tensorboardX cannot be imported", "requirements-tensorboard.txt")
    assert os.listdir(tmp_path) == []


def test_the_gates_shown_are_those_of_real_images(tmp_path):
    class Few:
        def __iter__(self):
            yield np.arange(4 * 3, dtype=np.float32).reshape(4, 3, 1, 1), np.zeros(4, np.int32), 3

    seen = []
    board = tensorboard.Board(tmp_path / "run", 0, Few())
    board.epoch(1, Scores(3, 1., .5, .9, None), lambda images: seen.append(images) or {})
    board.close()
    assert seen[0].tolist() == np.arange(9).reshape(3, 3, 1, 1).tolist()
