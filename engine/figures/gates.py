"""The gates of a net for one picture, and their statistics over many."""
from support import palette

from . import COLUMN, save, styled, words


def draw_gates(picture, nets, path):
    """Draw a picture and, for each net, the mean gate at every site and the gates of one of its channels.

    picture : (S, S, 3), 0 to 1. nets : [(title, [(site, gates (C, H, W), channel)])]. Raises InputError if the file
    cannot be written.
    """
    columns = 1 + max(len(layers) for _, layers in nets)
    maps = [[(gates.mean(axis=0), gates[channel]) for _, gates, channel in layers] for _, layers in nets]
    lowest, highest = (extreme(extreme(part) for layers in maps for pair in layers for part in map(_flat, pair))
                       for extreme in (min, max))
    size = max(2 * COLUMN / columns, .62)
    with styled() as pyplot, words(*(title for title, _ in nets), longest=90) as titles:
        figure = pyplot.figure(figsize=(size * columns + .55, (2 * size + .5) * len(nets)), layout="constrained")
        figure.get_layout_engine().set(w_pad=.02, h_pad=.02, wspace=.01, hspace=.01)
        for part, title, (_, layers), own in zip(figure.subfigures(len(nets), squeeze=False).ravel(), titles, nets,
                                                 maps):
            part.suptitle(title, fontsize=8, x=.01, ha="left")
            grid = part.subplots(2, columns, squeeze=False)
            for axes in grid.ravel():
                axes.set(xticks=[], yticks=[])
                axes.axis("off")
            for row, label in enumerate(("mean", "channel")):
                grid[row, 0].text(1.04, .5, label, transform=grid[row, 0].transAxes, rotation=90, va="center",
                                  fontsize=6)
            grid[0, 0].imshow(picture)
            grid[0, 0].set_title("input", fontsize=7)
            for column, ((site, _, channel), pair) in enumerate(zip(layers, own), 1):
                grid[0, column].set_title(site, fontsize=7)
                grid[1, column].set_title(str(channel), fontsize=6, pad=2)
                for axes, values in zip(grid[:, column], pair):
                    image = axes.imshow(values, cmap="viridis", vmin=lowest, vmax=highest)
            part.colorbar(image, ax=grid, shrink=.8, label="gate", pad=.01).outline.set_linewidth(.5)
        save(figure, path)


def _flat(values):
    return values.ravel().tolist()


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
