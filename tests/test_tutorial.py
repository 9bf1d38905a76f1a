"""docs/TUTORIAL.md as a reader runs it, with what the page says is printed; the commands of README.md too."""
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


def checkout_in(folder):
    """A copy of this checkout whose .venv is this Python, and an environment in which the sample is CIFAR-10."""
    checkout = folder / "checkout"
    shutil.copytree(ROOT, checkout, symlinks=True, ignore=lambda path, names: [
        name for name in names if name in (".git", ".venv", "__pycache__", ".pytest_cache")
        or name == "runs" and Path(path) == ROOT])
    (checkout / ".venv" / "bin").mkdir(parents=True)
    launcher = checkout / ".venv" / "bin" / "python"
    launcher.write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n")
    launcher.chmod(0o755)
    (folder / "home" / "datasets").mkdir(parents=True)
    (folder / "home" / "datasets" / "cifar10").symlink_to(checkout / "data" / "cifar10-sample")
    return checkout, {**os.environ, "PYTHONPATH": "", "MXNET_HOME": str(folder / "home")}


def test_lines_are_compared_with_their_numbers():
    assert same("accuracy 0.51 after 10 epochs", "accuracy 0.45 after 9 epochs")
    assert not same("accuracy 0.51 after 10 epochs", "accuracy 0.3 after 10 epochs")
    assert not same("accuracy 0.51", "error 0.51")


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(tmp_path):
    for package in ("torch", "onnx", "onnxscript", "onnxruntime", "gluoncv"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (requirements-export.txt)")
    checkout, environment = checkout_in(tmp_path)
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


TOO_LONG = {"test.sh": None, "quickstart.sh": ["--offline"], "train_imagenet.py": ["--help"],  # None: CI runs it
            "train_cifar.py": ["--num-epochs", "1"], "table3.sh": ["--dry-run"]}


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path):
    """As written; long trainings for an epoch, the exhibit without training, train_imagenet.py to its --help.

    The quickstart, which other tests let install, prints what the page shows.
    """
    if importlib.util.find_spec("onnxscript") is None:
        pytest.skip("onnxscript is not installed (requirements-export.txt)")
    checkout, environment = checkout_in(tmp_path)
    Path(checkout, "scripts", "setup.sh").write_text("echo installed\n")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown, = (text for _, text in re.findall("^```(\\w*)\n(.*?)^```$", readme, re.M | re.S) if "== Done" in text)
    lines = [line.partition("#")[0].strip() for block in re.findall("^```bash\n(.*?)^```$", readme, re.M | re.S)
             for line in block.splitlines()]
    assert len(lines) == 9
    for line in lines:
        more = next((words for name, words in TOO_LONG.items() if name in line), [])
        if more is not None:
            done = subprocess.run(["bash", "-c", " ".join([line, *more])], cwd=checkout, env=environment,
                                  capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
        if "quickstart.sh" in line:
            printed = (done.stdout + done.stderr).splitlines()
            for expected in filter(None, shown.splitlines()):
                assert any(same(expected, each) for each in printed), (expected, printed)
