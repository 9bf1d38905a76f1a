"""The gates of a net for one picture, and their statistics over many."""
import math

import numpy as np

from support import palette

from . import COLUMN, save, styled, words

WIDEST = 10  # sites in a row


def draw_gates(picture, nets, path):
    """Draw a picture and, for each net, the mean gate at every site and the gates of one of its channels.

    picture : (S, S, 3), 0 to 1. nets : [(title, [(site, gates (C, H, W), channel)])]. Raises InputError if the file
    cannot be written.
    """
    maps = [[(site, channel, gates.mean(axis=0), gates[channel]) for site, gates, channel in layers]
            for _, layers in nets]
    every = [values for layers in maps for layer in layers for values in layer[2:]]
    scale = {"cmap": "viridis", "vmin": min(map(np.min, every)), "vmax": max(map(np.max, every))}
    most = max(map(len, maps))
    columns = math.ceil(most / math.ceil(most / WIDEST))  # long nets are wrapped into equal strips
    size = max(2 * COLUMN / (columns + 1), .62)
    strips = [math.ceil(len(layers) / columns) for layers in maps]
    with styled() as pyplot, words(*(title for title, _ in nets), longest=90) as titles:
        height = sum((2 * size + .3) * count + .2 for count in strips)
        figure = pyplot.figure(figsize=(size * (columns + 1) + .55, height), layout="constrained")
        figure.get_layout_engine().set(w_pad=.02, h_pad=.02, wspace=.01, hspace=.01)
        parts = figure.subfigures(len(nets), squeeze=False, height_ratios=strips).ravel()
        for part, title, layers, count in zip(parts, titles, maps, strips):
            part.suptitle(title, fontsize=8, x=.01, ha="left")
            grid = part.subplots(2 * count, columns + 1, squeeze=False)
            for axes in grid.ravel():
                axes.axis("off")
            grid[0, 0].imshow(picture)
            grid[0, 0].set_title("input", fontsize=7)
            for row, axes in enumerate(grid[:, 0]):
                axes.text(1.04, .5, ("mean", "channel")[row % 2], transform=axes.transAxes, rotation=90, va="center",
                          fontsize=6)
            for place, (site, channel, mean, own) in enumerate(layers):
                above, below = grid[2 * (place // columns):, 1 + place % columns][:2]
                above.set_title(site, fontsize=7)
                below.set_title(str(channel), fontsize=6, pad=2)
                above.imshow(mean, **scale)
                image = below.imshow(own, **scale)
            part.colorbar(image, ax=grid, shrink=.8, label="gate", pad=.01).outline.set_linewidth(.5)
        save(figure, path)


def draw_statistics(summaries, path, title):
    """Draw the spread of the gates at each site, and what their variance comes from. summaries : engine.gates."""
    with styled() as pyplot, words(title, *(each.site for each in summaries), longest=100) as (title, *sites):
        figure, (spread, parts) = pyplot.subplots(
            1, 2, figsize=(2 * COLUMN, max(2.3, .17 * len(sites) + 1.1)), sharey=True, layout="constrained")
        rows = range(len(summaries))
        for row, each in zip(rows, summaries):
            low, lower, middle, upper, high = each.quantiles
            spread.plot([low, high], [row, row], color=palette.VERMILLION, linewidth=.8)
            spread.plot([lower, upper], [row, row], color=palette.VERMILLION, linewidth=4, solid_capstyle="butt")
            spread.plot(middle, row, color=palette.BLACK, marker="|", markersize=7)
        spread.set(xlabel="gate: median, middle 50% and 90%", xlim=(0, 1))
        spread.set_yticks(rows, sites)
        spread.set_ylim(len(summaries) - .4, -.6)
        left = [0.] * len(summaries)
        for name, label, color in (("channels", "channels", palette.BLUE), ("images", "images", palette.ORANGE),
                                   ("positions", "positions of an image", palette.GREEN)):
            values = [getattr(each, name) for each in summaries]
            parts.barh(rows, values, .7, left, color=color, label=label)
            left = [start + value for start, value in zip(left, values)]
        parts.set_xlabel("variance of the gates between")
        for axes in (spread, parts):
            axes.grid(True, axis="x")
            axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside lower right", ncols=3)
        figure.suptitle(title, fontsize=8, x=.01, ha="left")
        save(figure, path)
