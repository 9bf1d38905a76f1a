"""python -m reproduce watch: what it says of runs, and that no run notices it."""
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import test_runlog

from engine.folders import LOCK
from reproduce import watch
from support import lock
from support.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "reproduce", "watch", "--runs"]


def run_folder(place, epochs=10, done=4, old=False):
    """A folder as a run leaves it after some epochs."""
    place.mkdir(parents=True)
    recipe = {"recipe": {"epochs": epochs}}
    (place / "args.json").write_text(json.dumps(recipe if old else {"experiment": recipe}))
    (place / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in test_runlog.records(done)))
    return place


@pytest.fixture
def holder():
    """Starts a process that holds a file's lock, as a training does."""
    started = []

    def start(path):
        code = ("import sys; from support.lock import locked\n"
                "with locked(sys.argv[1]): print(flush=True); sys.stdin.read()")
        process = subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE)
        process.stdout.readline()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            stream.close()


def test_a_line_says_how_far_a_run_is_and_when_it_will_end(tmp_path):
    assert watch.row_of(run_folder(tmp_path / "net")) == (
        "stopped", "4/10", "0.2700", "0.2700", "100", "57 s", "net")
    assert watch.row_of(run_folder(tmp_path / "old", old=True))[1] == "4/10"
    state, *_, left, _ = watch.row_of(run_folder(tmp_path / "ended", done=10))
    assert (state, left) == ("finished", "-")
    assert watch.row_of(run_folder(tmp_path / "new", done=0)) == ("stopped", "0/10", *"----", "new")


def test_the_time_left_is_by_the_newest_epochs(tmp_path):
    place = run_folder(tmp_path / "net")
    records = test_runlog.records(8)
    for record, seconds in zip(records, (1, 1, 1, 50, 2, 3, 2, 2)):
        record["seconds"] = seconds
    (place / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert watch.row_of(place)[-2] == "4 s"


def test_the_state_is_that_of_the_process_that_holds_the_lock(tmp_path, holder):
    place = run_folder(tmp_path / "net")
    process = holder(place / LOCK)
    assert watch.row_of(place)[0] == "running" and lock.holder(place / LOCK) == process.pid
    os.kill(process.pid, signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)
    assert watch.row_of(place)[0] == "paused"
    process.kill()
    process.wait()
    assert (place / LOCK).exists() and watch.row_of(place)[0] == "stopped"
    (place / LOCK).write_text(f"{os.getpid()}\n")  # its number went to a process that never opened the file
    assert lock.holder(place / LOCK) is None
    for text in ("", "x", "-1", "9" * 30):
        (place / LOCK).write_text(text)
        assert lock.holder(place / LOCK) is None


def test_looking_leaves_the_lock_free_to_take_and_the_files_as_they_are(tmp_path):
    place = run_folder(tmp_path / "net")
    before = {path: path.stat() for path in [place, *place.iterdir()]}
    watch.lines_of(tmp_path)
    assert {path: path.stat() for path in [place, *place.iterdir()]} == {
        path: os.stat_result(stat) for path, stat in before.items()}


def test_files_that_are_damaged_or_written_just_now_end_nothing(tmp_path):
    run_folder(tmp_path / "a")
    with open(run_folder(tmp_path / "b") / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "lr"')
    (run_folder(tmp_path / "c") / "args.json").write_text("{")
    (run_folder(tmp_path / "d") / "metrics.jsonl").write_text("{}\n{}\n")
    (run_folder(tmp_path / "e") / "args.json").unlink()
    (tmp_path / "table3.log").write_text("")
    (tmp_path / "other").mkdir()
    lines = watch.lines_of(tmp_path)
    assert [re.split(" +", line)[:2] for line in lines[1:-1]] == [
        ["stopped", "4/10"], ["stopped", "4/10"], ["stopped", "4/?"], ["damaged", "0/?"], ["damaged", "0/?"]]
    assert lines[-1] == f"5 runs in {tmp_path}: 3 stopped, 2 damaged"


def test_a_folder_without_runs_and_no_folder(tmp_path):
    assert watch.lines_of(tmp_path) == [f"no run in {tmp_path} yet"]
    with pytest.raises(InputError, match="none cannot be read: No such file or directory; name the folder of the runs"):
        watch.lines_of(tmp_path / "none")
    done = subprocess.run([*COMMAND, str(tmp_path / "none")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "cannot be read" in done.stderr


def test_without_a_terminal_the_runs_are_shown_once_those_under_way_first(tmp_path, holder):
    for name, done in (("a", 10), ("b", 4), ("c", 2)):
        run_folder(tmp_path / name, done=done)
    holder(tmp_path / "c" / LOCK)
    done = subprocess.run([*COMMAND, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    lines = done.stdout.splitlines()
    assert re.split(" +", lines[0]) == list(watch.HEAD)
    assert [(line.split()[0], line.split()[-1]) for line in lines[1:4]] == [
        ("running", "c"), ("stopped", "b"), ("finished", "a")]
    assert lines[4] == f"3 runs in {tmp_path}: 1 running, 1 stopped, 1 finished"


def test_a_terminal_shows_them_again_and_again_as_far_as_it_is_wide_and_high(tmp_path):
    for number in range(40):
        run_folder(tmp_path / f"a-long-name-{number:02d}")
    process, end = pty.fork()
    if not process:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.chdir(ROOT)
        os.execve(sys.executable, [*COMMAND, str(tmp_path)], {**os.environ, "COLUMNS": "60", "LINES": "10"})
    text = b""
    while not re.search(rb"(?s)34 more.*34 more\r?\n[^\n]*\n", text):
        text += os.read(end, 1 << 16)
    os.kill(process, signal.SIGINT)
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGINT
    for shown in text.decode().split("\x1b[H\x1b[J")[1:3]:
        lines = shown.splitlines()
        assert len(lines) == 9 and max(map(len, lines)) <= 60 and lines[7] == "... 34 more"


def test_it_needs_no_framework(tmp_path):
    run_folder(tmp_path / "net")
    code = ("import sys; from reproduce import grid, watch; from pathlib import Path\n"
            "print(watch.lines_of(Path(sys.argv[1]))[-1])\n"
            "assert not {'mxnet', 'torch', 'matplotlib'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, check=True)
