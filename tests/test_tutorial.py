"""docs/TUTORIAL.md as a reader runs it: every command and every Python block, with what the page says they print."""
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
NEAR = 0.12  # accuracies: another machine rounds otherwise, and short runs wander


def blocks():
    """(kind, text) of the page's code blocks: "python", or "" for commands with output."""
    page = (ROOT / "docs" / "TUTORIAL.md").read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def steps():
    """(command or None for Python, program text or None, expected lines) in the page's order."""
    found = []
    for kind, text in blocks():
        if kind == "python":
            found.append([None, text, []])
        elif text.startswith("$ "):
            for part in text[2:].split("\n$ "):
                command, *expected = part.rstrip("\n").split("\n")
                found.append([command, None, expected])
        else:
            found[-1][2] = text.rstrip("\n").split("\n")  # of the Python block before it
    return found


def same(expected, line):
    """Whether a line is the expected one, with numbers below 1 near by and other numbers of any value."""
    if NUMBER.sub("#", expected) != NUMBER.sub("#", line):
        return False
    pairs = zip(NUMBER.findall(expected), NUMBER.findall(line))
    return all(abs(float(one) - float(other)) <= NEAR for one, other in pairs if one.startswith("0."))


def test_lines_are_compared_with_their_numbers():
    assert same("accuracy 0.51 after 10 epochs", "accuracy 0.45 after 9 epochs")
    assert not same("accuracy 0.51 after 10 epochs", "accuracy 0.3 after 10 epochs")
    assert not same("accuracy 0.51", "error 0.51")


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(tmp_path):
    for package in ("torch", "onnx", "onnxscript", "onnxruntime", "gluoncv"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (requirements-export.txt)")
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, symlinks=True, ignore=shutil.ignore_patterns(
        ".git", ".venv", "runs", "__pycache__", ".pytest_cache", "results"))
    shutil.copytree(ROOT / "results", checkout / "results")
    (checkout / ".venv" / "bin").mkdir(parents=True)
    launcher = checkout / ".venv" / "bin" / "python"
    launcher.write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n")
    launcher.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": ""}
    found = steps()
    assert len(found) > 10 and sum(command is None for command, *_ in found) == 2
    for command, code, expected in found:
        if command is not None and ("setup.sh" in command or "pip install" in command):
            continue  # other tests install
        words = ["bash", "-c", command] if code is None else [sys.executable, "-c", code]
        done = subprocess.run(words, cwd=checkout, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, (command or code, done.stdout, done.stderr)
        lines = (done.stdout + done.stderr).splitlines()
        for line in expected:
            assert line == "..." or any(same(line, each) for each in lines), (command or code, line, lines)
    for picture in ("curves.png", "gates.png", "wrong.png"):
        assert Path(checkout, picture).stat().st_size > 5000
