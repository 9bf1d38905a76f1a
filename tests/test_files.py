"""Files that are whole or untouched: what a killed writer leaves goes, what a living one is at stays."""
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import json_files
from support.errors import InputError
from support.files import content, regular, replacing, sha256, write_whole

ROOT = Path(__file__).resolve().parent.parent
WRITE = """
import sys, time
from support.files import replacing
with replacing(sys.argv[1]) as temporary, open(temporary, "w") as file:
    file.write("half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def writer(path):
    process = subprocess.Popen([sys.executable, "-c", WRITE, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    return process


def write(path, text):
    with replacing(path) as temporary, open(temporary, "w") as file:
        file.write(text)


def test_a_file_takes_its_place_when_the_block_ends_well(tmp_path):
    write(tmp_path / "x", "old")
    with pytest.raises(ValueError), replacing(tmp_path / "x") as temporary:
        Path(temporary).write_text("new")
        raise ValueError
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_text() == "old"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_writer_has_left_goes_with_the_next_one(tmp_path, number):
    process = writer(tmp_path / "x")
    process.send_signal(number)
    process.wait()
    left = tmp_path / f"x.{process.pid}.part"
    assert left.exists()
    write(tmp_path / "other", "")
    assert left.exists()  # of another file
    write(tmp_path / "x", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "x"]


def test_what_a_living_writer_is_at_stays(tmp_path):
    process = writer(tmp_path / "x")
    try:
        write(tmp_path / "x", "new")
        assert (tmp_path / f"x.{process.pid}.part").read_text() == "half"
    finally:
        process.kill()
        process.wait()


def test_what_only_looks_alike_stays(tmp_path):
    names = ["x.part", "x.1x.part", "y.999999999.part", "x.999999999.partial"]
    for name in names:
        (tmp_path / name).write_text("")
    (tmp_path / "x.99999999999999999999.part").write_text("")  # no process has such a number
    write(tmp_path / "x", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "x"])


def test_a_name_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.999999999.part").write_text("")
    write("x", "new")
    assert os.listdir() == ["x"]


def test_a_pipe_and_a_device_are_refused_at_once_and_stay(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # and has nobody at its other end
    for call in (lambda: regular(pipe, os.O_WRONLY), lambda: regular("/dev/zero", os.O_RDONLY), lambda: content(pipe),
                 lambda: sha256(pipe), lambda: write(pipe, "x")):
        with pytest.raises(OSError, match="it is no regular file"):
            call()
    assert pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]


def test_a_folder_in_the_way_or_none_at_all(tmp_path):
    for path, number in ((tmp_path, errno.EISDIR), (tmp_path / "no" / "x", errno.ENOENT)):
        with pytest.raises(OSError) as caught, replacing(path):
            pass
        assert caught.value.errno == number


def test_json_is_written_whole_and_sorted(tmp_path):
    json_files.write(tmp_path / "x.json", {"b": 1, "a": "ü"})
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == {"a": "ü", "b": 1} and text.index('"a"') < text.index('"b"') and text.endswith("}\n")


def test_a_write_that_breaks_off_leaves_the_old_text_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="x cannot be written: No space left on device; free space"):
        write_whole(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "old" and os.listdir(tmp_path) == ["x"]


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        json_files.write(tmp_path / "none" / "x.json", {})
