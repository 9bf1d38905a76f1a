#!/usr/bin/env python3
"""Evaluate a parameter file on the test images, or classify pictures with it.

    python evaluate.py --params runs/NAME/best.params                  # a file of ours: it knows its net and data
    python evaluate.py --params FILE --model atac_resnet20_v2 --blocks 3 --dataset cifar10   # the authors', Gluon's
    python evaluate.py --pretrained atac_resnet20_v2_b1_cifar10        # a name in params/manifest.json
    python evaluate.py --pretrained atac_resnet50_v1b_official --data-dir DIR   # the authors'; first fetch it with
                                                                       # scripts/download_params.sh; DIR has ImageNet
    python evaluate.py --params FILE --model atac_resnet50_v1b --dataset imagenet --use-rec --data-dir DIR
    python evaluate.py --params FILE --images cat.png dog.jpg          # the five likeliest classes of each picture
    python evaluate.py --params net.onnx                               # or net.pt2, written by scripts/export.sh

Prints a table by class (only the ten worst if there are more than 100), the speed, the cross entropy and the top-5
accuracy; the last line is the top-1 accuracy. --json writes all of it for programs, and which images were right
(support/bits.py reads that). Every image counts once; with --count-padding images count as in the authors' log.
"""
import functools
import json
import os
import sys
import time

from engine.cli import flags, net_flags, subject_flags
from engine.cli.program import run_script
from model import registry
from support import bits, runtime
from support.errors import InputError
from support.files import sha256, write_whole

HOSTS = registry.CIFAR, registry.IMAGENET
STDOUT = "-"  # where --json writes without a file


def parse(argv=None):
    """(parser, parsed flags). A wrong flag ends the process."""
    parser = flags.Parser(prog="evaluate.py", description=__doc__)
    group = subject_flags.add_subject_flags(parser, HOSTS)
    group.add_argument("--confusion-matrix", type=flags.figure, metavar="FILE",
                       help="draw the confusion matrix into FILE: a .png, .pdf or .svg")
    group.add_argument("--by-class", type=flags.words, metavar="CSV", help="write the table of all classes to CSV")
    group.add_argument("--json", nargs="?", type=flags.words, const=STDOUT, metavar="FILE",
                       help="write the result as one line of JSON (one line for each of --images) to FILE; without "
                       "FILE to standard output, and the text for people to standard error")
    group.add_argument("--images", nargs="+", metavar="FILE",
                       help="classify these pictures instead: JPEG, PNG, GIF, BMP, TIFF, WebP, PPM, ICO or JPEG 2000, "
                       "with any file name; transparent parts become white")
    args = parser.parse_args(argv)
    for flag, path in (("--json", args.json), ("--confusion-matrix", args.confusion_matrix),
                       ("--by-class", args.by_class)):
        if args.images and path and flag != "--json":
            parser.error(f"--images and {flag} exclude each other")
        if path:
            subject_flags.check_output(parser, flag, path)
    subject_flags.check_subject_flags(parser, args, HOSTS)
    return parser, args


def evaluate(subject, images, args):
    """Evaluate a Subject on Images; returns the record for --json, the rows of the table and the confusion matrix.

    args: mode and fused of a command line.
    """
    from engine import evaluation, progress
    from engine.steps import Diverged

    data, names = subject.data, subject.class_names
    example = next(iter(images.batches))[0]
    scorer, form = subject.backend.scorer(subject.net, subject.devices, example, args.mode, args.fused)
    started = time.perf_counter()
    try:
        with progress.scoring_bar(images.batches, "scoring") as bar:
            scores = scorer.score(images.batches, len(names), bar.update)
    except Diverged as error:
        raise InputError(f"{subject.file}: {error}; use another checkpoint") from error
    seconds = time.perf_counter() - started
    rows = evaluation.rows_of(scores.confusion, names)
    return {
        "params": os.path.basename(subject.file), "sha256": sha256(subject.file), "model": subject.model,
        "arguments": subject.arguments, "dataset": data.name, "label_mode": data.label_mode, **data.record,
        "data": images.origin.variant, "data_sha256": images.origin.provenance["sha256"], "images": scores.images,
        "counting": images.counting, "skipped": images.skipped,
        "top1": scores.top1, "top5": scores.top5, "loss": scores.loss,
        "classes": [{"class": name, "images": count, "right": right} for name, count, right, *_ in rows],
        "right": bits.packed(scores.right),
        "seconds": seconds, "images_per_second": scores.images / seconds, "form": form,
        "process_settings": runtime.settings()}, rows, scores.confusion


def subject_of(parser, args):
    """The Subject (engine.cli.subject) of a command line."""
    from backend import choose, exported, networks
    from engine.cli import subject

    if args.params and exported.is_one(args.params):
        from backend.exported import scoring
        return subject.exported_subject(parser, args, networks(), scoring)
    return subject.subject_of(parser, args, networks(), choose(args.backend, bool(args.gpus)))


def record_of(*words):
    """The record that --json writes for a command line; evaluates in this process and prints nothing."""
    parser, args = parse(words)
    subject = subject_of(parser, args)
    return evaluate(subject, subject.images(args.batch_size), args)[0]


def write_json(records, place):
    """Write one line for each record to a file (whole or untouched) or to STDOUT; nowhere for None."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    if place == STDOUT:
        sys.stdout.write(text)
    elif place is not None:
        write_whole(place, text)


def main():
    parser, args = parse()
    runtime.tune(args.tune)
    runtime.prepare(torch=True)  # before NumPy and MXNet load: it names a missing piece in a sentence
    from engine import evaluation, runlog
    from engine.figures.confusion import draw_confusion

    runlog.start_logging()
    say = functools.partial(print, file=sys.stderr if args.json == STDOUT else sys.stdout, flush=True)
    subject = subject_of(parser, args)
    for remark in args.remarks:
        say(remark)
    if args.images:
        print(subject.recognised, file=sys.stderr)  # standard output has a line for each picture
        scorer, _ = subject.backend.scorer(subject.net, subject.devices, None, args.mode)
        write_json(evaluation.classify(scorer, args.images, subject.class_names, subject.data.pixels, say), args.json)
        return 0

    images = subject.images(args.batch_size)
    say(f"{net_flags.net_text(subject.model, subject.arguments)}: {subject.recognised}")
    say(f"{images.text}; {subject.device_sentence}")
    record, rows, confusion = evaluate(subject, images, args)
    say(evaluation.table_of(rows))
    left_out = f", {len(images.skipped):,} damaged ones left out" if images.skipped else ""
    say(f"counted: {images.counting}{left_out}")
    say(record["form"])
    try:
        if args.by_class:
            evaluation.write_rows(rows, args.by_class)
            say(f"table of {len(rows):,} classes: {args.by_class}")
        if args.confusion_matrix:
            title = f"{subject.model}, {subject.data.title}: {record['top1']:.4f} of {record['images']:,} images right"
            draw_confusion(confusion, subject.class_names, args.confusion_matrix, title)
            say(f"confusion matrix: {args.confusion_matrix}")
    finally:  # a full disk must not lose the score
        say(f"{record['images']:,} images in {record['seconds']:.1f} s, {record['images_per_second']:,.0f} images/s")
        say(f"cross entropy {record['loss']:.4f}, top-5 accuracy {record['top5']:.4f} (error "
            f"{100 * (1 - record['top5']):.2f}%)")
        say(f"top-1 accuracy {record['top1']:.4f} (error {100 * (1 - record['top1']):.2f}%)")
    write_json([record], args.json)
    return 0


if __name__ == "__main__":
    run_script(main)
