"""The output of an evaluation: a table by class, the confusion matrix, and the likeliest classes of single pictures."""
import csv
import io

import numpy as np

from support.errors import InputError
from support.files import write_whole

from . import figures
from .data.images import decode, read
from .data.records import Damaged

LONG, WORST = 100, 10  # with more than LONG classes a table shows the WORST worst


def rows_of(confusion, class_names):
    """For each class: name, images, how many were right, the class it is most often taken for, and how often.

    If there are more than LONG classes, those without images are left out.
    """
    rows = []
    for label, name in enumerate(class_names):
        mistaken = confusion[label].copy()
        mistaken[label] = 0
        other = int(mistaken.argmax())
        taken = class_names[other] if other < len(class_names) else f"output {other}"
        rows.append((name, int(confusion[label].sum()), int(confusion[label, label]),
                     taken if mistaken[other] else "", int(mistaken[other])))
    return rows if len(rows) <= LONG else [row for row in rows if row[1]]


def table_of(rows):
    """The rows as text; if there are more than LONG, only the WORST worst, the worst first."""
    lines = []
    if len(rows) > LONG:
        lines.append(f"the {WORST} worst of {len(rows):,} classes (--by-class FILE writes them all):")
        rows = sorted(rows, key=lambda row: row[2] / row[1])[:WORST]
    width = max(len(row[0]) for row in rows)
    lines.append(f"{'class'.ljust(width)}  images  right  accuracy  most often taken for")
    for name, images, right, taken, times in rows:
        accuracy = f"{right / images:.4f}" if images else "-"
        mistake = f"{taken} ({times})" if times else ""
        lines.append(f"{name.ljust(width)}  {images:6,}  {right:5,}  {accuracy:>8}  {mistake}".rstrip())
    return "\n".join(lines)


def write_rows(rows, path):
    """Write the rows as CSV; the file is whole or untouched. Raises InputError if it cannot be written."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("class", "images", "right", "most_often_taken_for", "times"), *rows])
    write_whole(path, text.getvalue())


def draw_confusion(confusion, class_names, path, title):
    """Draw each true class (row) as shares of its images, with the counts if there is room."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    count = len(class_names)
    shares = confusion[:, :count] / confusion.sum(axis=1, keepdims=True).clip(1)
    side = 14 if count > LONG else max(5.5, 0.24 * count + 2) if count > 10 else 6.5
    font = 9 if count <= 20 else 5
    with figures.words(*class_names) as class_names:
        figure, axes = pyplot.subplots(figsize=(side + 0.8, side), constrained_layout=True)
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if count <= LONG:  # more names would be too small to read
            axes.set_xticks(range(count), class_names, rotation=90, fontsize=font)
            axes.set_yticks(range(count), class_names, fontsize=font)
        axes.set(xlabel="answer of the net", ylabel="class of the image", title=title)
        if count <= 20:
            for row in range(count):
                for column in range(count):
                    if confusion[row, column]:
                        axes.text(column, row, str(confusion[row, column]), ha="center", va="center", fontsize=7,
                                  color="white" if shares[row, column] > .5 else "black")
        figure.colorbar(image, ax=axes, shrink=.8, label="share of the class's images")
        figures.save(figure, path, bbox_inches="tight")  # however long the names are


def picture(path, pixels):
    """The net's input for a picture's file; pixels as in `classify`. Raises InputError if it cannot be read."""
    try:
        return pixels(decode(read(path)))
    except Damaged as reason:
        raise InputError(f"{path}: {reason}") from None
    except MemoryError:
        raise InputError(f"{path}: there is not enough memory for its pixels; make it smaller") from None


def classify(scorer, paths, class_names, pixels, say=print):
    """Say the five likeliest classes of each picture; returns a record for each.

    scorer : a Scorer (backend.base). pixels(picture) : the net's input (engine.data.dataset). Raises InputError for a
    picture that cannot be read.
    """
    records = []
    for path in paths:
        logits = scorer.logits(picture(path, pixels))[0]
        if not np.isfinite(logits).all():
            raise InputError(f"the net answers {path} with numbers that are not finite; use another checkpoint")
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        best = np.argsort(-chances, kind="stable")[:5]
        names = [class_names[label] if label < len(class_names) else f"output {label}" for label in best]
        say(f"{path}: " + ", ".join(f"{name} {chances[label]:.3f}" for name, label in zip(names, best)))
        records.append({"image": str(path), "classes": names, "probabilities": [float(chances[i]) for i in best]})
    return records
