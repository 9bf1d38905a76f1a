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
import csv
import functools
import json
import os
import sys
import time
from typing import Any, NamedTuple

from engine.cli import flags, net_flags
from engine.cli.program import run_script
from model import registry
from support import runtime
from support.errors import InputError
from support.files import replacing, sha256
from support.json_files import SOME

# Flags of some data sets only, by their names in the parsed arguments.
IMAGENET_FLAGS = ("use_rec", "rec_val", "rec_val_idx", "input_size", "crop_ratio", "num_data_workers", "damaged",
                  "count_padding")
DATA_FLAGS = {"cifar10": ("mirror",), "cifar100": ("mirror", "label_mode"), "imagenet": IMAGENET_FLAGS}
FLAG_NAMES = {"num_data_workers": "-j"}
HOSTS = (registry.CIFAR, registry.IMAGENET)
STDOUT = "-"  # where --json writes without a file
LONG, WORST = 100, 10  # a table of more classes than LONG shows the WORST ones


def parse(argv=None):
    parser = flags.Parser(prog="evaluate.py", description=__doc__)
    parser.add_argument("--params", type=flags.words, metavar="FILE", help="the weights; of a run's folder its "
                        "best.params")
    parser.add_argument("--pretrained", type=flags.words, metavar="NAME",
                        help="weights of this repository instead, by their name in params/manifest.json")
    net_flags.add_net_flags(parser, *HOSTS, without=registry.IMAGENET.start)
    flags.add_data_flags(parser, "default: what the file was trained on", tuple(DATA_FLAGS))
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


def _flag(name):
    return FLAG_NAMES.get(name, f"--{name.replace('_', '-')}")


def refuse_flags_of_others(parser, args, dataset):
    """End the script at a flag that means nothing for this data set."""
    for name in sorted({name for names in DATA_FLAGS.values() for name in names}):
        if getattr(args, name) is not None and name not in DATA_FLAGS.get(dataset, ()):
            owners = " and ".join(owner for owner, names in DATA_FLAGS.items() if name in names)
            parser.error(f"{_flag(name)} is for {owners}, not for {dataset}; leave it out")


def task_of(args, known, arrays):
    """What to build and what to evaluate on: (model, its arguments, the data set as a task of engine.data.tasks).

    A file of ours, or the manifest's entry of a file that is not, says it itself, and flags that contradict it are
    refused; for other files (known is None) the flags say it, and the last bias says the number of classes.
    """
    from engine.data import tasks
    from model import complete_arguments
    from model.array_names import classes_of

    if known is not None:
        for flag, given, own in (("--model", args.net_name, known.model), ("--dataset", args.dataset, known.dataset),
                                 ("--label-mode", args.label_mode, known.label_mode)):
            if given is not None and own is None:
                raise InputError(f"{args.params} was trained on {known.dataset}, which has no label mode; "
                                 f"leave {flag} out")
            if given is not None and given != own:
                raise InputError(f"{args.params} was trained with {flag} {own}, not {given}; leave {flag} out")
        try:
            own = complete_arguments(known.model, known.arguments)
        except TypeError as error:
            raise InputError(f"{args.params}: {error}; use another one") from error
        for name, value in {**args.net_arguments, **({"classes": args.classes} if args.classes else {})}.items():
            if name == "inner_relu" and name in own and value != own[name]:
                raise InputError(f"{args.params} holds a net with ReLU inside its units: add --useReLU")
            if name not in own or value != own[name]:
                has = f"{name}={own[name]}" if name in own else f"no {name}"
                raise InputError(f"{args.params} holds a net with {has}, not {value}; leave that flag out")
        return known.model, own, tasks.of(known.dataset, args, known)

    for flag, given in (("net with --model", args.net_name), ("--dataset", args.dataset)):
        if given is None:
            raise InputError(f"{args.params} holds weights only: name its {flag}")
    task = tasks.of(args.dataset, args, None)
    classes = classes_of(arrays) or args.classes or task.usual[0]
    if args.classes is None and classes not in task.usual:
        raise InputError(f"{args.params} has {classes} classes, {args.dataset} nets have {task.usual[0]}: "
                         f"is it another --dataset? (--classes {classes} evaluates it all the same)")
    return args.net_name, {**args.net_arguments, "classes": args.classes or classes}, task


def rows_of(confusion, class_names):
    """By class: its name, its images, how many were right, what it is mostly taken for and how often.

    Of more than LONG classes those without images are left out.
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
    """The rows as text; of more than LONG classes only the WORST ones, the worst first."""
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
    """Write the rows as CSV; the file is whole or untouched. Raises InputError where the disk refuses."""
    try:
        with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("class", "images", "right", "most_often_taken_for", "times"))
            writer.writerows(rows)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def draw_confusion(confusion, class_names, path, title):
    """Draw the rows (true classes) in shares of their images, with the counts where there is room."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    from engine import figures

    count = len(class_names)
    shares = confusion[:, :count] / confusion.sum(axis=1, keepdims=True).clip(1)
    side = 14 if count > LONG else max(5.5, 0.24 * count + 2) if count > 10 else 6.5
    font = 9 if count <= 20 else 5
    with figures.words(*class_names) as class_names:
        figure, axes = pyplot.subplots(figsize=(side + 0.8, side), constrained_layout=True)
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if count <= LONG:  # names of more could not be read
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


def classify(net, paths, class_names, context, pixels, say=print):
    """Say the five likeliest classes of each picture; returns their records.

    pixels makes of a picture what the net takes.
    """
    import mxnet as mx
    import numpy as np

    from engine.data import images
    from engine.data.records import Damaged

    records = []
    for path in paths:
        try:
            picture = pixels(images.decode(images.read(path)))
        except Damaged as reason:
            raise InputError(f"{path}: {reason}") from None
        except MemoryError:
            raise InputError(f"{path}: there is not enough memory for its pixels; make it smaller") from None
        logits = net(mx.nd.array(picture, context)).asnumpy()[0].astype(np.float64)
        if not np.isfinite(logits).all():
            raise InputError(f"the net answers {path} with numbers that are not finite; use another checkpoint")
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        best = np.argsort(-chances, kind="stable")[:5]
        names = [class_names[label] if label < len(class_names) else f"output {label}" for label in best]
        say(f"{path}: " + ", ".join(f"{name} {chances[label]:.3f}" for name, label in zip(names, best)))
        records.append({"image": str(path), "classes": names, "probabilities": [float(chances[i]) for i in best]})
    return records


class Subject(NamedTuple):
    """A parameter file ready to be evaluated: its net on its devices, and the data set that it is for.

    recognised: a line that says what kind of file it is.
    """

    file: str
    recognised: str
    model: str
    arguments: dict
    net: Any
    task: Any
    class_names: tuple
    contexts: list
    device_sentence: str


def subject_of(parser, args):
    """The Subject of a command line. InputError, or the process's end, where the file and the flags do not fit."""
    from backend.gluon import loop
    from engine import checkpoint
    from engine.data import tasks
    from engine.run import weights_file
    from model import complete_arguments, get_model, image_size, load_params
    from model.weights import pretrained_entry, pretrained_file
    from support import params_file

    entry = None
    if args.pretrained:
        entry, args.params = pretrained_entry(args.pretrained), str(pretrained_file(args.pretrained))
    args.params = weights_file(args.params)
    arrays, attachments = params_file.read(args.params)
    saved = checkpoint.saved_in(args.params, attachments, required=False)
    known = tasks.Known.of(saved) if saved else tasks.Known.of_entry(entry, args.params) if entry else None
    model, arguments, task = task_of(args, known, arrays)
    refuse_flags_of_others(parser, args, task.name)
    if not SOME.holds(arguments["classes"]):
        raise InputError(f"{args.params} has classes={arguments['classes']!r} among its settings, not {SOME.words}; "
                         "use another one")
    names = task.class_names(arguments["classes"])
    if arguments["classes"] < len(names):
        raise InputError(f"{args.params} has {arguments['classes']} classes, too few for the {len(names)} labels of "
                         f"{task.title}")
    try:
        arguments = complete_arguments(model, arguments)
        arguments = task.complete(model, arguments, image_size(model, arguments))
        net = get_model(model, **arguments)
    except (InputError, TypeError) as error:
        parser.error(str(error))
    contexts, sentence = loop.devices(args.gpus)
    recognised = []
    load_params(net, args.params, contexts, say=recognised.append)
    loop.set_mode(net, args.mode)
    return Subject(args.params, recognised[0], model, arguments, net, task, names, contexts, sentence)


class Score(NamedTuple):
    """What evaluate() finds: the record for --json, the rows of the table, the confusion matrix, the net's form."""

    record: dict
    rows: list
    confusion: Any
    form: str


def evaluate(subject, images, args):
    """Evaluate a Subject on its task's test images; returns a Score. args: mode and fused of a command line."""
    import mxnet as mx

    from backend.gluon import loop
    from backend.gluon.inference import optimize

    net, contexts, names = subject.net, subject.contexts, subject.class_names
    example = mx.nd.array(next(iter(images.batches))[0], contexts[0])
    forward, form = optimize(net, example, args.fused) if args.mode == "hybrid" else (net, "operator by operator")
    started = time.perf_counter()
    try:
        evaluation = loop.evaluate(net, images.batches, contexts, len(names), forward)
    except loop.Diverged as error:
        raise InputError(f"{subject.file}: {error}; use another checkpoint") from error
    seconds = time.perf_counter() - started
    images.check(evaluation.images)
    rows = rows_of(evaluation.confusion, names)
    task = subject.task
    return Score({
        "params": os.path.basename(subject.file), "sha256": sha256(subject.file), "model": subject.model,
        "arguments": subject.arguments, "dataset": task.name, "label_mode": task.label_mode, **task.record,
        "data": images.variant, "data_sha256": images.sha256, "images": evaluation.images,
        "counting": images.counting, "skipped": images.skipped,
        "top1": evaluation.top1, "top5": evaluation.top5, "loss": evaluation.loss,
        "classes": [{"class": name, "images": count, "right": right} for name, count, right, *_ in rows],
        "seconds": seconds, "images_per_second": evaluation.images / seconds, "form": form,
        "process_settings": runtime.settings()}, rows, evaluation.confusion, form)


def record_of(*words):
    """What --json has of a command line that evaluates a file, in this process and without a word."""
    parser, args = parse(words)
    subject = subject_of(parser, args)
    return evaluate(subject, images_of(subject, args), args).record


def images_of(subject, args):
    """The test images of a command line."""
    return subject.task.load(subject.arguments["classes"],
                             args.batch_size or subject.task.batch_size(subject.contexts))


def write_json(records, place):
    """Write records, a line each, to a file, which is whole or untouched, or to STDOUT; nowhere for None."""
    from engine import runlog

    text = "".join(json.dumps(record) + "\n" for record in records)
    if place == STDOUT:
        sys.stdout.write(text)
    elif place is not None:
        runlog.write_text(place, text)


def main():
    parser, args = parse()
    runtime.tune(args.tune)
    runtime.prepare()  # before NumPy and MXNet load, so that a missing piece is a sentence
    from engine import runlog

    runlog.start_logging()
    say = functools.partial(print, file=sys.stderr if args.json == STDOUT else sys.stdout, flush=True)
    subject = subject_of(parser, args)
    for remark in args.remarks:
        say(remark)
    if args.images:
        print(subject.recognised, file=sys.stderr)  # standard output has a line for each picture
        write_json(classify(subject.net, args.images, subject.class_names, subject.contexts[0], subject.task.pixels,
                            say), args.json)
        return 0

    images = images_of(subject, args)
    say(f"{net_flags.net_text(subject.model, subject.arguments)}: {subject.recognised}")
    say(f"{images.text}; {subject.device_sentence}")
    record, rows, confusion, form = evaluate(subject, images, args)
    say(table_of(rows))
    left_out = f", {len(images.skipped):,} damaged ones left out" if images.skipped else ""
    say(f"counted: {images.counting}{left_out}")
    say(form)
    try:
        if args.by_class:
            write_rows(rows, args.by_class)
            say(f"table of {len(rows):,} classes: {args.by_class}")
        if args.confusion_matrix:
            draw_confusion(confusion, subject.class_names, args.confusion_matrix, f"{subject.model}, "
                           f"{subject.task.title}: {record['top1']:.4f} of {record['images']:,} images right")
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
