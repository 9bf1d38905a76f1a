"""The files that a run leaves behind, and its log."""
import json
import logging
import os
import re
import subprocess
import sys
import warnings

import matplotlib.image
import pytest
import tiny

from engine import runlog
from engine.figures import curves
from support.errors import InputError


def records(count):
    return [{"epoch": epoch, "lr": .2 / (1 + epoch // 2), "train_loss": 2 / (1 + epoch), "val_loss": 2.1 / (1 + epoch),
             "train_accuracy": .1 * epoch, "val_accuracy": .09 * epoch, "val_top5": .1 * epoch, "val_images": 40,
             "seconds": 9.5, "train_images_per_second": 100} for epoch in range(count)]


@pytest.fixture(autouse=True)
def kept_logging():
    """start_logging() sets up the whole process; what pytest had there comes back."""
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield
    for handler in logger.handlers:
        if handler not in handlers:
            handler.close()
    logger.handlers[:] = handlers
    logger.setLevel(level)


# Where a result comes from.

def test_the_environment_names_versions_machine_and_revision(monkeypatch, tmp_path):
    monkeypatch.setattr(runlog, "git_revision", lambda: "abc")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = json.loads(json.dumps(runlog.environment(tiny.job(tmp_path).program.environment())))
    assert set(found) == {"python", "mxnet", "numpy", "processor", "threads", "contexts", "gpus", "git_revision",
                          "process_settings"}
    assert (found["contexts"], found["gpus"]) == ("[cpu(0)]", [])
    assert found["process_settings"]["OMP_NUM_THREADS"] == "3"
    assert found["python"] == ".".join(map(str, sys.version_info[:3])) and found["mxnet"].startswith("1.9")
    assert found["threads"] == "3" and found["git_revision"] == "abc" and found["processor"]


def test_the_revision_is_the_commit_and_says_when_files_differ(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org", *words],
                       check=True, capture_output=True)

    monkeypatch.setattr(runlog, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert runlog.git_revision() is None
    git("init")
    assert runlog.git_revision() is None  # no commit yet
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    revision = runlog.git_revision()
    assert re.fullmatch("[0-9a-f]{40}", revision)
    (tmp_path / "untracked").write_text("1")
    assert runlog.git_revision() == revision
    (tmp_path / "file").write_text("2")
    assert runlog.git_revision() == revision + "+changes"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runlog.git_revision() is None  # no git at all


# The log.

def test_the_log_goes_to_standard_error_and_to_the_file(tmp_path, capsys):
    for text in ("first", "second"):  # a resumed run appends, and lines come once
        runlog.start_logging()
        logging.getLogger("engine.x").info("%s before", text)
        runlog.log_to_file(tmp_path / "train.log")
        logging.getLogger("engine.x").info("%s", text)
        logging.getLogger("engine.x").debug("where a terminal has the bar")
        logging.getLogger("other").debug("silent")
    assert capsys.readouterr().err == "first before\nfirst\nsecond before\nsecond\n"
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", "", line) for line in lines] == [
        "first before", "first", "where a terminal has the bar", "second before", "second",
        "where a terminal has the bar"]


def test_without_a_path_there_is_no_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runlog.start_logging()
    logging.getLogger().warning("seen")
    assert capsys.readouterr().err == "seen\n" and not os.listdir(tmp_path)


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path):
    os.mkfifo(tmp_path / "train.log")  # to which a write would wait for a reader
    with pytest.raises(InputError, match="train.log cannot be written: it is no regular file; choose another folder"):
        runlog.log_to_file(tmp_path / "train.log")
    with pytest.raises(InputError, match="cannot be written: Is a directory; choose another folder"):
        runlog.log_to_file(tmp_path)


def test_a_log_on_a_full_disk_is_one_sentence_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runlog, "regular", os.open)  # for /dev/full
    runlog.start_logging()
    logging.getLogger("engine.x").info("before")
    with pytest.raises(InputError, match="^/dev/full cannot be written: No space left on device; free space and"):
        runlog.log_to_file("/dev/full")
    logging.getLogger("engine.x").info("after")
    assert capsys.readouterr().err == "before\nafter\n"
    runlog.start_logging()
    runlog.log_to_file(tmp_path / "train.log")
    handler = logging.getLogger().handlers[-1]
    handler.setStream(open("/dev/full", "a"))  # noqa: SIM115 - the disk fills up within the run
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        logging.getLogger("engine.x").info("a line")
    logging.getLogger("engine.x").info("the last words")
    assert capsys.readouterr().err == "a line\nthe last words\n"


@pytest.mark.parametrize("stream", ["a pipe that nobody reads", "a full disk", "a terminal that is gone"])
def test_a_standard_error_that_is_gone_ends_nothing(tmp_path, stream):
    code = ("import logging, sys; from engine import progress, runlog; runlog.start_logging(); "
            "runlog.log_to_file(sys.argv[1]); log = logging.getLogger('engine.x'); "
            "log.info('seen'); sys.stdin.read(); [log.info('line %d', n) for n in range(3)]; "
            "bar = progress.progress_bar(3, 'x'); [bar.update() for _ in range(3)]; bar.close(); print('done')")
    reader, target = {"a pipe that nobody reads": os.pipe, "a terminal that is gone": os.openpty,
                      "a full disk": lambda: (None, os.open("/dev/full", os.O_WRONLY))}[stream]()
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "train.log"], stdin=subprocess.PIPE, stderr=target,
                          stdout=subprocess.PIPE, cwd=runlog.ROOT) as process:
        os.close(target)
        if reader is not None:
            assert os.read(reader, 100).startswith(b"seen")
            os.close(reader)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"done\n")
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.partition(" ")[2].partition(" ")[2] for line in lines] == ["seen", "line 0", "line 1", "line 2"]


# metrics.jsonl.

def test_metrics_are_one_line_an_epoch(tmp_path):
    metrics = runlog.Metrics(tmp_path / "metrics.jsonl")
    for record in records(3):
        metrics.append(record)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == records(3) == metrics.records
    assert runlog.read_metrics(tmp_path / "metrics.jsonl") == records(3)


def test_metrics_of_later_epochs_are_dropped_when_a_run_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for record in records(4):
        with open(path, "a") as file:
            file.write(json.dumps(record) + "\n")
    metrics = runlog.Metrics(path, keep_epochs=2)
    assert metrics.records == runlog.read_metrics(path) == records(2)
    again = {**records(3)[2], "again": True}
    metrics.append(again)
    assert runlog.read_metrics(path) == [*records(2), again]
    assert runlog.Metrics(path, keep_epochs=0).records == [] and path.read_text() == ""


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(records(1)[0]) + "\n" + '{"epoch": 1, "lr"')
    assert runlog.read_metrics(path) == records(1)
    runlog.Metrics(path, keep_epochs=5).append(records(2)[1])
    assert runlog.read_metrics(path) == records(2)


@pytest.mark.parametrize("lines, said", [
    (["{}", *map(json.dumps, records(2))], r"line 1 is damaged \(it has no 'epoch'\)"),
    ([*map(json.dumps, records(2)), "{"], r"line 3 is damaged \(no JSON at line 1, column 2\)"),
    (map(json.dumps, records(2)[::-1]), r"line 2 is damaged \(epoch 0 follows epoch 1\)"),
    ([json.dumps({**records(1)[0], "val_loss": float("nan")})], r"line 1 is damaged \(val_loss is not a finite number"),
    ([json.dumps({**records(1)[0], "epoch": True})], r"line 1 is damaged \(epoch is not a whole number")])
def test_any_other_line_that_is_no_record_of_an_epoch_is_named(tmp_path, lines, said):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(InputError, match=said):
        runlog.read_metrics(path)


def test_a_run_that_began_late_misses_no_epochs_before_its_first(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records(8)[5:]))
    assert [record["epoch"] for record in runlog.Metrics(path, keep_epochs=7, first_epoch=5).records] == [5, 6]
    assert not caplog.text


def test_metrics_that_cannot_be_written_are_one_sentence(tmp_path):
    metrics = runlog.Metrics(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot be written: Is a directory; free space and resume"):
        metrics.append(records(1)[0])


# The plot.

@pytest.mark.parametrize("epochs", [1, 45])
def test_the_history_is_a_png(tmp_path, epochs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a sign that a font lacks, say
        curves.draw({"test images": records(epochs)}, tmp_path / "history.png", "実験 $\\frac$")
    content = (tmp_path / "history.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    picture = matplotlib.image.imread(tmp_path / "history.png")[..., :3]
    assert picture.shape[:2] == (550, 1452)
    assert len(set(map(tuple, picture.reshape(-1, 3)[::7]))) > 20  # curves, not a blank page
    assert os.listdir(tmp_path) == ["history.png"]


def test_a_plot_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        curves.draw({"test images": records(2)}, tmp_path / "none" / "history.png", "run")
