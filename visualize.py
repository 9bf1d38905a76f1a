#!/usr/bin/env python3
r"""Draw what a net does, and how runs went.

    python visualize.py gates --pretrained atac_resnet20_v2_b1_cifar10 --beside seactivation_resnet20_v2_b1_cifar10 \
        --image 10 --data-dir data/cifar10-sample -o docs/images/gates.png
    python visualize.py predictions --pretrained atac_resnet20_v2_b1_cifar10 --wrong --data-dir data/cifar10-sample
    python visualize.py confusion --params runs/NAME/best.params
    python visualize.py statistics --pretrained atac_resnet20_v2_b1_cifar10
    python visualize.py curves runs/NAME runs/OTHER
    python visualize.py unit -o docs/images/atac-unit.svg

The first four choose the weights and the data by the flags of evaluate.py. The figure is a PNG, PDF or SVG, by the
extension of --output.
"""
import copy
import importlib
import os
import sys

from engine.cli import visualize_flags
from engine.cli.program import run_script
from model import registry
from support import runtime
from support.errors import InputError


def parse(argv=None):
    return visualize_flags.parse(__doc__, (registry.CIFAR, registry.IMAGENET), argv)


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


def draw(parser, args):
    """Draw one of the kinds that need a net."""
    from backend.exported import is_one
    from engine import visualize
    from engine.evaluation import picture

    subject = subject_of(parser, args)

    def images():
        return subject.data.images(subject.arguments["classes"], subject.backend.kind(subject.devices), args.batch_size)

    if args.task in ("gates", "statistics"):
        if args.params and is_one(args.params):
            raise InputError(f"{args.params} is an exported net, whose gates cannot be seen; give the parameter file")
        captured = importlib.import_module(f"{subject.backend.__name__}.gates").captured
        if args.task == "statistics":
            visualize.statistics(subject, captured, images(), args.count, args.output)
            return
        subjects = [subject, *([beside(parser, args, subject)] if args.beside else [])]
        if args.picture:
            pixels, name = picture(args.picture, subject.data.pixels), os.path.basename(args.picture)
        else:
            pixels, name = visualize.test_image(subject, images(), args.image)
        visualize.gates(subjects, captured, pixels, name, args.channel, args.output)
        return
    tested = images()
    example = next(iter(tested.batches))[0]
    scorer, _ = subject.backend.scorer(subject.net, subject.devices, example, args.mode, args.fused)
    if args.task == "confusion":
        visualize.confusion(subject, scorer, tested, args.output)
    else:
        visualize.predictions(subject, scorer, tested, args.count, args.wrong, args.output)


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
