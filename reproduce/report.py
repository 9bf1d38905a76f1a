"""The tables of README.md, rendered from the nets themselves and from the files that runs left."""
import json
import re
from pathlib import Path

from engine import runlog
from model import get_model
from model.complexity import count
from support.errors import InputError

ROOT = Path(__file__).resolve().parent.parent

# Name, arguments and what the table says of them, in the paper's order.
NETS = (
    ("resnet20_v2", {}, "ReLU, the host"),
    ("leakyrelu_resnet20_v2", {}, "LeakyReLU, slope 0.1"),
    ("prelu_resnet20_v2", {}, "PReLU, one learned slope a site"),
    ("elu_resnet20_v2", {}, "ELU"),
    ("selu_resnet20_v2", {}, "SELU"),
    ("gelu_resnet20_v2", {}, "GELU (erf)"),
    ("swish_resnet20_v2", {}, "Swish"),
    ("sine_resnet20_v2", {}, "sin(x) (SIREN)"),
    ("xunit_resnet20_v2", {}, "xUnit, 9x9"),
    ("atac_resnet20_v2", {}, "**ATAC**, r = 2"),
    ("seactivation_resnet20_v2", {}, "SEActivation, r = 2: ATAC after a global average pool"),
    ("nin_resnet20_v2", {}, "NiN block at every site"),
    ("localsenet_resnet20_v2", {}, "LocalSENet, r = 1: ATAC's module after every block"),
    ("senet_resnet20_v2", {}, "SENet, r = 16"),
    ("genet_resnet20_v2", {"variant": "theta_minus"}, "GENet, theta-minus"),
    ("genet_resnet20_v2", {}, "GENet, theta"),
    ("genet_resnet20_v2", {"variant": "theta_plus"}, "GENet, theta-plus"),
)


def nets_table():
    """Every CIFAR net: parameters at b = 1, 3 and 5 and multiply-adds at b = 3, counted on the built nets."""
    lines = ["| `get_model(...)` | unit or module | parameters (trainable), b = 1 | b = 3 | b = 5 | MACs, b = 3 |",
             "|---|---|---|---|---|---|"]
    for name, arguments, meaning in NETS:
        counts = {blocks: count(get_model(name, blocks=blocks, **arguments)) for blocks in (1, 3, 5)}
        call = f"`{name}`" + "".join(f", `{key}=\"{value}\"`" for key, value in arguments.items())
        cells = [f"{counts[blocks].total:,} ({counts[blocks].trainable:,})" for blocks in (1, 3, 5)]
        lines.append(f"| {call} | {meaning} | {' | '.join(cells)} | {counts[3].macs / 1e6:.3f}M |")
    return "\n".join(lines)


def params_table():
    """The shipped weights with their scores, from params/manifest.json and the evaluations in results/."""
    lines = ["| file in params/ | net | trained on | epochs | test images | last epoch | best epoch |",
             "|---|---|---|---|---|---|---|"]
    for entry in json.loads((ROOT / "params" / "manifest.json").read_text(encoding="utf-8"))["models"]:
        evaluations = json.loads((ROOT / entry["record"] / "evaluations.json").read_text(encoding="utf-8"))
        arguments = ", ".join(f"{key} {value}" for key, value in entry["arguments"].items()
                              if key in ("blocks", "reduction"))
        labels = f" ({entry['label_mode']} labels)" if entry["label_mode"] else ""
        first = [f"[{entry['file']}]({entry['record']})", f"{entry['model']}, {arguments}",
                 f"{entry['dataset']}{labels}, {entry['data']['label'] or entry['data']['variant']}",
                 str(entry["recipe"]["epochs"])]
        for place, evaluation in enumerate(evaluations):
            best = "" if place else f"{entry['best']['accuracy']:.4f} (epoch {entry['best']['epoch']})"
            label = evaluation["label"] or evaluation["data"]
            cells = [*([""] * 4 if place else first), f"{evaluation['images']:,}, {label}",
                     f"{evaluation['top1']:.4f}", best]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES = {"nets": nets_table, "params": params_table}


def render(text):
    """README's text with every table between its marks rendered anew."""
    for name, table in TABLES.items():
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, found = pattern.subn(lambda match, table=table: f"{match[1]}{table()}\n{match[2]}", text)
        if found != 1:
            raise InputError(f"README.md has {found} places for the table {name!r}, not one")
    return text


def update_readme():
    """Render README.md's tables anew; True when that changed something."""
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = render(old)
    if new != old:
        runlog.write_text(readme, new)
    return new != old
