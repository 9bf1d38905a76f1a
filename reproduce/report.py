"""The report: tables and figures of the ledger beside the paper's published numbers, and the tables of README.md."""
import dataclasses
from pathlib import Path

from engine import presets
from support import ROOT
from support.files import write_whole
from support.tables import fill_tables
from support.words import duration

from . import figures, grid, ledger
from .blocks import Block, block_text, blocks_of, caption, hardware_text, leading, numbers_of
from .nets import nets_table, params_table, table4
from .scores import OPEN, answers, by_protocol

PAGE = "README.md"  # the whole report, in the folder of the results

LEGEND = ("Accuracies are shares of the test images; with several seeds, mean ± standard deviation. The published "
          "accuracies are best epochs on the test images, so compare them with `best epoch`; `last epoch` is free of "
          "that choice. Marks: <sup>S</sup> short schedule, <sup>D</sup> data that are not the official files, "
          "<sup>T</sup> too few training images to mean anything (a smoke run), <sup>F</sup> the 100 fine labels, "
          "which the paper's CIFAR-100 column is not about, <sup>H</sup> the best epoch was chosen on held-out "
          "training images.")


def answers_text(records, brief):
    """The paper's questions and the ledger's answers, one table per protocol; brief: only the `leading` ones."""
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
                scope = " in the runs so far" if answer.verdict != OPEN else ""
            lines.append(f"| {answer.question} | {answer.claim} | **{answer.verdict}**{scope}{marks} | {seen} |")
        parts += [caption(block), "\n".join(lines)]
    if not parts:
        return "Not enough runs yet."
    return "\n\n".join([*parts, (
        "A claim *holds* if every difference with runs is above its margin, and *does not hold* if one is below minus "
        "its margin. The margin is twice the standard error of the difference; a run's variance is at least the "
        "variance of drawing so many test images. *Reaches* means that the difference is not negative. The answers are "
        "about the runs in the table, which may have a shorter schedule than the paper's.")])


def runs_table(records):
    """Every run of the ledger, one per line."""
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
    """Table III as published."""
    blocks = grid.PAPER["table3"]["blocks"]
    tasks = (grid.CIFAR10, grid.COARSE)
    lines = ["The published accuracies, of the best epoch on the test images (CIFAR-100: the 20 superclasses):", "",
             "| | " + " | ".join(f"{task.dataset}, b = {b}" for task in tasks for b in blocks) + " |",
             "|---" * (1 + len(tasks) * len(blocks)) + "|"]
    for row in grid.PAPER["table3"]["cifar10"]:
        numbers = [number for task in tasks for number in grid.PAPER["table3"][task.dataset][row]]
        lines.append(f"| {row} | " + " | ".join(f"{number:.3f}" for number in numbers) + " |")
    return "\n".join(lines)


def exhibit_text(name, records, prefix="", brief=False):
    """An exhibit in Markdown: its blocks, or what to do if there are none. brief: only the `leading` blocks."""
    if name == "table4":
        return table4()
    exhibit = grid.EXHIBITS[name]
    blocks = blocks_of(exhibit, records)
    chosen = leading(blocks) if brief else blocks
    parts = [block_text(block, prefix) for block in chosen]
    if not parts:
        parts = [f"No run{' on a whole training set' * brief} yet: `bash scripts/{name}.sh` trains them."]
    if len(chosen) < len(blocks):
        parts.append(f"Runs with other schedules or data are in [{prefix}{PAGE}]({prefix}{PAGE}).")
    return "\n\n".join([*parts, published_table3()] if exhibit is grid.TABLE3 else parts)


def own_text(exhibit, runs, data, results):
    """The output of a command that trained runs of an exhibit: its own cells, then the place of all others.

    data: {task: Data} of the tasks that it trained on.
    """
    cells = frozenset(run.cell for run in runs)
    trained = {(run.cell.task, run.epochs, data[run.cell.task].sha256) for run in runs if run.cell.task in data}
    parts = [block_text(dataclasses.replace(block, only=cells), f"{results}/")
             for block in blocks_of(exhibit, ledger.read(results))
             if (block.protocol.task, block.protocol.epochs, block.protocol.data_sha256) in trained
             and not block.protocol.val_split and cells & set(block.scores)]
    return "\n\n".join([*parts, f"All runs of {exhibit.title}, beside the published numbers, are in {results / PAGE}"])


def page(records):
    """The whole report in Markdown."""
    parts = ["# Results", "`python -m reproduce report` renders this page from the records in `runs/`; do not edit it. "
             f"The published numbers are from {grid.PAPER['source']}", LEGEND, "## The paper's questions",
             answers_text(records, False)]
    for name, exhibit in grid.EXHIBITS.items():
        parts += [f"## {exhibit.title}", exhibit_text(name, records)]
        if name == "table3":
            parts += ["## Table IV: ImageNet", table4()]
    parts += ["## Every run", "Each folder has the run's record (with the checksums of all its files), metrics and "
              "log.", runs_table(records)]
    return "\n\n".join(parts) + "\n"


def figures_of(records):
    """{file name: numbers} of every figure of the report."""
    return {block.figure: numbers_of(block) for exhibit in grid.EXHIBITS.values()
            for block in blocks_of(exhibit, records)}


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


# ---- README.md


def _in_readme(name):
    return lambda: exhibit_text(name, ledger.read(), "results/", brief=True)


TABLES = {"nets": nets_table, "recipes": presets.table, "params": params_table, "legend": lambda: LEGEND,
          "answers": lambda: answers_text(ledger.read(), True),
          **{name: _in_readme(name) for name in (*grid.EXHIBITS, "table4")}}


def render(text):
    """README's text with every table between its marks rendered again."""
    return fill_tables(text, TABLES, "README.md")


def update_readme():
    """Render README.md's tables again; True if that changed something."""
    readme = ROOT / "README.md"
    return _write_if_new(readme, render(readme.read_text(encoding="utf-8")))
