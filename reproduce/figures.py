"""The figures of the report: their numbers, and files that hold a digest of them, so that a stale one is noticed."""
import functools
import hashlib
import inspect
import io
import json

from engine.figures import STYLE, scores, styled
from model.registry import CIFAR
from support.files import write_whole, writing

from . import grid, ledger
from .blocks import BASE, gains, schedule_text
from .claims import compare
from .plan import costs_of

NUMBERS = "Numbers"  # the PNG's text field with the digest of the drawn numbers
FORMATS = {".png": {"Software": None}, ".pdf": {"CreationDate": None, "Producer": None}}  # and what varies in each


def _title(block):
    depths = {cell.blocks for cell in block.scores}
    depth = f", b = {depths.pop()}" if len(depths) == 1 else ""
    schedule, _, _ = schedule_text(block.protocol).partition(",")
    return (f"{block.exhibit.title.partition(':')[0]}, {grid.TITLES[block.protocol.data_name]}{depth}\n"
            f"{schedule}; data: {ledger.data_label(block.data)}")


def _rows(block):
    """{row: [(cell, Scores)]} of the rows with runs, by depth."""
    rows = {}
    for entry in block.entries:
        if entry.cell in block.scores:
            rows.setdefault(entry.row, []).append((entry.cell, block.scores[entry.cell]))
    return rows


def _look(unit, row=None):
    part = CIFAR.parts[unit]
    return {"label": row or part.label, "color": part.color, "marker": part.marker}


def _accuracy(block):
    if block.exhibit is grid.FIG6:
        return _replacement("test accuracy, last epoch", [
            [point["increase"], point["last"], point["spread"], point["sites"]] for point in gains(block)])
    return {"drawn": "by_net", "series": [
        {**_look(grid.unit(cell), row), "ours": score.mean(), "spread": score.spread(),
         "published": grid.PUBLISHED.get(cell)}
        for row, ((cell, score),) in _rows(block).items()]}


def _replacement(label, points):
    return {"drawn": "replacement", "ylabel": label, "series": [{**_look("atac"), "points": points}]}


def _over(block, cost, label):
    series = []
    for row, runs in _rows(block).items():
        own = {entry.cell for entry in block.entries if entry.row == row}
        series.append({**_look(grid.unit(runs[0][0]), row),
                       "ours": [[cost(cell), score.mean(), score.spread()] for cell, score in runs],
                       "published": sorted([cost(cell), grid.PUBLISHED[cell]] for cell in own & set(grid.PUBLISHED))})
    return {"drawn": "over_cost", "cost": label, "series": series}


def _difference(block):
    base = {cell.blocks: score for cell, score in block.scores.items() if grid.unit(cell) == BASE}
    if block.exhibit is grid.FIG6:
        points = []
        for point in gains(block):
            compared = compare("", block.scores[point["cell"]], base[block.blocks])
            points.append([point["increase"], compared.difference, compared.margin if point["sites"] else None,
                           point["sites"]])
        return _replacement(f"accuracy minus {CIFAR.parts[BASE].label}'s", points)
    series = []
    for row, runs in _rows(block).items():
        compared = {cell.blocks: compare("", score, base[cell.blocks]) for cell, score in runs if cell.blocks in base}
        points = [[depth, each.difference, each.margin] for depth, each in compared.items()]
        if points and grid.unit(runs[0][0]) != BASE:
            series.append({**_look(grid.unit(runs[0][0]), row), "points": points})
    return {"drawn": "differences", "base": CIFAR.parts[BASE].label, "series": series}


def _share(block):
    return _replacement("share of the whole gain", [
        [point["increase"], point["share"], None, point["sites"]] for point in gains(block)])


KINDS = {"accuracy": _accuracy, "difference": _difference, "share": _share,
         "parameters": functools.partial(
             _over, cost=lambda cell: costs_of(cell).total / 1e3, label="parameters (thousands)"),
         "macs": functools.partial(
             _over, cost=lambda cell: costs_of(cell).macs / 1e6, label="multiply-adds of an image (millions)")}


def numbers_of(block):
    """{kind: numbers} of a block's figures."""
    return {kind: {"title": _title(block), **KINDS[kind](block)} for kind in block.kinds}


# ---- Files


def digest(numbers):
    """The text field of a figure: of its numbers and of the code that draws them."""
    content = json.dumps([numbers, STYLE], sort_keys=True) + inspect.getsource(scores)
    return hashlib.sha256(content.encode()).hexdigest()


def shown(path):
    """The digest in a figure's text field; None if there is no such figure."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.text.get(NUMBERS)
    except (OSError, AttributeError):
        return None


def draw(numbers, path):
    """Draw numbers with the function of engine.figures.scores that numbers["drawn"] names, to path and as a PDF beside.

    With the same matplotlib, the same numbers give the same bytes. Raises InputError if the disk refuses.
    """
    with styled() as pyplot:
        figure = scores.DRAWN[numbers["drawn"]](pyplot, numbers)
        for ending, fixed in reversed(FORMATS.items()):  # the PNG, with the digest, last
            buffer = io.BytesIO()
            figure.savefig(buffer, format=ending[1:],
                           metadata={**fixed, **({NUMBERS: digest(numbers)} if ending == ".png" else {})})
            write_whole(path.with_suffix(ending), buffer.getvalue(), "choose another folder")
        pyplot.close(figure)


def save(figures, folder):
    """Make a folder hold {name of a PNG: numbers}, each as PNG and PDF: draw missing and stale ones, remove all others.

    Returns whether anything changed.
    """
    changed = False
    wanted = {(folder / name).with_suffix(ending) for name in figures for ending in FORMATS}
    with writing(folder, "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.iterdir()):
            if path.suffix in FORMATS and path not in wanted:
                path.unlink()
                changed = True
    for name, numbers in figures.items():
        path = folder / name
        if shown(path) != digest(numbers) or not all(path.with_suffix(ending).exists() for ending in FORMATS):
            draw(numbers, path)
            changed = True
    return changed
