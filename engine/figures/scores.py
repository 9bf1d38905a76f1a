"""Accuracies as figures: by net, over the cost of the nets, and as differences from a base.

Each function takes pyplot and numbers, {"title", "series", ...}, and returns a figure. A series is a dict with the
label, color and marker of a net. Accuracies are shares of the test images; a spread or margin of None is left out.
"""
import textwrap

from support import palette

from . import COLUMN

BAR = {"capsize": 2, "elinewidth": .8, "capthick": .8}
OUT_OF_SCALE = 6  # a difference so many times the median one is an arrow at the edge of its axes


def by_net(pyplot, numbers):
    """One row for each net: ours filled, the published number hollow, on one axis.

    Series: "ours", "spread" over the seeds, "published" (or None).
    """
    figure, axes = _axes(pyplot, numbers, 1.25 + .2 * len(numbers["series"]))
    for row, series in enumerate(numbers["series"]):
        if series["published"] is not None:
            axes.plot(series["published"], row, color=series["color"], marker=series["marker"], fillstyle="none",
                      linestyle="none", alpha=.55)
            axes.plot([series["ours"], series["published"]], [row, row], color=series["color"], linewidth=.6, alpha=.35)
        axes.errorbar(series["ours"], row, xerr=series["spread"], color=series["color"], marker=series["marker"],
                      **BAR)
    axes.set_yticks(range(len(numbers["series"])), [series["label"] for series in numbers["series"]])
    axes.tick_params(axis="y", length=0)
    axes.margins(x=.08)
    axes.set(xlabel="test accuracy", ylim=(len(numbers["series"]) - .5, -.5))  # the first at the top
    axes.grid(True)
    _legend(figure, axes, [("ours, last epoch", {"fillstyle": "full"}),
                           ("published, best epoch", {"fillstyle": "none", "alpha": .55})])
    return figure


def over_cost(pyplot, numbers):
    """Accuracy over parameters or multiply-adds, one curve for each net; the published curves are faint.

    numbers["cost"]: the label of the axis. Series: "ours", [[cost, accuracy, spread], ...] and "published",
    [[cost, accuracy], ...].
    """
    figure, axes = _axes(pyplot, numbers, 2.5)
    for series in numbers["series"]:
        style = {"color": series["color"], "marker": series["marker"]}
        if series["published"]:
            axes.plot(*zip(*series["published"]), **style, fillstyle="none", markersize=3.5, linewidth=.8,
                      linestyle=":", alpha=.5)
        costs, accuracies, spreads = zip(*series["ours"])
        axes.errorbar(costs, accuracies, yerr=_bars(spreads), **style, **BAR, label=series["label"])
    axes.set(xlabel=numbers["cost"], ylabel="test accuracy")
    axes.grid(True)
    published = any(series["published"] for series in numbers["series"])
    _legend(figure, axes, [("published", {"fillstyle": "none", "linestyle": ":", "alpha": .5})] * published)
    return figure


def differences(pyplot, numbers):
    """The accuracy less the base's, numbers["base"], at each depth, one curve for each net.

    Series: "points", [[b, difference, margin], ...]. A difference out of scale is an arrow at the edge.
    """
    figure, axes = _axes(pyplot, numbers, 2.5)
    reach = _reach([point[1:] for series in numbers["series"] for point in series["points"]])
    total = len(numbers["series"])
    for index, series in enumerate(numbers["series"]):
        shift = .3 * ((index + .5) / total - .5)  # side by side, because equal differences would hide each other
        style = {"color": series["color"], "marker": series["marker"]}
        near = [(b + shift, value, margin) for b, value, margin in series["points"] if abs(value) <= reach]
        if near:
            depths, values, margins = zip(*near)
            axes.errorbar(depths, values, yerr=_bars(margins), **style, **BAR)
        axes.plot([], [], **style, label=series["label"])
        for b, value, _ in series["points"]:
            if abs(value) > reach:
                side = 1 if value > 0 else -1
                axes.plot(b + shift, side * reach, marker="^" if value > 0 else "v", color=series["color"],
                          clip_on=False)
                axes.annotate(f"{value:+.3f}", (b + shift, side * reach), textcoords="offset points",
                              xytext=(0, -side * 7), ha="center", va="center", fontsize=6.5, color=series["color"])
    axes.axhline(0, color=palette.GRAY, linewidth=.8)
    axes.set(xlabel="b, blocks in each stage", ylabel=f"accuracy minus {numbers['base']}'s", ylim=(-reach, reach),
             xticks=sorted({point[0] for series in numbers["series"] for point in series["points"]}))
    axes.margins(x=.1)
    axes.grid(True, axis="y")
    _legend(figure, axes)
    return figure


def replacement(pyplot, numbers):
    """A curve over the relative increase of trainable parameters, with the number of replaced sites at each point.

    numbers["ylabel"]. One series: "points", [[increase, value, margin, sites], ...].
    """
    series, = numbers["series"]
    figure, axes = _axes(pyplot, numbers, 2.3)
    increases, values, margins, sites = zip(*series["points"])
    axes.errorbar([100 * increase for increase in increases], values, yerr=_bars(margins), color=series["color"],
                  marker=series["marker"], **BAR)
    for increase, value, count in zip(increases, values, sites):
        axes.annotate(str(count), (100 * increase, value), textcoords="offset points", xytext=(-3, 4), ha="right",
                      fontsize=7)
    if min(values) <= 0 <= max(values):
        axes.axhline(0, color=palette.GRAY, linewidth=.8, zorder=0)
    axes.margins(.1)
    axes.set(xlabel="increase of trainable parameters (%)", ylabel=numbers["ylabel"])
    axes.grid(True)
    return figure


DRAWN = {function.__name__: function for function in (by_net, over_cost, differences, replacement)}


def _axes(pyplot, numbers, height):
    """A figure of one column with its title."""
    figure, axes = pyplot.subplots(figsize=(COLUMN, height), layout="constrained")
    title = "\n".join(line for part in numbers["title"].splitlines() for line in textwrap.wrap(part, 62))
    figure.suptitle(title, fontsize=7, x=.01, ha="left")
    return figure, axes


def _legend(figure, axes, more=()):
    """A legend below the axes, out of the way of every line: the labelled curves, then [(label, style)] in black."""
    handles, labels = axes.get_legend_handles_labels()
    for label, style in more:
        handles += axes.plot([], [], **{"color": palette.BLACK, "marker": "o", "linestyle": "none", **style})
        labels.append(label)
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))


def _bars(values):
    """Lengths of error bars; None if there are none."""
    return None if all(value is None for value in values) else [value or 0 for value in values]


def _reach(points):
    """The end of an axis of differences around 0, for [(difference, margin)]: those out of scale lie beyond it."""
    sizes = sorted(abs(value) for value, _ in points)
    limit = OUT_OF_SCALE * sizes[(len(sizes) - 1) // 2] or 1
    return 1.15 * max(abs(value) + (margin or 0) for value, margin in points if abs(value) <= limit)
