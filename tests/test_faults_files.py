"""Damaged files: a short part of the fuzzing, the JSON of strangers, paths that cannot be, what the fuzzing found."""
import json
import os
import zipfile

import numpy as np
import pytest
from faults import files, suite

from engine.data import cifar
from reproduce import ledger, record
from support import json_files, params_file
from support.errors import InputError
from support.files import content, expanded

FORMATS = [case.name for case in files.THEME.cases]


def test_files_of_every_format_are_read_or_refused_in_a_sentence(tmp_path):
    record = suite.tally(files.THEME, 6 * len(FORMATS), 0, tmp_path)
    assert not record["faults"]
    for name in FORMATS:
        outcomes = record["cases"][name]["outcomes"]
        assert outcomes["refused"], name  # and the sound file was accepted, or the reader would not have begun


# JSON.

@pytest.mark.parametrize("text, reason", [
    ("", "no JSON at line 1, column 1"), ("{", "no JSON at line 1"), (b"\xff", "no UTF-8 text at byte 0"),
    ("[" * 100_000, "nested too deeply")])
def test_what_is_no_json_is_a_few_words(text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        json_files.loads(text)
    assert len(str(caught.value)) < 60


SHAPE = {"name": json_files.FILE_NAME, "count": json_files.COUNT, "parts": [{"share": json_files.SHARE}],
         "label": (json_files.NOTHING, json_files.TEXT), "versions": {json_files.TEXT: json_files.NUMBER}}
SOUND = {"name": "x.params", "count": 3, "parts": [{"share": .5}, {"share": 1}], "label": None, "versions": {"a": 1.5},
         "more": "is allowed"}


def test_a_value_that_has_its_shape():
    assert json_files.problem(SOUND, SHAPE) is None
    assert json_files.problem({**SOUND, "label": "fine"}, SHAPE) is None


def test_a_value_that_has_not():
    for change, reason in (
            ({"name": "../x"}, "name is not the name of a file"), ({"name": ".."}, "name is not the name of a file"),
            ({"name": "a\nb"}, "name is not the name of a file"), ({"count": True}, "count is not a whole"),
            ({"count": -1}, "count is not"), ({"count": 2**70}, "count is not"), ({"count": 3.0}, "count is not"),
            ({"parts": {}}, "parts is not a list"), ({"parts": [{"share": .5}, {}]}, "parts[1] has no 'share'"),
            ({"parts": [{"share": float("nan")}]}, "parts[0].share is not a number from 0 to 1"),
            ({"label": 3}, "label is not text"), ({"versions": {"a": 10**400}}, "versions.a is not a finite number"),
            ({"versions": {"a\n": 1}}, "a name in versions is not text"),
            ({"versions": []}, "versions is not an object")):
        assert reason in json_files.problem({**SOUND, **change}, SHAPE)


def test_a_file_of_json_is_read_or_one_sentence(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(SOUND))
    assert json_files.read(path, SHAPE, "restore it") == SOUND
    for bad in (tmp_path, tmp_path / "none", "/dev/zero"):
        with pytest.raises(InputError, match="cannot be used: .*; restore it"):
            json_files.read(bad, SHAPE, "restore it")


# Paths.

def test_what_has_no_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # and has no writer
    for path in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(OSError, match="no regular file"):
            content(path)
        with pytest.raises(InputError, match="no regular file"):
            params_file.read(path)


def test_paths_that_cannot_be_are_one_sentence(tmp_path, monkeypatch):
    assert expanded("~") == expanded(os.path.expanduser("~")) and expanded(tmp_path / "none" / "x")
    for path in ("a" * 5000, "~nobody-of-this-name/x", "a\0b"):
        with pytest.raises(InputError, match="check the path|in full") as caught:
            expanded(path)
        assert len(str(caught.value)) < 400
        with pytest.raises(InputError):
            cifar.load("cifar10", path)
    monkeypatch.setattr(cifar, "find", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(InputError, match="cannot be searched: Permission denied"):
        cifar.load("cifar10", tmp_path)


# What the fuzzing found.

def test_an_archive_behind_weights_has_no_member_twice(tmp_path):
    path = tmp_path / "x.params"
    params_file.write(path, {"a": np.ones(2, "float32")}, {"settings.json": b"{}"})
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("settings.json", b"[]")
    with pytest.raises(InputError, match="has a member twice"):
        params_file.read(path)


@pytest.mark.parametrize("change, reason", [
    ({"best": None}, "best is not an object"), ({"seconds": "9"}, "seconds is not a finite number"),
    ({"id": "another"}, "its id is another, but its content makes"), ({"files": {}}, "files has no 'metrics.jsonl'"),
    ({"experiment": {"seed": 5}}, "its id is"), ({"experiment": {"arguments": {"classes": 10, "wings": 2}}}, "wings"),
    ({"experiment": {"model": "x"}}, "unknown model"), ({"experiment": {"recipe": {"epochs": 20}}}, "is missing"),
    ({"experiment": {"arguments": {"classes": 10, "blocks": 0}}}, "arguments.blocks cannot be 0")])
def test_a_record_that_is_not_sound_is_refused(change, reason):
    sound = ledger.read()[0]
    whole = sound.as_json()
    assert record.Record.from_json(whole) == sound
    changed = {name: {**whole[name], **value} if name == "experiment" else value for name, value in change.items()}
    with pytest.raises(InputError, match=reason):
        record.Record.from_json({**whole, **changed})
