"""The figures of the report as PNG files. Each holds a digest of its numbers, so that a stale one is noticed."""
import hashlib
import io
import json
import textwrap

from model.registry import CIFAR
from support.files import write_whole, writing

from . import grid

NUMBERS = "Numbers"  # the PNG's text field with the digest of the drawn numbers
COLORS = {entry.row: CIFAR.parts[entry.cell.unit].color for exhibit in grid.EXHIBITS.values()
          for entry in exhibit.entries}


def digest(numbers):
    """The text field of a figure of these JSON-able numbers."""
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()


def shown(path):
    """The digest in a figure's text field; None if there is no such figure."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.text.get(NUMBERS)
    except (OSError, AttributeError):
        return None


def draw(numbers, path):
    """Draw a figure, {"kind": 'depth' or 'replacement', "title": ..., "series": [...]}, to path.

    With the same matplotlib, the same numbers give the same bytes. Raises InputError if the disk refuses.
    """
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"font.size": 9}):
        figure = {"depth": _depth, "replacement": _replacement}[numbers["kind"]](pyplot, numbers)
        figure.suptitle("\n".join(line for part in numbers["title"].splitlines() for line in textwrap.wrap(part, 105)),
                        fontsize=9)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None, NUMBERS: digest(numbers)})
        pyplot.close(figure)
    write_whole(path, buffer.getvalue(), "choose another folder")


def _depth(pyplot, numbers):
    """Accuracy over b: a filled mark and line for our last epochs, a hollow one for the published scores.

    Series: {"row", "blocks", "last", "spread", "published"}, lists in the order of blocks, with None for no number.
    """
    figure, axes = pyplot.subplots(figsize=(7, 4), constrained_layout=True)
    total = len(numbers["series"])
    for index, series in enumerate(numbers["series"]):
        shift = .5 * ((index + .5) / total - .5)  # side by side, because equal scores would hide each other
        color = COLORS[series["row"]]
        axes.plot([], [], color=color, marker="o", label=series["row"])
        ours = [(b + shift, last, spread or 0) for b, last, spread
                in zip(series["blocks"], series["last"], series["spread"]) if last is not None]
        if ours:
            axes.errorbar(*zip(*[point[:2] for point in ours]), yerr=[point[2] for point in ours], color=color,
                          marker="o", capsize=2)
        published = [(b + shift, value) for b, value in zip(series["blocks"], series["published"]) if value is not None]
        if published:
            axes.plot(*zip(*published), color=color, marker="o", markerfacecolor="none", linestyle=":", linewidth=.8,
                      alpha=.7)
    axes.plot([], [], color="black", marker="o", markerfacecolor="none", linestyle=":", linewidth=.8,
              label="published (best epoch)")
    blocks = sorted({b for series in numbers["series"] for b in series["blocks"]})
    axes.set(xlabel="b, blocks a stage", ylabel="test accuracy, last epoch", xticks=blocks,
             xlim=(blocks[0] - .5, blocks[-1] + .5))
    axes.grid(alpha=.3, axis="y")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, .5))
    return figure


def _replacement(pyplot, numbers):
    """Accuracy, and the share of the whole gain, over the relative increase of trainable parameters.

    One series: {"sites", "increase", "last", "spread", "share", "stage"}, lists over the runs; share is None if it has
    no meaning.
    """
    series, = numbers["series"]
    has_shares = all(share is not None for share in series["share"])
    figure, all_axes = pyplot.subplots(1, 1 + has_shares, figsize=(9 if has_shares else 5.5, 4), squeeze=False,
                                       constrained_layout=True)
    curves = [("last", "test accuracy, last epoch")] + [("share", "share of the whole gain")] * has_shares
    for axes, (key, label) in zip(all_axes[0], curves):
        axes.errorbar(series["increase"], series[key], color="tab:red", marker="o", capsize=2, linewidth=1,
                      yerr=[spread or 0 for spread in series["spread"]] if key == "last" else None)
        stages = [(x, y) for x, y, stage in zip(series["increase"], series[key], series["stage"]) if stage]
        axes.plot(*zip(*stages), linestyle="none", marker="s", markersize=10, markerfacecolor="none", color="black",
                  label="whole stages")
        for x, y, sites in zip(series["increase"], series[key], series["sites"]):
            axes.annotate(str(sites), (x, y), textcoords="offset points", xytext=(5, -11), fontsize=7)
        axes.set(xlabel="increase of trainable parameters over the ReLU net", ylabel=label)
        axes.grid(alpha=.3)
    all_axes[0][0].legend(frameon=False, title="number: sites with ATAC", title_fontsize=8)
    return figure


def save(figures, folder):
    """Make a folder hold {file name: numbers}: draw missing and stale figures, remove all others.

    Returns whether anything changed.
    """
    changed = False
    with writing(folder, "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.png")):
            if path.name not in figures:
                path.unlink()
                changed = True
    for name, numbers in figures.items():
        if shown(folder / name) != digest(numbers):
            draw(numbers, folder / name)
            changed = True
    return changed
