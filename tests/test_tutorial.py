"""docs/TUTORIAL.md as a reader runs it, with what the page says is printed; the commands of README.md too."""
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import imagenet_files
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


# What takes hours is stopped as a user stops it, once its log says this.
STOPPED = {"--blocks 3": "Epoch[1] Batch", "train_imagenet.py": "Epoch[0] Batch", "table3.sh": "[Epoch 1] validation"}


def stopped_at(text, line, checkout, environment):
    """What a command printed that gets SIGTERM when a log in runs/ has this text."""
    shutil.rmtree(checkout / "runs")  # of earlier commands
    with open(checkout / "printed", "w+") as printed:
        running = subprocess.Popen(["bash", "-c", f"exec {line}"], cwd=checkout, env=environment, stdout=printed,
                                   stderr=subprocess.STDOUT)
        with running:
            deadline = time.monotonic() + 600
            while not any(text in log.read_text() for log in checkout.glob("runs/**/train.log")):
                assert running.poll() is None and time.monotonic() < deadline, (line, Path(printed.name).read_text())
                time.sleep(.2)
            running.terminate()
        assert running.returncode in (143, -15), (line, Path(printed.name).read_text())
        return Path(printed.name).read_text()


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path):
    """As written, on the sample; the quickstart prints what the page shows.

    DIR is a folder of records. N is 2: two batches of 128 images need more memory than CI has.
    """
    if importlib.util.find_spec("onnxscript") is None:
        pytest.skip("onnxscript is not installed (requirements-export.txt)")
    checkout, environment = checkout_in(tmp_path)
    Path(checkout, "scripts", "setup.sh").write_text("echo installed\n")  # other tests install
    for name in ("train", "val"):
        imagenet_files.record_file(tmp_path / name, [imagenet_files.jpeg(seed) for seed in range(64)])
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown, = (text for _, text in re.findall("^```(\\w*)\n(.*?)^```$", readme, re.M | re.S) if "== Done" in text)
    lines = [re.sub(r"\bN\b", "2", line.partition("#")[0].strip().replace("DIR", str(tmp_path)))
             for block in re.findall("^```bash\n(.*?)^```$", readme, re.M | re.S) for line in block.splitlines()]
    assert len(lines) == 9
    for line in lines:
        if "test.sh" in line:
            continue  # which runs this
        stop = next((text for words, text in STOPPED.items() if words in line), None)
        if stop:
            assert "stopped by SIGTERM" in stopped_at(stop, line, checkout, environment)
            continue
        done = subprocess.run(["bash", "-c", line], cwd=checkout, env=environment, capture_output=True, text=True,
                              timeout=900)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        if "quickstart.sh" in line:
            printed = (done.stdout + done.stderr).splitlines()
            for expected in filter(None, shown.splitlines()):
                assert any(same(expected, each) for each in printed), (expected, printed)
