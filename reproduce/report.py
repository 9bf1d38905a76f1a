"""The report: tables and figures of the ledger beside the paper's published numbers, and the tables of other pages."""
import dataclasses
from collections import Counter
from pathlib import Path

from engine import presets
from engine.recipe import CIFAR_PAPER
from model.registry import CIFAR
from support import ROOT
from support.files import write_whole
from support.tables import fill_tables, row, table
from support.words import counted, duration

from . import batch_statistics, figures, grid, ledger, rehearsal
from .blocks import alone_text, block_text, blocks_of, hardware_text, schedule_text
from .claims import FAILS, HOLDS, OPEN, conclusions
from .nets import nets_table, params_table, table4
from .scores import by_protocol

PAGE = "README.md"  # the whole report, in the folder of the results

LEGEND = ("Accuracies are shares of the test images; with several seeds, mean ± standard deviation. The published "
          "accuracies are best epochs on the test images, so compare them with `best epoch`; `last epoch` is free of "
          "that choice. Marks: <sup>S</sup> short schedule, <sup>D</sup> data that are not the official files, "
          "<sup>F</sup> the 100 fine labels, which the paper's CIFAR-100 column is not about, <sup>H</sup> the best "
          "epoch was chosen on held-out training images.")

METHOD = ("A claim *holds* if every difference with runs is above its margin (±), and *does not hold* if one is below "
          "minus its margin; otherwise it is *undecided*. *Reaches* means that the difference is not negative. All "
          "differences are of last epochs. **Between the methods**: both nets were trained with several seeds, and the "
          "margin is twice the standard error over the seeds (a run's variance is at least the variance of drawing so "
          "many test images). **Between these networks**: one seed, so another training may turn the answer around. "
          "Both networks answered the same test images; *557 images against 477* are those that only the first, or "
          "only the second, had right, and the margin is twice McNemar's standard error. *Not paired*: the images of "
          "one network are not known, and the margin is twice the error of drawing the test images twice.")


def conclusions_text(records):
    """The paper's questions: claim, answer and evidence, from the best runs for each; without smoke runs."""
    parts = []
    protocols = by_protocol([record for record in records if not record.smoke])
    for name, found in conclusions(protocols).items():
        answered = [(answer, conditions(protocol, protocols[protocol])) for answer, protocol in found if protocol]
        summary = f"**{grid.TITLES[name]}**: {tally(found)}."
        if not any(each.of_methods for answer, _ in answered for each in answer.comparisons):
            summary += " No answer is about the methods yet: that takes at least two seeds of both nets."
        parts.append(summary)
        if answered:
            parts += answers_table(answered)
        without = [f"{answer.question}, {answer.claim}" for answer, protocol in found if protocol is None]
        if without:
            parts.append(f"Without runs so far: {'; '.join(without)}.")
    without = [grid.TITLES[name] for name in (grid.CIFAR10, grid.COARSE)
               if name not in {protocol.data_name for protocol in protocols}]
    if without:
        parts.append(f"No runs on a whole training set so far: {', '.join(without)}.")
    return "\n\n".join([*parts, METHOD] if protocols else parts)


def answers_table(answered):
    """[the conditions that most answers share, the table]. answered: [(Answer, its conditions)]."""
    (usual, times), = Counter(where for _, where in answered).most_common(1)
    rows = []
    for answer, where in answered:
        evidence = [*map(str, answer.comparisons), *[where] * (where != usual)]
        if answer.missing:
            evidence.append(f"not run: b = {', '.join(label[len('b = '):] for label in answer.missing)}")
        rows.append([answer.question, answer.claim, str(answer), "; ".join(evidence)])
    others = "" if times == len(answered) else ", except where a row says others"
    return [f"Conditions{others}: {usual}.", table("| | claim | answer | evidence |", rows)]


def conditions(protocol, scores):
    """The schedule and the data of a protocol's runs, in a few words."""
    data = next(iter(scores.values())).records[0].result.data
    return f"{schedule_text(protocol)}; data: {ledger.data_label(data)}"


def tally(found):
    """How many claims have which answer. found: as in `conclusions`."""
    seen = [answer.verdict if protocol else None for answer, protocol in found]
    words = {HOLDS: ("holds", "hold"), FAILS: ("does not hold", "do not hold"), OPEN: ("is undecided", "are undecided"),
             None: ("has no runs", "have no runs")}
    return f"of {counted(len(seen), 'claim')} " + ", ".join(
        f"{seen.count(kind)} {words[kind][seen.count(kind) > 1]}" for kind in words if kind in seen)


def runs_table(records):
    """The runs, one per line; smoke runs in one line for all."""
    if not records:
        return "The ledger is empty."
    rows, smoke = [], [record for record in records if record.smoke]
    for record in sorted(records, key=lambda record: (record.smoke, -record.epochs, record.id)):
        if record.smoke:
            continue
        run, result = record.experiment, record.result
        labels = f" ({run.label_mode} labels)" if run.label_mode else ""
        revision = result.environment["git_revision"] or "unknown"
        best = f"{result.best.accuracy:.4f} ({result.best.epoch}, {result.chosen_on})"
        rows.append([
            f"[{record.id}](runs/{record.id})", f"{run.model}, b = {run.blocks}",
            f"{run.dataset}{labels}, {ledger.data_label(result.data)}", str(record.epochs),
            str(run.seed), f"{result.last.accuracy:.4f}", best, duration(result.seconds),
            f"{result.train_images_per_second:,.0f}", hardware_text(result.environment),
            f"{revision[:7]}{'+' * revision.endswith('+changes')}"])
    text = table("| run | net | data | epochs | seed | last epoch | best epoch (chosen on) | time | images/s | "
                 "hardware | revision |", rows)
    if smoke:
        sizes = sorted({record.result.data["train_images"] for record in smoke})
        links = ", ".join(f"[{record.id}](runs/{record.id})" for record in smoke)
        text += (f"\n\n{counted(len(smoke), 'smoke run')} on {' or '.join(map(str, sizes))} training images, which "
                 f"mean nothing about the nets, are in the ledger and nowhere above: {links}.")
    return text


def published_table3():
    """Table III as published."""
    paper, datasets = grid.PAPER["table3"], ("cifar10", "cifar100")
    heads = [f"{dataset}, b = {b}" for dataset in datasets for b in paper["blocks"]]
    return "The published accuracies, of the best epoch on the test images (CIFAR-100: the 20 superclasses):\n\n" \
        + table(f"| | {' | '.join(heads)} |", [
            [name, *(f"{number:.3f}" for dataset in datasets for number in paper[dataset][name])]
            for name in paper["cifar10"]])


def exhibit_text(name, records):
    """An exhibit in Markdown: its blocks without smoke runs, or what to do if there are none."""
    exhibit = grid.EXHIBITS[name]
    blocks = [block for block in blocks_of(exhibit, records) if not block.smoke]
    parts = [alone_text(block, "") if block.alone else block_text(block, "") for block in blocks]
    if not parts:
        parts = [f"No run on a whole training set yet: `bash scripts/{name}.sh` trains them."]
    return "\n\n".join([*parts, published_table3()] if exhibit is grid.TABLE3 else parts)


def own_text(exhibit, runs, data, results):
    """The output of a command that trained runs of an exhibit: its own cells, then the place of all others.

    data: {data name: the facts about the data} that it trained on.
    """
    cells = frozenset(map(grid.cell_of, runs))
    trained = {(run.data_name, run.recipe.epochs, data[run.data_name]["sha256"])
               for run in runs if run.data_name in data}
    parts = [block_text(dataclasses.replace(block, only=cells), f"{results}/")
             for block in blocks_of(exhibit, ledger.read(results))
             if (block.protocol.data_name, block.protocol.epochs, block.protocol.data_sha256) in trained
             and not block.protocol.val_split and cells & set(block.scores)]
    return "\n\n".join([*parts, f"All runs of {exhibit.title}, beside the published numbers, are in {results / PAGE}"])


def choice_text(records):
    """What choosing the best epoch adds to an accuracy, by the runs that chose it on held-out training images."""
    rows = []
    for record in sorted(records, key=lambda record: record.id):
        if record.smoke or not record.result.held_out:
            continue
        result, held = record.result, record.result.held_out
        rows.append([f"[{record.id}](runs/{record.id})", str(result.best.epoch),
                     *(f"{pair['best'].accuracy:.4f} ({pair['best'].accuracy - pair['last'].accuracy:+.4f})"
                       for pair in (held, {"last": result.last, "best": result.best}))])
    if not rows:
        return "No run with `--val-split` yet."
    return ("The best epoch is the luckiest one on the images that choose it. These runs chose it on training images "
            "that they held out; in brackets, the difference to the last epoch. What it gains on the held-out images "
            "and not on the test images is luck, and so is a part of any accuracy *of the best epoch on the test "
            "images*, the paper's and ours.\n\n"
            + table("| run | best epoch | on the held-out images | on the test images |", rows))


def page(records):
    """The whole report in Markdown."""
    parts = ["# Results", "`python -m reproduce report` renders this page from the records in `runs/`; do not edit it. "
             f"The published numbers are from {grid.PAPER['source']}", "## Conclusions", conclusions_text(records),
             "## How to read the tables", LEGEND]
    for name, exhibit in grid.EXHIBITS.items():
        parts += [f"## {exhibit.title}", f"`bash scripts/{name}.sh`", exhibit_text(name, records)]
        if name == "table3":
            parts += ["## Table IV: ImageNet", table4()]
    parts += ["## What choosing the epoch is worth", choice_text(records)]
    parts += ["## Every run", "Each folder has the run's record (with the checksums of all its files), metrics and "
              "log.", runs_table(records)]
    return "\n\n".join(parts) + "\n"


def figures_of(records):
    """{file name: numbers} of every figure of the report."""
    return {block.figures[kind]: numbers for exhibit in grid.EXHIBITS.values()
            for block in blocks_of(exhibit, records) for kind, numbers in figures.numbers_of(block).items()}


def update(results=ledger.RESULTS):
    """Render the report of a results folder again; True if that changed something."""
    results = Path(results)
    records = ledger.read(results)
    changed = figures.save(figures_of(records), results / "figures")
    return _write_if_new(results / PAGE, page(records)) or changed


def _write_if_new(path, text):
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    write_whole(path, text)
    return True


# ---- The pages beside the report


def best_evidence(records):
    """{cell of CIFAR-10: (protocol, its scores)} by the longest schedule and the most seeds."""
    best = {}
    for protocol, scores in by_protocol([record for record in records if not record.smoke]).items():
        if protocol.data_name == grid.CIFAR10 and not protocol.val_split:
            for cell, found in scores.items():
                best.setdefault(cell, (protocol, found))
    return best


def headline(records, count=3):
    """The best accuracies beside the published ones, as an item of a list."""
    best = {cell: found for cell, found in best_evidence(records).items() if cell in grid.PUBLISHED}
    if not best:
        return "- **Best accuracies here**: the ledger has no run."
    shown = sorted(best, key=lambda cell: -best[cell][1].mean("best"))[:count]
    numbers = [f"{CIFAR.parts[grid.unit(cell)].label} {best[cell][1].mean('best'):.4f} after "
               f"{best[cell][0].epochs} epochs ({grid.PUBLISHED[cell]})" for cell in shown]
    return f"- **Best accuracies here** (published, after {CIFAR_PAPER.epochs} epochs): {', '.join(numbers)}."


def results_table(records):
    """CIFAR-10, nets by b: the published accuracy and ours by the best evidence, both of best epochs."""
    best = best_evidence(records)
    cells = dict.fromkeys(
        entry.cell for exhibit in (grid.TABLE3, grid.FIG7, grid.FIG8) for entry in exhibit.entries
        if entry.cell.data_name == grid.CIFAR10 and (entry.cell in best or entry.cell in grid.PUBLISHED))
    depths = sorted({cell.blocks for cell in cells})
    rows = []
    for unit in dict.fromkeys(grid.unit(cell) for cell in cells):
        own = {cell.blocks: cell for cell in cells if grid.unit(cell) == unit}
        rows.append([CIFAR.parts[unit].label,
                     *(_result(own[blocks], best) if blocks in own else "" for blocks in depths)])
    data = dict.fromkeys(ledger.data_label(found.records[0].result.data) for _, found in best.values())
    return table(row(["CIFAR-10", *(f"b = {blocks}" for blocks in depths)]), rows) + (
        "\n\nPublished / **ours**, both of the best epoch on the 10,000 test images; in brackets the epochs of ours "
        f"(the paper has {CIFAR_PAPER.epochs}) and its seeds. Data of ours: {', '.join(data)}.")


def _result(cell, best):
    published = grid.PUBLISHED.get(cell)
    text = "-" if published is None else f"{published:.3f}"
    if cell not in best:
        return text
    protocol, found = best[cell]
    return f"{text} / **{found.mean('best'):.4f}** ({protocol.epochs}; {counted(len(found.records), 'seed')})"


PAGES = {
    "README.md": {"headline": lambda: headline(ledger.read()), "results": lambda: results_table(ledger.read()),
                  "params": params_table},
    "docs/FIDELITY.md": {"batch-statistics": batch_statistics.text},
    "docs/IMAGENET.md": {"rehearsal": lambda: rehearsal.commands_table(rehearsal.read()),
                         "findings": lambda: rehearsal.findings(rehearsal.read())},
    "docs/MODELS.md": {"nets": nets_table, "table4": table4},
    "docs/TRAINING.md": {"recipes": presets.table},
}


def render(page, text):
    """A page's text with every table between its marks rendered again. page : its name in PAGES."""
    return fill_tables(text, PAGES[page], page)


def update_pages():
    """Render the tables of PAGES again; True if that changed something."""
    changed = False
    for page in PAGES:
        changed |= _write_if_new(ROOT / page, render(page, (ROOT / page).read_text(encoding="utf-8")))
    return changed
