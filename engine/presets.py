"""The choices of --recipe: a recipe, a whole command, and the time and score that are known for it."""
import dataclasses
import functools
import json
from typing import Any, Mapping, Optional

from support import ROOT, tables
from support.words import counted

from .recipe import CIFAR_PAPER, IMAGENET_PAPER, IMAGENET_RELEASED, Recipe

QUICK_EPOCHS = 15


@dataclasses.dataclass(frozen=True)
class Preset:
    """One choice of --recipe.

    recipe : its numbers. meaning : where they are from. flags : a whole command, without the program. dtype, net : the
    type that it trains in, and arguments of the net; flags override both.
    published : the paper's score for that command, as keys of results/paper.json and the words for it, or None.
    record : the folder in results/runs of a run with that command; None if this project has not run it.
    """

    name: str
    program: str
    recipe: Recipe
    meaning: str
    flags: str
    dtype: str = "float32"
    net: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    published: Optional[tuple] = None
    record: Optional[str] = None

    @property
    def command(self):
        return f"python {self.program} --recipe {self.name} {self.flags}"

    @property
    def expected(self):
        """(time, score) in words: measured by this project, else published, else not known."""
        if not (ROOT / "results" / "paper.json").is_file():  # a copy of the code alone
            return "not known", "not known"
        if self.record:
            found = _read("runs", self.record, "record.json")
            where, epochs = found["environment"], found["experiment"]["recipe"]["epochs"]
            processor = ", ".join(where["gpus"]) or f"{counted(int(where['threads']), 'thread')}, {where['processor']}"
            data = "" if found["data"]["official"] else ", on data that are not the official files"
            return (f"{found['seconds'] / 60:.0f} min ({processor})",
                    f"accuracy {found['last']['accuracy']:.4f} after {counted(epochs, 'epoch')}{data}")
        score = "not known"
        if self.published:
            *path, words = self.published
            value = functools.reduce(lambda found, key: found[key], path, _read("paper.json"))
            score = f"{words.format(value)}, published"
        return "not run whole by this project", score


def _read(*names):
    return json.loads(ROOT.joinpath("results", *names).read_text(encoding="utf-8"))


PRESETS = (
    Preset("paper", "train_cifar.py", CIFAR_PAPER, "Section IV-A: 400 epochs",
           "--model atac_resnet20_v2 --blocks 3 --dataset cifar10",
           published=("table3", "cifar10", "ATAC", 2, "accuracy {:.3f} (best epoch)")),
    Preset("quick", "train_cifar.py", CIFAR_PAPER.scaled(QUICK_EPOCHS), f"paper, scaled to {QUICK_EPOCHS} epochs",
           "--model atac_resnet20_v2 --blocks 1 --gpus ''", record="cifar10-b1-atac_e15_s0_2ec32175"),
    Preset("released", "train_imagenet.py", IMAGENET_RELEASED, "the command and the log of the released checkpoint",
           "--use-rec --data-dir DIR --num-gpus 2", "float16", {"last_gamma": True},
           ("table4", "ATAC-ResNet-50", 2, "top-1 error {:.2f}% (best of 160 epochs)")),
    Preset("paper", "train_imagenet.py", IMAGENET_PAPER, "Section IV-A", "--use-rec --data-dir DIR --num-gpus 2",
           net={"last_gamma": False}),
)


def of(program):
    """{name: Preset} of a program, its default first."""
    return {preset.name: preset for preset in PRESETS if preset.program == program}


def named(program, name, epochs=None):
    """The Preset that --recipe NAME means, None for None. 'scaled' is the default preset in `epochs` epochs."""
    if name != "scaled":
        return of(program)[name] if name else None
    default, *_ = of(program).values()
    return dataclasses.replace(default, recipe=default.recipe.scaled(epochs or default.recipe.epochs))


def shown(program):
    """The presets of a program as text for --help."""
    lines = ["recipes:"]
    for preset in of(program).values():
        time, score = preset.expected
        lines += [f"  {preset.name:10}{preset.meaning}", f"{'':12}{preset.command}", f"{'':12}{time}; {score}"]
    return "\n".join(lines)


def table():
    """All presets as a table in Markdown."""
    return tables.table("| `--recipe` | what | command | time | score |", [
        [f"`{preset.name}`", preset.meaning, f"`{preset.command}`", *preset.expected] for preset in PRESETS])
