"""The flags of visualize.py: one set for each kind of drawing."""
import os

from . import evaluate_flags, flags

WITH_NET = ("gates", "predictions", "confusion", "statistics")  # they take the flags of evaluate.py
MOST_ANSWERS = 400


def parse(description, hosts, argv=None):
    """(parser of the chosen drawing, parsed flags). hosts: CIFAR and IMAGENET of model.registry.

    A wrong flag ends the process.
    """
    parser = flags.Parser(prog="visualize.py", description=description)
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

    tasks.add_parser("confusion", help="how the images of each class are answered, in per cent")
    statistics = tasks.add_parser("statistics", help="the spread of the gates at each site over the test images, and "
                                  "what their variance comes from")
    statistics.add_argument("--count", type=flags.number(int, 1), metavar="N", help="only the first N test images")

    curves = tasks.add_parser("curves", help="the training curves of several runs in the same axes")
    curves.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or its metrics.jsonl")
    curves.add_argument("--labels", metavar="TEXT,TEXT", help="their names in the figure (default: the folders' names)")

    tasks.add_parser("unit", help="the ATAC unit as a drawing in SVG; needs no weights")

    for name in WITH_NET:
        evaluate_flags.add_subject_flags(tasks.choices[name], hosts)
    for name, task in tasks.choices.items():
        default, kinds = ("atac-unit.svg", "an .svg") if name == "unit" else (f"{name}.png", "a .png, .pdf or .svg")
        task.add_argument("-o", "--output", type=flags.figure, default=default, metavar="FILE",
                          help=f"the figure: {kinds} (default {default})")
    args = parser.parse_args(argv)
    chosen = tasks.choices[args.task]
    evaluate_flags.check_output(chosen, "--output", args.output)
    if args.task in WITH_NET:
        evaluate_flags.check_subject_flags(chosen, args, hosts)
    if args.task == "unit" and os.path.splitext(args.output)[1].lower() != ".svg":
        chosen.error(f"--output {args.output}: the drawing of the unit is an .svg")
    if args.task == "curves":
        args.labels = args.labels.split(",") if args.labels else None
        if args.labels and len(args.labels) != len(args.runs):
            chosen.error(f"--labels has {len(args.labels)} names for {len(args.runs)} runs; separate them by commas")
    return chosen, args
