"""The lock: one owner at a time, free as soon as the owner is gone."""
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from support.errors import InputError
from support.lock import locked, take

ROOT = Path(__file__).resolve().parent.parent
HOLD = """
import sys, time
from support.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_owner_is_refused_and_told_the_first(tmp_path):
    path = tmp_path / "lock"
    process = holder(path)
    try:
        with pytest.raises(InputError, match=f"^process {process.pid} is at work here$"), \
                locked(path, "process {owner} is at work here"):
            pass
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_owner_holds_nothing(tmp_path, number):
    process = holder(tmp_path / "lock")
    process.send_signal(number)
    process.wait()
    with locked(tmp_path / "lock", "busy"):
        pass
    assert not (tmp_path / "lock").exists()


def test_waiting(tmp_path):
    order = []

    def work(name):
        with locked(tmp_path / "lock"):
            order.append(name)
            time.sleep(.02)
            order.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order[::2] == order[1::2] and sorted(order[::2]) == list(range(5))  # nobody came between
    assert not (tmp_path / "lock").exists()


def test_the_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(ValueError), locked(tmp_path / "lock"):
        raise ValueError
    with locked(tmp_path / "lock", "busy"):
        pass


def test_a_folder_that_is_not_there(tmp_path):
    said = "no/lock cannot be written: No such file or directory; choose another folder"
    with pytest.raises(InputError, match=said), locked(tmp_path / "no" / "lock"):
        pass


def test_who_has_to_wait_says_so_once(tmp_path, capsys):
    process = holder(tmp_path / "lock")
    threading.Timer(.3, process.kill).start()
    with locked(tmp_path / "lock", waiting="waiting for process {owner}"):
        assert capsys.readouterr().err == f"waiting for process {process.pid}\n"
    process.wait()
    with locked(tmp_path / "lock", waiting="waiting for process {owner}"):
        assert capsys.readouterr().err == ""


def test_a_full_disk_does_not_keep_a_lock_from_holding(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with locked(tmp_path / "lock", "busy"), pytest.raises(InputError, match="^process unknown$"), \
            locked(tmp_path / "lock", "process {owner}"):
        pass
    assert not (tmp_path / "lock").exists()


def test_a_lock_is_held_as_long_as_a_child_has_it(tmp_path):
    descriptor = take(tmp_path / "lock")
    child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    assert take(tmp_path / "lock") is None
    os.close(descriptor)
    assert take(tmp_path / "lock") is None
    child.kill()
    child.wait()
    os.close(take(tmp_path / "lock"))
    assert (tmp_path / "lock").exists()
