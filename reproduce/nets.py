"""The tables of counts on the built nets, and the table of the shipped weights."""
from backend import networks
from model.complexity import CONVENTIONS, conventions, count, nearest
from model.registry import CIFAR
from support.tables import table

from . import evaluations, grid, ledger, publish


def _nets():
    """(name, arguments, README's words for it) of every CIFAR net, and of every variant of a net."""
    for name, part in CIFAR.parts.items():
        for variant, module in (part.variants or {None: part}).items():
            default = variant is None or module is part.module({})
            yield CIFAR.model(name), {} if default else {"variant": variant}, module.meaning


def nets_table():
    """Every CIFAR net: parameters at b = 1, 3 and 5, and multiply-adds at b = 3, counted on the built nets."""
    rows = []
    for name, arguments, meaning in _nets():
        counts = {blocks: count(networks().get_model(name, blocks=blocks, **arguments)) for blocks in (1, 3, 5)}
        call = f"`{name}`" + "".join(f", `{key}=\"{value}\"`" for key, value in arguments.items())
        rows.append([call, meaning, *(f"{found.total:,} ({found.trainable:,})" for found in counts.values()),
                     f"{counts[3].macs / 1e6:.3f}M"])
    return table("| `get_model(...)` | unit or module | parameters (trainable), b = 1 | b = 3 | b = 5 | MACs, b = 3 |",
                 rows)


def params_table():
    """The shipped weights with their scores, from params/manifest.json and the evaluations in results/."""
    rows = []
    for entry in publish.read_manifest():
        arguments = ", ".join(f"{key} {value}" for key, value in entry["arguments"].items()
                              if key in ("blocks", "reduction", "replaced_sites") and value is not None)
        cells = _own_cells if publish.is_ours(entry) else _published_cells
        rows += cells(entry, f"{entry['model']}, {arguments}")
    return table("| name in params/ | net | trained on | epochs | test images | last epoch | best epoch |", rows)


def _own_cells(entry, net):
    """The rows of our weights: one for each set of test images that they were evaluated on."""
    record = publish.record_of(entry)
    best = record.result.best
    labels = f" ({entry['label_mode']} labels)" if entry["label_mode"] else ""
    first = [f"[{entry['name']}]({entry['record']})", net,
             f"{entry['dataset']}{labels}, {ledger.data_label(record.result.data)}", str(record.epochs)]
    for place, evaluation in enumerate(evaluations.read(publish.folder_of(entry))):
        chosen = "" if place else f"{best.accuracy:.4f} (epoch {best.epoch})"
        label = ledger.data_label({"sha256": evaluation["data_sha256"], "variant": evaluation["data"],
                                   "official": evaluation["data"] == "official"})
        yield [*([""] * 4 if place else first), f"{evaluation['images']:,}, {label}", f"{evaluation['top1']:.4f}",
               chosen]


def _published_cells(entry, net):
    """The row of other authors' weights, from their log."""
    published = entry["published"]
    yield [f"{entry['name']}, by {entry['author']}; [fetched](params/manifest.json), not shipped", net,
           entry["dataset"], str(published["epochs"]),
           f"{published['images']:,} in [their log]({published['log']}), padding counted",
           f"{1 - published['last']['top1_error']:.4f}",
           f"{1 - published['top1_error']:.4f} (epoch {published['epoch']}, which is the file)"]


def table4():
    """Table IV: the published numbers beside the counts on the built nets, in every convention."""
    rows = []
    counts = {label: conventions(model, networks().get_model) for label, (model, _) in grid.TABLE4.items()}
    for label, found in counts.items():
        _, paper = grid.TABLE4[label]
        millions = {"total": found.total / 1e6, "trainable": found.trainable / 1e6}
        rows.append([
            label, f"{paper['params_m']}M", *(f"{value:.3f}M" for value in millions.values()),
            nearest(str(paper["params_m"]), millions), str(paper["gflops"]),
            *(f"{value:.3f}G" for value in found.giga.values()), nearest(str(paper["gflops"]), found.giga),
            f"{paper['top1_err']:.2f}", "-" if paper["top5_err"] is None else f"{paper['top5_err']:.2f}",
            "not run"])
    plain, atac = (counts[row].giga["v1b MACs"] for row in ("ResNet-50", "ATAC-ResNet-50"))
    return table("| net | parameters: published | total | trainable | it is | \"GFlops\": published | "
                 f"{' | '.join(CONVENTIONS)} | nearest | top-1 error: published | top-5 error: published | ours |",
                 rows) + (
        "\n\nThe counts are of the built nets at 224 x 224. One multiply-add is one MAC. The stride is on the first "
        "1x1 convolution (v1) or on the 3x3 (v1b). *It is* and *nearest* name the count that fits the published number "
        f"best; the paper's column mixes three conventions. On one host ATAC costs {atac - plain:+.3f} GMACs "
        f"({atac / plain - 1:+.1%}). docs/FIDELITY.md explains the readings of AA and FA.")
