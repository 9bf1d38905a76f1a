#!/usr/bin/env python3
"""Evaluate a parameter file on the test images, or classify pictures with it.

    python evaluate.py --params runs/NAME/best.params                  # a file of ours: it knows its net and data
    python evaluate.py --params FILE --model atac_resnet20_v2 --blocks 3 --dataset cifar10   # the authors', Gluon's
    python evaluate.py --pretrained atac_resnet20_v2_b1_cifar10        # a name in params/manifest.json
    python evaluate.py --pretrained atac_resnet50_v1b_official --data-dir DIR      # the authors', fetched before with
                                                                       # scripts/download_params.sh; DIR has ImageNet
    python evaluate.py --params FILE --model atac_resnet50_v1b --dataset imagenet --use-rec --data-dir DIR
    python evaluate.py --params FILE --images cat.png dog.jpg          # the five likeliest classes of each picture

Prints a table by class (of more than 100 classes the ten worst), speed, cross entropy, and top-5 and top-1 accuracy
as the last line; --json writes all of it for programs. Every image counts once, or with --count-padding as in the
authors' log.
"""
import functools
import json
import os
import sys
import time
from typing import Any, NamedTuple

from engine.cli import flags, net_flags
from engine.cli.data_flags import refuse_flags_of_others
from engine.cli.program import run_script
from model import registry
from support import runtime
from support.errors import InputError
from support.files import sha256, write_whole

HOSTS = (registry.CIFAR, registry.IMAGENET)
STDOUT = "-"  # where --json writes without a file


def parse(argv=None):
    parser = flags.Parser(prog="evaluate.py", description=__doc__)
    parser.add_argument("--params", type=flags.words, metavar="FILE", help="the weights; of a run's folder its "
                        "best.params")
    parser.add_argument("--pretrained", type=flags.words, metavar="NAME",
                        help="weights of this repository instead, by their name in params/manifest.json")
    net_flags.add_net_flags(parser, *HOSTS, without=registry.IMAGENET.start)
    flags.add_data_flags(parser, "default: what the file was trained on",
                         ("cifar10", "cifar100", "imagenet", "folder"))
    group = parser.add_argument_group("data of ImageNet")
    group.add_argument("--use-rec", action="store_true", default=None,
                       help="read a record file, not a folder of images for each class")
    group.add_argument("--rec-val", type=flags.words, metavar="FILE", help="the record file (default rec/val.rec in "
                       "--data-dir)")
    group.add_argument("--rec-val-idx", type=flags.words, metavar="FILE", help="its index (default: beside it)")
    group.add_argument("--input-size", type=flags.number(int, 32, 4096), metavar="S",
                       help="side of the images; default: what the file was trained with, or 224")
    group.add_argument("--crop-ratio", type=flags.number(float, .01, 1), metavar="X",
                       help="share of the shorter side that the middle crop takes; default as --input-size, or 0.875")
    group.add_argument("-j", "--num-data-workers", "--num-workers", type=flags.number(int, 0, flags.MOST_THREADS),
                       metavar="N",
                       help="threads that read images ahead (default: one a core)")
    group.add_argument("--damaged", choices=("refuse", "skip"),
                       help="an image that cannot be read ends the evaluation (default), or is left out and named")
    group.add_argument("--count-padding", action="store_true", default=None,
                       help="count the full batches of the authors' record iterator, padding included: their 21.41 is "
                       "of 49,920 images, in batches of 256")
    group = parser.add_argument_group("run")
    flags.add_device_flags(group)
    group.add_argument("--batch-size", type=flags.number(int, 1), metavar="N",
                       help="default 250; of ImageNet 32 on a CPU, 128 on a GPU, and 256 with --count-padding")
    group.add_argument("--confusion-matrix", type=flags.figure, metavar="FILE",
                       help="draw the confusion matrix there: a .png, .pdf or .svg")
    group.add_argument("--by-class", type=flags.words, metavar="CSV", help="write the table of all classes there")
    group.add_argument("--json", nargs="?", type=flags.words, const=STDOUT, metavar="FILE",
                       help="write the result as one line of JSON (of --images a line for each) to FILE; without FILE "
                       "to standard output, and the words for people to standard error")
    group.add_argument("--images", nargs="+", metavar="FILE",
                       help="classify these pictures instead: JPEG, PNG, GIF, BMP, TIFF, WebP, PPM, ICO or JPEG 2000, "
                       "whatever they are called; transparent parts show white")
    args = parser.parse_args(argv)
    if (args.params is None) == (args.pretrained is None):
        parser.error("one of these is required: --params or --pretrained")
    for flag, path in (("--json", args.json), ("--confusion-matrix", args.confusion_matrix),
                       ("--by-class", args.by_class)):
        if args.images and path and flag != "--json":
            parser.error(f"--images and {flag} exclude each other")
        if path and not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            parser.error(f"{flag} {path}: that folder does not exist")
        if path and os.path.isdir(path):
            parser.error(f"{flag} {path}: it is a folder; name a file in it")
    if args.rec_val_idx and not args.rec_val:
        parser.error("--rec-val-idx needs --rec-val, whose index it is")
    if args.count_padding and args.damaged == "skip":
        parser.error("--count-padding and --damaged skip exclude each other: the authors' iterator leaves nothing out")
    if args.dataset:
        refuse_flags_of_others(parser, args, args.dataset)
    try:
        if args.dataset == "imagenet":
            args.model = net_flags.full_name(args.model, registry.IMAGENET)
        args.net_name, args.net_arguments, args.remarks = net_flags.net_arguments(args, *HOSTS)
    except InputError as error:
        parser.error(str(error))
    return parser, args


class Score(NamedTuple):
    """What evaluate() finds: the record for --json, the rows of the table, the confusion matrix, the net's form."""

    record: dict
    rows: list
    confusion: Any
    form: str


def evaluate(subject, images, args):
    """Evaluate a Subject on Images; returns a Score. args: mode and fused of a command line."""
    from backend import gluon
    from engine import evaluation
    from engine.steps import Diverged

    data, names = subject.data, subject.class_names
    example = next(iter(images.batches))[0]
    scorer, form = gluon.scorer(subject.net, subject.devices, example, args.mode, args.fused)
    started = time.perf_counter()
    try:
        scores = scorer.score(images.batches, len(names))
    except Diverged as error:
        raise InputError(f"{subject.file}: {error}; use another checkpoint") from error
    seconds = time.perf_counter() - started
    images.check(scores.images)
    rows = evaluation.rows_of(scores.confusion, names)
    return Score({
        "params": os.path.basename(subject.file), "sha256": sha256(subject.file), "model": subject.model,
        "arguments": subject.arguments, "dataset": data.name, "label_mode": data.label_mode, **data.record,
        "data": images.origin.variant, "data_sha256": images.origin.provenance["sha256"], "images": scores.images,
        "counting": images.counting, "skipped": images.skipped,
        "top1": scores.top1, "top5": scores.top5, "loss": scores.loss,
        "classes": [{"class": name, "images": count, "right": right} for name, count, right, *_ in rows],
        "seconds": seconds, "images_per_second": scores.images / seconds, "form": form,
        "process_settings": runtime.settings()}, rows, scores.confusion, form)


def subject_of(parser, args):
    """The Subject (engine.cli.subject) of a command line."""
    import model
    from backend import gluon
    from engine.cli import subject

    return subject.subject_of(parser, args, model, gluon)


def images_of(subject, args):
    """The test images of a command line."""
    from backend import gluon

    return subject.data.images(subject.arguments["classes"], gluon.kind(subject.devices), args.batch_size)


def record_of(*words):
    """What --json has of a command line that evaluates a file, in this process and without a word."""
    parser, args = parse(words)
    subject = subject_of(parser, args)
    return evaluate(subject, images_of(subject, args), args).record


def write_json(records, place):
    """Write records, a line each, to a file, which is whole or untouched, or to STDOUT; nowhere for None."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    if place == STDOUT:
        sys.stdout.write(text)
    elif place is not None:
        write_whole(place, text)


def main():
    parser, args = parse()
    runtime.tune(args.tune)
    runtime.prepare()  # before NumPy and MXNet load, so that a missing piece is a sentence
    from backend import gluon
    from engine import evaluation, runlog

    runlog.start_logging()
    say = functools.partial(print, file=sys.stderr if args.json == STDOUT else sys.stdout, flush=True)
    subject = subject_of(parser, args)
    for remark in args.remarks:
        say(remark)
    if args.images:
        print(subject.recognised, file=sys.stderr)  # standard output has a line for each picture
        scorer, _ = gluon.scorer(subject.net, subject.devices, None, args.mode)
        write_json(evaluation.classify(scorer, args.images, subject.class_names, subject.data.pixels, say), args.json)
        return 0

    images = images_of(subject, args)
    say(f"{net_flags.net_text(subject.model, subject.arguments)}: {subject.recognised}")
    say(f"{images.text}; {subject.device_sentence}")
    record, rows, confusion, form = evaluate(subject, images, args)
    say(evaluation.table_of(rows))
    left_out = f", {len(images.skipped):,} damaged ones left out" if images.skipped else ""
    say(f"counted: {images.counting}{left_out}")
    say(form)
    try:
        if args.by_class:
            evaluation.write_rows(rows, args.by_class)
            say(f"table of {len(rows):,} classes: {args.by_class}")
        if args.confusion_matrix:
            title = f"{subject.model}, {subject.data.title}: {record['top1']:.4f} of {record['images']:,} images right"
            evaluation.draw_confusion(confusion, subject.class_names, args.confusion_matrix, title)
            say(f"confusion matrix: {args.confusion_matrix}")
    finally:  # whatever the disk says, the score is not lost
        say(f"{record['images']:,} images in {record['seconds']:.1f} s, {record['images_per_second']:,.0f} images/s")
        say(f"cross entropy {record['loss']:.4f}, top-5 accuracy {record['top5']:.4f} (error "
            f"{100 * (1 - record['top5']):.2f}%)")
        say(f"top-1 accuracy {record['top1']:.4f} (error {100 * (1 - record['top1']):.2f}%)")
    write_json([record], args.json)
    return 0


if __name__ == "__main__":
    run_script(main)
