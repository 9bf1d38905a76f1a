"""What visualize.py draws about a Subject (engine.cli.subject) and about runs: from images and files to figures.

scorer : the Scorer (backend.base) of a Subject's net.
"""
from pathlib import Path

import numpy as np

from support.errors import InputError
from support.words import counted

from . import runlog
from .evaluation import answer_name, chances
from .figures import curves, pictures
from .figures.gates import draw_gates, draw_statistics
from .folders import METRICS
from .gates import liveliest, site, summaries


def title_of(subject):
    """The net in a title: ``atac_resnet20_v2, b = 1``."""
    blocks = subject.arguments.get("blocks")
    return subject.model + (f", b = {blocks}" if blocks else "")


def test_image(subject, images, number):
    """(the net's input, float32 (1, 3, S, S), its name) of a test image by its number from 0. InputError beyond."""
    passed = 0
    for pixels, labels, count in images.batches:
        if number < passed + count:
            place = number - passed
            return pixels[place:place + 1], f"test image {number} ({subject.class_names[labels[place]]})"
        passed += count
    raise InputError(f"--image {number}: there are {counted(passed, 'test image')}, numbered from 0")


def gates(subjects, pixels, name, channel, path):
    """Draw the gates of one or several nets, [(subject, scorer)], for one input.

    channel : the one to show at every site; None for the first net's liveliest at each site.
    """
    nets, shown = [], {}
    for subject, scorer in subjects:
        layers = []
        for unit, values in _gates_of(subject, scorer, pixels).items():
            own = values[0]
            if channel is not None and channel >= len(own):
                raise InputError(f"--channel {channel}: {site(unit)} has {len(own)} channels, numbered from 0")
            first = shown.setdefault((unit, len(own)), liveliest(own) if channel is None else channel)
            layers.append((site(unit), own, first))
        nets.append((f"{title_of(subject)}: {name}", layers))
    draw_gates(subjects[0][0].data.visible(pixels[0]), nets, path)


def statistics(subject, scorer, images, count, path):
    """Draw the statistics of a net's gates over the first `count` test images, or over all for None."""
    seen = 0

    def parts():
        nonlocal seen
        for pixels, _, real in images.batches:
            real = real if count is None else min(real, count - seen)
            seen += real
            yield _gates_of(subject, scorer, pixels[:real])
            if seen == count:
                return
    found = summaries(parts())
    draw_statistics(found, path, f"{title_of(subject)}, {counted(seen, 'test image')}")
    return found


def _gates_of(subject, scorer, pixels):
    found = scorer.gates(pixels)
    if not found:
        raise InputError(f"{title_of(subject)} has no unit with gates: name a net with ATAC, SEActivation, LocalSENet, "
                         "SENet, GENet or xUnit")
    for unit, values in found.items():
        if not np.isfinite(values).all():
            raise InputError(f"{subject.file}: the gates of {site(unit)} are not finite; use another checkpoint")
    return found


def predictions(subject, scorer, images, count, wrong, path):
    """Draw the first `count` test images with the net's answers; wrong: only those that it answers wrong."""
    shown, seen, right = [], 0, 0
    for pixels, truth, share in _answered(subject, scorer, images):
        answer = int(share.argmax())
        seen, right = seen + 1, right + (answer == truth)
        if answer != truth or not wrong:
            name = "" if answer == truth else answer_name(subject.class_names, answer)
            shown.append((subject.data.visible(pixels), subject.class_names[truth], name, float(share[answer])))
        if len(shown) == count:
            break
    if not shown:
        raise InputError(f"the net answers {counted(seen, 'test image')} right and none wrong; leave --wrong out")
    pictures.draw_predictions(shown, path, f"{title_of(subject)}: {right:,} of the first {seen:,} test images right"
                              + "; orange: the class, then the wrong answer" * (right < seen))


def _answered(subject, scorer, images):
    """(the net's input, its label, the probabilities of the answers) of each test image."""
    for pixels, labels, real in images.batches:
        logits = scorer.logits(pixels[:real])
        if not np.isfinite(logits).all():
            raise InputError(f"{subject.file}: the net answers with numbers that are not finite; use another "
                             "checkpoint")
        yield from zip(pixels, labels, chances(logits))


def training_curves(runs, labels, path):
    """Draw the curves of several runs: folders, or their metrics.jsonl. labels : their names, or None."""
    found = {}
    for index, run in enumerate(map(Path, runs)):
        file = run / METRICS if run.is_dir() else run
        label = labels[index] if labels else (file.parent if file.name == METRICS else file).resolve().name
        records = runlog.read_metrics(file)
        if not records:
            raise InputError(f"{file} has no epoch yet; wait for the first one")
        if label in found:
            raise InputError(f"two runs are called {label}; give each a name with --labels")
        found[label] = records
    curves.draw(found, path)
