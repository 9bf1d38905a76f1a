#!/usr/bin/env python3
r"""Draw what a net does, and how runs went.

    python visualize.py gates --pretrained atac_resnet20_v2_b1_cifar10 --beside seactivation_resnet20_v2_b1_cifar10 \
        --image 10 --data-dir data/cifar10-sample -o docs/images/gates.png
    python visualize.py predictions --pretrained atac_resnet20_v2_b1_cifar10 --wrong --data-dir data/cifar10-sample
    python visualize.py statistics --pretrained atac_resnet20_v2_b1_cifar10
    python visualize.py curves runs/NAME runs/OTHER
    python visualize.py unit -o docs/images/atac-unit.svg

The first three choose the weights and the data by the flags of evaluate.py. The figure is a PNG, PDF or SVG, by the
extension of --output.
"""
import copy
import os
import sys

from engine.cli import flags, subject_flags
from engine.cli.program import run_script
from model import registry
from support import runtime
from support.errors import InputError

HOSTS = registry.CIFAR, registry.IMAGENET
WITH_NET = ("gates", "predictions", "statistics")  # they take the flags of evaluate.py
MOST_ANSWERS = 400


def parse(argv=None):
    """(parser of the chosen drawing, parsed flags). A wrong flag ends the process."""
    parser = flags.Parser(prog="visualize.py", description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="WHAT", help="(WHAT --help lists its flags)")

    gates = tasks.add_parser("gates", help="the gates of every attentional unit for one picture")
    which = gates.add_mutually_exclusive_group()
    which.add_argument("--picture", type=flags.words, metavar="FILE", help="a picture of your own")
    which.add_argument("--image", type=flags.number(int, 0), default=0, metavar="N",
                       help="the test image with this number, from 0 (default 0)")
    gates.add_argument("--beside", type=flags.words, metavar="NAME", help="the gates of a second net below: a name in "
                       "params/manifest.json, or a parameter file that knows its net")
    gates.add_argument("--channel", type=flags.number(int, 0), metavar="K", help="the channel to show at every site "
                       "(default: at each site the one that varies most over the picture)")

    predictions = tasks.add_parser("predictions", help="test images with their true and answered names")
    predictions.add_argument("--count", type=flags.number(int, 1, MOST_ANSWERS), default=32, metavar="N",
                             help="how many (default 32)")
    predictions.add_argument("--wrong", action="store_true", help="only images that the net gets wrong")

    statistics = tasks.add_parser("statistics", help="the spread of the gates at each site over the test images, and "
                                  "what their variance comes from")
    statistics.add_argument("--count", type=flags.number(int, 1), metavar="N", help="only the first N test images")

    curves = tasks.add_parser("curves", help="the training curves of several runs in the same axes")
    curves.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or its metrics.jsonl")
    curves.add_argument("--labels", metavar="TEXT,TEXT", help="their names in the figure (default: the folders' names)")

    tasks.add_parser("unit", help="the ATAC unit as a drawing in SVG; needs no weights")

    for name in WITH_NET:
        subject_flags.add_subject_flags(tasks.choices[name], HOSTS)
    for name, task in tasks.choices.items():
        default, kinds = ("atac-unit.svg", "an .svg") if name == "unit" else (f"{name}.png", "a .png, .pdf or .svg")
        task.add_argument("-o", "--output", type=flags.figure, default=default, metavar="FILE",
                          help=f"the figure: {kinds} (default {default})")
    args = parser.parse_args(argv)
    chosen = tasks.choices[args.task]
    subject_flags.check_output(chosen, "--output", args.output)
    if args.task in WITH_NET:
        subject_flags.check_subject_flags(chosen, args, HOSTS)
    elif args.task == "unit":
        if os.path.splitext(args.output)[1].lower() != ".svg":
            chosen.error(f"--output {args.output}: the drawing of the unit is an .svg")
    else:
        args.labels = args.labels.split(",") if args.labels else None
        if args.labels and len(args.labels) != len(args.runs):
            chosen.error(f"--labels has {len(args.labels)} names for {len(args.runs)} runs; separate them by commas")
    return chosen, args


def subject_of(parser, args):
    """The Subject (engine.cli.subject) of a command line."""
    from backend import choose, networks
    from engine.cli import subject

    found = subject.subject_of(parser, args, networks(), choose(args.backend, bool(args.gpus)))
    print(found.recognised, file=sys.stderr)
    return found


def beside(parser, args, first):
    """The Subject of --beside, for images of the same size as the first one's."""
    own, is_file = copy.copy(args), os.path.exists(args.beside)
    own.params, own.pretrained = (args.beside, None) if is_file else (None, args.beside)
    own.net_name, own.net_arguments, own.classes, own.dataset, own.label_mode = None, {}, None, None, None
    second = subject_of(parser, own)
    sizes = {registry.image_size(each.model, each.arguments) for each in (first, second)}
    if len(sizes) > 1:
        raise InputError(f"--beside {args.beside}: it takes images of another size; name a net of the same host")
    return second


def scorer_of(args, subject, example=None):
    """The Scorer of a Subject's net. example : images like those to come, to choose the fastest form of the net by."""
    return subject.backend.scorer(subject.net, subject.devices, example, args.mode, args.fused)[0]


def draw(parser, args):
    """Draw one of the kinds that need a net."""
    from backend.exported import is_one
    from engine import visualize
    from engine.evaluation import picture

    if args.params and is_one(args.params):
        raise InputError(f"{args.params} is an exported net; give the parameter file that it is from")
    subject = subject_of(parser, args)
    images = subject.images(args.batch_size)
    if args.task in ("gates", "statistics"):
        if args.task == "statistics":
            visualize.statistics(subject, scorer_of(args, subject), images, args.count, args.output)
            return
        subjects = [subject, *([beside(parser, args, subject)] if args.beside else [])]
        if args.picture:
            pixels, name = picture(args.picture, subject.data.pixels), os.path.basename(args.picture)
        else:
            pixels, name = visualize.test_image(subject, images, args.image)
        shown = [(each, scorer_of(args, each)) for each in subjects]
        visualize.gates(shown, pixels, name, args.channel, args.output)
        return
    example = next(iter(images.batches))[0]
    visualize.predictions(subject, scorer_of(args, subject, example), images, args.count, args.wrong, args.output)


def main():
    parser, args = parse()
    if args.task == "unit":
        from engine.figures.unit import draw_unit
        draw_unit(args.output)
    elif args.task == "curves":
        from engine import visualize
        visualize.training_curves(args.runs, args.labels, args.output)
    else:
        runtime.tune(args.tune)
        runtime.prepare(torch=True)  # before NumPy and MXNet load: it names a missing piece in a sentence
        from engine import runlog
        runlog.start_logging()
        draw(parser, args)
    print(f"{args.task}: {args.output}")
    return 0


if __name__ == "__main__":
    run_script(main)
