"""The report: tables and figures from the ledger, beside what the paper published, and the tables of README.md."""
import dataclasses
import functools
from pathlib import Path
from typing import Optional

from engine import runlog
from engine.recipe import CIFAR_PAPER
from model import get_model
from model.complexity import CONVENTIONS, conventions, count, nearest
from model.registry import CIFAR
from support import ROOT
from support.tables import fill_tables
from support.words import counted

from . import figures, grid, ledger, publish
from .runner import Data, Speeds, duration
from .scores import OPEN, Protocol, answers, by_protocol

PAGE = "README.md"  # the whole report, in the folder of the results

LEGEND = ("Accuracies are shares of the test images: mean ± standard deviation over the seeds where there are several. "
          "The published ones are best epochs on the test images, so `best epoch` is what they compare with; `last "
          "epoch` is free of that choice. Marks: <sup>S</sup> short schedule, <sup>D</sup> data that are not the "
          "official files, <sup>T</sup> too few training images to mean anything (a smoke run), <sup>F</sup> the 100 "
          "fine labels, which the paper's CIFAR-100 column is not about, <sup>H</sup> the best epoch was chosen on "
          "held-out training images.")


def _nets():
    """(name, arguments, what README's table says of it) of every CIFAR net, a variant beside its net's default too."""
    for name, part in CIFAR.parts.items():
        for variant, module in (part.variants or {None: part}).items():
            default = variant is None or module is part.module({})
            yield CIFAR.model(name), {} if default else {"variant": variant}, module.meaning


def nets_table():
    """Every CIFAR net: parameters at b = 1, 3 and 5 and multiply-adds at b = 3, counted on the built nets."""
    lines = ["| `get_model(...)` | unit or module | parameters (trainable), b = 1 | b = 3 | b = 5 | MACs, b = 3 |",
             "|---|---|---|---|---|---|"]
    for name, arguments, meaning in _nets():
        counts = {blocks: count(get_model(name, blocks=blocks, **arguments)) for blocks in (1, 3, 5)}
        call = f"`{name}`" + "".join(f", `{key}=\"{value}\"`" for key, value in arguments.items())
        cells = [f"{counts[blocks].total:,} ({counts[blocks].trainable:,})" for blocks in (1, 3, 5)]
        lines.append(f"| {call} | {meaning} | {' | '.join(cells)} | {counts[3].macs / 1e6:.3f}M |")
    return "\n".join(lines)


def params_table():
    """The shipped weights with their scores, from params/manifest.json and the evaluations in results/."""
    lines = ["| name in params/ | net | trained on | epochs | test images | last epoch | best epoch |",
             "|---|---|---|---|---|---|---|"]
    for entry in publish.read_manifest():
        arguments = ", ".join(f"{key} {value}" for key, value in entry["arguments"].items()
                              if key in ("blocks", "reduction", "replaced_sites") and value is not None)
        cells = _own_cells if publish.is_ours(entry) else _published_cells
        lines += [f"| {' | '.join(row)} |" for row in cells(entry, f"{entry['model']}, {arguments}")]
    return "\n".join(lines)


def _own_cells(entry, net):
    """The rows of weights of ours: one for each set of test images on which they were evaluated."""
    publish.record_of(entry)
    evaluations = publish.evaluations(entry)
    labels = f" ({entry['label_mode']} labels)" if entry["label_mode"] else ""
    first = [f"[{entry['name']}]({entry['record']})", net,
             f"{entry['dataset']}{labels}, {ledger.data_label(entry['data'])}", str(entry["recipe"]["epochs"])]
    for place, evaluation in enumerate(evaluations):
        best = "" if place else f"{entry['best']['accuracy']:.4f} (epoch {entry['best']['epoch']})"
        label = ledger.data_label({"sha256": evaluation["data_sha256"], "variant": evaluation["data"],
                                   "official": evaluation["data"] == "official"})
        yield [*([""] * 4 if place else first), f"{evaluation['images']:,}, {label}", f"{evaluation['top1']:.4f}", best]


def _published_cells(entry, net):
    """The row of somebody else's weights: what their log says of them."""
    published = entry["published"]
    yield [f"{entry['name']}, by {entry['author']}; [fetched](params/manifest.json), not shipped", net,
           entry["dataset"], str(published["epochs"]),
           f"{published['images']:,} in [their log]({published['log']}), padding counted",
           f"{1 - published['last']['top1_error']:.4f}",
           f"{1 - published['top1_error']:.4f} (epoch {published['epoch']}, which is the file)"]


@functools.lru_cache(maxsize=None)
def counts(model, arguments):
    """(total, trainable) parameters of a net; arguments as pairs."""
    complexity = count(get_model(model, **dict(arguments)))
    return complexity.total, complexity.trainable


def counts_of(cell):
    return counts(cell.model, tuple(cell.net.items()))


# ---- Blocks: what may stand in one table


@dataclasses.dataclass(frozen=True)
class Block:
    """The runs of one exhibit under one protocol; of Figure 6 those of one b, else blocks is None.

    only: the cells that its table shows; None for all.
    """

    exhibit: grid.Exhibit
    protocol: Protocol
    scores: dict
    blocks: Optional[int]
    only: Optional[frozenset] = None

    def shows(self, cell):
        """Whether the table has a row for it."""
        return self.only is None or cell in self.only

    @property
    def entries(self):
        """The exhibit's rows of this task and b; extras only where they were run."""
        return [entry for entry in self.exhibit.entries if entry.cell.task == self.protocol.task
                and self.blocks in (None, entry.cell.blocks)
                and (not entry.extra or self.protocol.task is grid.FINE or entry.cell in self.scores)]

    @property
    def data(self):
        """The data of its runs, as in their records."""
        return next(iter(self.scores.values())).records[0].result.data

    @property
    def whole(self):
        """Whether the runs saw a whole training set."""
        return self.data["train_images"] >= grid.WHOLE

    @property
    def marks(self):
        """The letters of LEGEND that every number here carries."""
        return "".join(mark for mark, holds in (
            ("S", self.protocol.short), ("D", not self.data["official"]), ("T", not self.whole),
            ("F", self.protocol.task is grid.FINE), ("H", self.protocol.val_split > 0)) if holds)

    @property
    def figure(self):
        """File name of its figure."""
        depth = f"-b{self.blocks}" if self.blocks else ""
        held = f"-v{self.protocol.val_split}" if self.protocol.val_split else ""
        return (f"{self.exhibit.name}-{self.protocol.task.name}{depth}-e{self.protocol.epochs}-"
                f"{self.protocol.data_sha256[:8]}{held}.png")


def blocks_of(exhibit, records):
    """The blocks of an exhibit that have runs, in the order of `by_protocol`."""
    found = []
    for protocol, scores in by_protocol(records).items():
        cells = {entry.cell for entry in exhibit.entries}
        own = {cell: score for cell, score in scores.items() if cell in cells}
        depths = [None]
        if exhibit is grid.FIG6:
            # The two ends are cells of other exhibits too; without a step between them there is nothing to show.
            depths = sorted({cell.blocks for cell in own if cell.arguments})
        for depth in depths:
            part = {cell: score for cell, score in own.items() if depth in (None, cell.blocks)}
            if part:
                found.append(Block(exhibit, protocol, part, depth))
    return found


def leading(blocks):
    """For README.md: of each task and b the block with the most cells, of those on whole training sets."""
    best = {}
    for block in blocks:
        key = block.protocol.task, block.blocks
        if block.whole and (key not in best or len(block.scores) > len(best[key].scores)):
            best[key] = block
    return list(best.values())


def caption(block):
    """What a block's numbers are, in one paragraph."""
    protocol, data = block.protocol, block.data
    schedule = f"{counted(protocol.epochs, 'epoch')}, the paper's schedule"
    if protocol.epochs != CIFAR_PAPER.epochs:
        schedule = (f"**{'short' if protocol.short else 'long'} schedule: {counted(protocol.epochs, 'epoch')}, the "
                    f"paper has {CIFAR_PAPER.epochs}**, decays moved in proportion")
    label = ledger.data_label(data)
    images = "official data" if data["official"] else f"**not the official data: {label}**"
    if not block.whole:
        images += f", **only {data['train_images']:,} training images: a smoke run**"
    held = f"; **the best epoch was chosen on {protocol.val_split:,} held-out training images**" \
        if protocol.val_split else ""
    depth = f", b = {block.blocks}" if block.blocks else ""
    return (f"**{protocol.task.title}{depth}**: {schedule}; {images}; scored on {data['test_images']:,} test images"
            f"{held}.")


def effort(block):
    """Training time of a block's runs, by hardware, and what the whole exhibit would take at those speeds."""
    machines, resumed = {}, 0
    for score in (score for cell, score in block.scores.items() if block.shows(cell)):
        for record in score.records:
            machines.setdefault(hardware_text(record.result.environment), []).append(record)
            resumed += record.result.resumed > 0
    cells = {entry.cell for entry in block.exhibit.entries if not entry.extra}
    data = Data(None, grid.WHOLE, block.data["test_images"])
    parts = []
    for name, records in sorted(machines.items()):
        speeds = Speeds(records)
        whole = sum(speeds.epoch(cell, data) for cell in cells) * CIFAR_PAPER.epochs
        parts.append(f"{duration(sum(record.result.seconds for record in records))} for {len(records)} "
                     f"run{'s' * (len(records) > 1)} on {name} (at that speed all {len(cells)} cells with the paper's "
                     f"{CIFAR_PAPER.epochs} epochs, one after the other, would take about {duration(whole)})")
    return f"Training time: {'; '.join(parts)}." + (
        f" {resumed} of them stopped and gone on with: the begun parts of interrupted epochs are not counted."
        if resumed else "")


def hardware_text(hardware):
    if hardware["gpus"]:
        return ", ".join(hardware["gpus"])
    return f"{hardware['processor']}, {hardware['threads']} CPU thread{'s' * (hardware['threads'] != '1')}"


def accuracy(score, which, marks):
    """Mean and spread of a cell's accuracies with the block's marks."""
    spread = score.spread(which)
    return f"{score.mean(which):.4f}" + (f" ± {spread:.4f}" if spread is not None else "") \
        + (f" <sup>{marks}</sup>" if marks else "")


def runs_text(score, prefix):
    """Links from the seeds to their records."""
    return ", ".join(f"[seed {record.experiment.seed}]({prefix}runs/{record.id})" for record in score.records)


def depth_table(block, prefix):
    """Rows of Table III, Figure 7 or Figure 8: ours and published, for every b of which there is a run."""
    lines = ["| net | b | parameters | ours, last epoch | ours, best epoch | published | last - published | "
             "best - published | runs |", "|---|---|---|---|---|---|---|---|---|"]
    depths = sorted({entry.cell.blocks for entry in block.entries})
    run = {cell.blocks for cell in block.scores}
    for depth in depths:
        for entry in block.entries:
            if entry.cell.blocks != depth or depth not in run or not block.shows(entry.cell):
                continue
            cell, score = entry.cell, block.scores.get(entry.cell)
            published = grid.PUBLISHED.get(cell)
            parts = [entry.row, str(depth), f"{counts_of(cell)[0]:,}", "not run", "",
                     f"{published:.3f}" if published is not None else "-", "", "", ""]
            if score is not None:
                parts[3:5] = [accuracy(score, which, block.marks) for which in ("last", "best")]
                parts[8] = runs_text(score, prefix)
                if published is not None:
                    parts[6:8] = [f"{score.mean(which) - published:+.4f}" for which in ("last", "best")]
            lines.append(f"| {' | '.join(parts)} |")
    without = [str(depth) for depth in depths if depth not in run]
    if without and block.only is None:
        lines += ["", f"Not run under these conditions: b = {', '.join(without)}."]
    return "\n".join(lines)


def gains(block):
    """Figure 6's points of a block as dicts, and whether both ends are there; share: of the gain from end to end."""
    task, depth = block.protocol.task, block.blocks
    full = 6 * depth + 1
    ends = [block.scores.get(grid.replaced(task, depth, end)) for end in (0, full)]
    base = counts_of(grid.replaced(task, depth, 0))[1]
    gain = ends[1].mean() - ends[0].mean() if all(ends) else 0
    points = []
    for sites in range(full + 1):
        cell = grid.replaced(task, depth, sites)
        if cell in block.scores:
            score = block.scores[cell]
            points.append({
                "sites": sites, "cell": cell, "increase": counts_of(cell)[1] / base - 1, "last": score.mean(),
                "spread": score.spread(), "stage": sites in grid.stage_counts(depth),
                "share": (score.mean() - ends[0].mean()) / gain if gain > 0 else None})
    return points


def replacement_table(block, prefix):
    """Figure 6: accuracy and its share of the whole gain as ATAC takes more sites, from the last."""
    lines = ["| sites with ATAC | parameters | increase (trainable) | ours, last epoch | ours, best epoch | share of "
             "the gain | runs |", "|---|---|---|---|---|---|---|"]
    full = 6 * block.blocks + 1
    points = [point for point in gains(block) if block.shows(point["cell"])]
    for point in points:
        score = block.scores[point["cell"]]
        stage = " (whole stages)" if point["stage"] else ""
        share = "-" if point["share"] is None else f"{point['share']:.2f}"
        lines.append(f"| {point['sites']} of {full}{stage} | {counts_of(point['cell'])[0]:,} | "
                     f"{point['increase']:.4f} | {accuracy(score, 'last', block.marks)} | "
                     f"{accuracy(score, 'best', block.marks)} | {share} | {runs_text(score, prefix)} |")
    without = sorted(set(range(full + 1)) - {point["sites"] for point in points})
    if without and block.only is None:
        lines += ["", f"Not run under these conditions: {', '.join(map(str, without))} sites."]
    if any(point["share"] is None for point in points):
        lines += ["", "No shares: they need both ends, and a gain between them."]
    return "\n".join(lines)


def block_text(block, prefix):
    """A block in Markdown: caption, table, figure, effort. prefix leads from the page to the results."""
    table = replacement_table if block.exhibit is grid.FIG6 else depth_table
    return "\n\n".join([caption(block), table(block, prefix),
                        f"![{block.exhibit.title}: {block.protocol.task.title}]({prefix}figures/{block.figure})",
                        effort(block)])


def numbers_of(block):
    """What the block's figure shows, for figures.draw."""
    schedule = f"{block.protocol.epochs} of {CIFAR_PAPER.epochs} epochs" if block.protocol.short \
        else counted(block.protocol.epochs, "epoch")
    label = ledger.data_label(block.data)
    depth = f", b = {block.blocks}" if block.blocks else ""
    title = f"{block.exhibit.title}\n{block.protocol.task.title}{depth}; {schedule}; data: {label}" \
        + ("" if block.whole else " (SMOKE RUN)")
    if block.exhibit is grid.FIG6:
        points = gains(block)
        series = {key: [point[key] for point in points]
                  for key in ("sites", "increase", "last", "spread", "share", "stage")}
        return {"kind": "replacement", "title": title, "series": [series]}
    rows = {}
    for entry in block.entries:
        rows.setdefault(entry.row, []).append(entry.cell)
    series = []
    for row, cells in rows.items():
        scores = [block.scores.get(cell) for cell in cells]
        series.append({"row": row, "blocks": [cell.blocks for cell in cells],
                       "last": [score and score.mean() for score in scores],
                       "spread": [score and score.spread() for score in scores],
                       "published": [grid.PUBLISHED.get(cell) for cell in cells]})
    return {"kind": "depth", "title": title, "series": series}


# ---- What is not a block


def table4():
    """Table IV: the published numbers beside the counts of the nets as they are built, in every convention."""
    lines = [f"| net | parameters: published | total | trainable | it is | \"GFlops\": published | "
             f"{' | '.join(CONVENTIONS)} | nearest | top-1 error: published | top-5 error: published | ours |",
             "|" + "---|" * (9 + len(CONVENTIONS))]
    counts = {net.row: conventions(net.model) for net in grid.TABLE4}
    for net in grid.TABLE4:
        paper, found = net.published, counts[net.row]
        millions = {"total": found.total / 1e6, "trainable": found.trainable / 1e6}
        lines.append("| " + " | ".join([
            net.row, f"{paper['params_m']}M", *(f"{value:.3f}M" for value in millions.values()),
            nearest(str(paper["params_m"]), millions), str(paper["gflops"]),
            *(f"{value:.3f}G" for value in found.giga.values()), nearest(str(paper["gflops"]), found.giga),
            f"{paper['top1_err']:.2f}", "-" if paper["top5_err"] is None else f"{paper['top5_err']:.2f}",
            "not run"]) + " |")
    plain, atac = (counts[row].giga["v1b MACs"] for row in ("ResNet-50", "ATAC-ResNet-50"))
    lines += ["", "Counted on the built nets at 224 x 224; one multiply-add is one MAC; stride on the first 1x1 "
              "convolution (v1) or on the 3x3 (v1b). *It is* and *nearest* name the count that the published number "
              "fits best: the paper's column mixes three conventions. On one host ATAC costs "
              f"{atac - plain:+.3f} GMACs ({atac / plain - 1:+.1%}). The readings behind AA and FA: docs/FIDELITY.md."]
    return "\n".join(lines)


def answers_text(records, brief):
    """The paper's questions and what the ledger says of them, a table a protocol; brief: only the `leading` ones."""
    parts = []
    blocks = [Block(grid.TABLE3, protocol, scores, None) for protocol, scores in by_protocol(records).items()]
    for block in leading(blocks) if brief else blocks:
        marks = f" <sup>{block.marks}</sup>" if block.marks else ""
        lines = ["| | claim | answer | differences of the last epochs |", "|---|---|---|---|"]
        for answer in answers(block.protocol, block.scores):
            seen = "; ".join(map(str, answer.comparisons)) or "-"
            scope = ""
            if answer.missing and answer.comparisons:
                seen += f"; not run: {', '.join(answer.missing)}"
                scope = " where it was run" if answer.verdict != OPEN else ""
            lines.append(f"| {answer.question} | {answer.claim} | **{answer.verdict}**{scope}{marks} | {seen} |")
        parts += [caption(block), "\n".join(lines)]
    if not parts:
        return "Not enough runs yet."
    return "\n\n".join([*parts, (
        "A claim *holds* where every difference of which there are runs is above its margin, and *does not hold* where "
        "one is below minus its margin; the margin is twice the standard error of the difference, in which a run's "
        "variance is never taken to be less than that of drawing so many test images. *Reaches*: the difference is not "
        "negative. The answers are about the runs they stand with, not about the paper's schedule where those had "
        "less.")])


def runs_table(records):
    """Every run of the ledger, a line each."""
    lines = ["| run | net | data | epochs | seed | last epoch | best epoch (chosen on) | time | images/s | hardware | "
             "revision |", "|---|---|---|---|---|---|---|---|---|---|---|"]
    for record in records:
        run, result = record.experiment, record.result
        labels = f" ({run.label_mode} labels)" if run.label_mode else ""
        revision = result.environment["git_revision"] or "unknown"
        best = f"{result.best.accuracy:.4f} ({result.best.epoch}, {result.chosen_on})"
        lines.append(" | ".join([
            f"| [{record.id}](runs/{record.id})", f"{run.model}, b = {run.net['blocks']}",
            f"{run.dataset}{labels}, {ledger.data_label(result.data)}", str(record.epochs),
            str(run.seed), f"{result.last.accuracy:.4f}", best, duration(result.seconds),
            f"{result.train_images_per_second:,.0f}", hardware_text(result.environment),
            f"{revision[:7]}{'+' * revision.endswith('+changes')} |"]))
    return "\n".join(lines) if records else "The ledger is empty."


def published_table3():
    """Table III as it is published."""
    blocks = grid.PAPER["table3"]["blocks"]
    tasks = (grid.CIFAR10, grid.COARSE)
    lines = ["Published, for the best epoch on the test images (CIFAR-100: the 20 superclasses):", "",
             "| | " + " | ".join(f"{task.dataset}, b = {b}" for task in tasks for b in blocks) + " |",
             "|---" * (1 + len(tasks) * len(blocks)) + "|"]
    for row in grid.PAPER["table3"]["cifar10"]:
        numbers = [number for task in tasks for number in grid.PAPER["table3"][task.dataset][row]]
        lines.append(f"| {row} | " + " | ".join(f"{number:.3f}" for number in numbers) + " |")
    return "\n".join(lines)


def exhibit_text(name, records, prefix="", brief=False):
    """An exhibit in Markdown: its blocks, or what to do where there are none. brief: only the `leading` blocks."""
    if name == "table4":
        return table4()
    exhibit = grid.EXHIBITS[name]
    blocks = blocks_of(exhibit, records)
    chosen = leading(blocks) if brief else blocks
    parts = [block_text(block, prefix) for block in chosen]
    if not parts:
        parts = [f"No run{' on a whole training set' * brief} yet: `bash scripts/{name}.sh` trains them."]
    if len(chosen) < len(blocks):
        parts.append(f"Runs with other schedules or data: [{prefix}{PAGE}]({prefix}{PAGE}).")
    return "\n\n".join([*parts, published_table3()] if exhibit is grid.TABLE3 else parts)


def own_text(exhibit, runs, data, results):
    """What a call that trained runs of an exhibit shows: its own cells, then where all the others are.

    data: {task: Data} of the tasks that it trained on.
    """
    cells = frozenset(run.cell for run in runs)
    trained = {(run.cell.task, run.epochs, data[run.cell.task].sha256) for run in runs if run.cell.task in data}
    parts = [block_text(dataclasses.replace(block, only=cells), f"{results}/")
             for block in blocks_of(exhibit, ledger.read(results))
             if (block.protocol.task, block.protocol.epochs, block.protocol.data_sha256) in trained
             and not block.protocol.val_split and cells & set(block.scores)]
    return "\n\n".join([*parts, f"All runs of {exhibit.title}, beside the published numbers: {results / PAGE}"])


def page(records):
    """The whole report in Markdown."""
    parts = ["# Results", "Rendered by `python -m reproduce report` from the records in `runs/`; do not edit. "
             f"Published: {grid.PAPER['source']}", LEGEND, "## The paper's questions",
             answers_text(records, False)]
    for name, exhibit in grid.EXHIBITS.items():
        parts += [f"## {exhibit.title}", exhibit_text(name, records)]
        if name == "table3":
            parts += ["## Table IV: ImageNet", table4()]
    parts += ["## Every run", "Each folder has the record, with the checksums of all the run's files, its metrics and "
              "its log.", runs_table(records)]
    return "\n\n".join(parts) + "\n"


def figures_of(records):
    """{file name: numbers} of every figure of the report."""
    return {block.figure: numbers_of(block) for exhibit in grid.EXHIBITS.values()
            for block in blocks_of(exhibit, records)}


def update(results=ledger.RESULTS):
    """Render the report of a results folder anew; True when that changed something."""
    results = Path(results)
    records = ledger.read(results)
    changed = figures.save(figures_of(records), results / "figures")
    return _write_if_new(results / PAGE, page(records)) or changed


def _write_if_new(path, text):
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    runlog.write_text(path, text)
    return True


# ---- README.md


def _in_readme(name):
    return lambda: exhibit_text(name, ledger.read(), "results/", brief=True)


TABLES = {"nets": nets_table, "params": params_table, "legend": lambda: LEGEND,
          "answers": lambda: answers_text(ledger.read(), True),
          **{name: _in_readme(name) for name in (*grid.EXHIBITS, "table4")}}


def render(text):
    """README's text with every table between its marks rendered anew."""
    return fill_tables(text, TABLES, "README.md")


def update_readme():
    """Render README.md's tables anew; True when that changed something."""
    readme = ROOT / "README.md"
    return _write_if_new(readme, render(readme.read_text(encoding="utf-8")))
