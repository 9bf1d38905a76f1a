"""Test images with the answers of a net."""
import math

from support import palette

from . import COLUMN, save, styled, words


def draw_predictions(answers, path, title, columns=8):
    """Draw pictures with their true names and, if the net answered otherwise, its answer; and how sure it was.

    answers : [(picture (S, S, 3) from 0 to 1, true name, wrong answer or '', probability of the answer)]. Raises
    InputError if the file cannot be written.
    """
    columns = min(columns, len(answers))
    rows = math.ceil(len(answers) / columns)
    side = max(2 * COLUMN / columns, .82) if columns > 3 else 1.2
    with styled() as pyplot, words(title, longest=140) as (title,), \
            words(*(name.replace("_", " ") for _, *names, _ in answers for name in names), longest=16) as names:
        figure, grid = pyplot.subplots(rows, columns, figsize=(side * columns, (side + .2) * rows + .3), squeeze=False,
                                       layout="constrained")
        figure.get_layout_engine().set(w_pad=.02, h_pad=.02, wspace=0, hspace=0)
        for axes in grid.ravel():
            axes.axis("off")
        for axes, (picture, *_, chance), true, answered in zip(grid.ravel(), answers, names[::2], names[1::2]):
            axes.imshow(picture)
            axes.set_title(f"{true}\n{answered} {chance:.0%}", fontsize=6.5, pad=2,
                           color=palette.VERMILLION if answered else palette.BLACK)
        figure.suptitle(title, fontsize=8, x=.01, ha="left")
        save(figure, path)
