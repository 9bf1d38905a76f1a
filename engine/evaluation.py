"""The output of an evaluation: a table by class, and the likeliest classes of single pictures."""
import csv
import io

import numpy as np

from support.errors import InputError
from support.files import write_whole

from .data.images import decode, read
from .data.records import Damaged

LONG, WORST = 100, 10  # with more than LONG classes a table shows the WORST worst


def answer_name(class_names, output):
    """The name of a net's answer, which may have more outputs than the data have classes."""
    return class_names[output] if output < len(class_names) else f"output {output}"


def chances(logits):
    """The softmax of logits (..., outputs)."""
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def rows_of(confusion, class_names):
    """For each class: name, images, how many were right, the class it is most often taken for, and how often.

    If there are more than LONG classes, those without images are left out.
    """
    rows = []
    for label, name in enumerate(class_names):
        mistaken = confusion[label].copy()
        mistaken[label] = 0
        other = int(mistaken.argmax())
        taken = answer_name(class_names, other)
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
        shares = chances(logits)
        best = np.argsort(-shares, kind="stable")[:5]
        names = [answer_name(class_names, label) for label in best]
        say(f"{path}: " + ", ".join(f"{name} {shares[label]:.3f}" for name, label in zip(names, best)))
        records.append({"image": str(path), "classes": names, "probabilities": [float(shares[i]) for i in best]})
    return records
