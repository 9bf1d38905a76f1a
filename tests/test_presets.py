"""What --recipe names: its numbers, its command, and that these are what the records and the paper say."""
import json
import shlex

import pytest

import train_cifar
import train_imagenet
from engine import presets
from engine.recipe import CIFAR_PAPER, IMAGENET_PAPER, IMAGENET_RELEASED
from reproduce import ledger
from support import ROOT

PROGRAMS = {"train_cifar.py": train_cifar, "train_imagenet.py": train_imagenet}


@pytest.mark.parametrize("preset", presets.PRESETS, ids=lambda preset: f"{preset.program}-{preset.name}")
def test_its_command_asks_for_its_recipe(preset):
    python, program, *words = shlex.split(preset.command)
    assert (python, program) == ("python", preset.program)
    _, args = PROGRAMS[program].parse(words)
    assert PROGRAMS[program].experiment_of(args, None).recipe == preset.recipe


def test_the_recipes_are_the_papers():
    cifar, imagenet = (presets.of(program) for program in PROGRAMS)
    assert cifar["paper"].recipe == CIFAR_PAPER and cifar["quick"].recipe == CIFAR_PAPER.scaled(15)
    assert imagenet["paper"].recipe == IMAGENET_PAPER and imagenet["released"].recipe == IMAGENET_RELEASED
    assert presets.named("train_cifar.py", "scaled", 40).recipe == CIFAR_PAPER.scaled(40)
    assert presets.named("train_imagenet.py", "scaled").recipe == IMAGENET_RELEASED
    assert presets.named("train_cifar.py", None) is None


def test_what_is_expected_is_what_was_measured_or_published():
    quick, paper, released = (preset.expected for preset in (
        presets.of("train_cifar.py")["quick"], presets.of("train_cifar.py")["paper"],
        presets.of("train_imagenet.py")["released"]))
    folder = ledger.RESULTS / "runs" / presets.of("train_cifar.py")["quick"].record
    record = json.loads((folder / "record.json").read_text())
    assert f"{record['last']['accuracy']:.4f}" in quick[1] and quick[0].startswith(f"{record['seconds'] / 60:.0f} min")
    assert "0.936" in paper[1] and "published" in paper[1] and "21.41%" in released[1]


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_and_the_page_on_training_show_them(program, capsys):
    with pytest.raises(SystemExit):
        PROGRAMS[program].parse(["--help"])
    text = capsys.readouterr().out
    page = (ROOT / "docs" / "TRAINING.md").read_text(encoding="utf-8")
    for preset in presets.of(program).values():
        assert preset.command in text and preset.command in page
