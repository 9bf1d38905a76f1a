#!/usr/bin/env python3
"""Train a network of the paper on CIFAR-10 or CIFAR-100.

The paper's recipe is the default: NAG, learning rate 0.2, 400 epochs, x0.1 at 300 and 350, weight decay 1e-4, batch
128 (Section IV-A). The authors' own command line runs as it is:

    python train_cifar.py --gpus 0 --num-epochs 400 --mode hybrid -j 32 --batch-size 128 --wd 0.0001 --lr 0.2 \\
        --lr-decay 0.1 --lr-decay-epoch 300,350 --dataset cifar100 --model atac --act-type ChaATAC --useReLU \\
        --r 2 --blocks 3

Published accuracy of that net (Table III): 0.936 on CIFAR-10, 0.812 on the 20 superclasses of CIFAR-100. --recipe
quick is a short run on a CPU.

A run writes args.json, metrics.jsonl, train.log, result.json, history.png and the checkpoints last.params and
best.params into its folder. --resume continues it to the bit, also after SIGTERM or Ctrl-C.
"""
import dataclasses
import logging
import shutil

from engine.cli import data_flags, flags, net_flags
from engine.cli.program import run_script
from engine.experiment import Experiment
from engine.recipe import CIFAR_PAPER
from model import registry
from support import runtime
from support.errors import InputError
from support.files import expanded, writing
from support.words import counted

log = logging.getLogger("engine.train_cifar")

PROGRAM = "train_cifar.py"
CLASSES = {"cifar10": 10, "cifar100": 100}  # length of the output, in both label modes; a folder has its own
DEFAULT = Experiment("atac_resnet20_v2", {"classes": 10}, "cifar10", CIFAR_PAPER)


def parse(argv=None):
    parser = flags.Parser(prog=PROGRAM, description=__doc__)
    net_flags.add_net_flags(parser, registry.CIFAR, default=DEFAULT.model)
    data_flags.add_data_flags(parser, "default cifar10")
    parser.add_argument("--val-split", type=flags.number(int, 0), metavar="N",
                        help="hold N training images out and choose the best epoch on them; the test images are scored "
                        "once, at the end (default 0: score the test images after every epoch, as the authors did)")
    flags.add_recipe_flags(parser, PROGRAM, "in the paper")
    group = flags.add_run_flags(parser, save_interval=0)
    group.add_argument("--save-plot-dir", type=flags.words, metavar="DIR", help="put a copy of history.png into DIR")
    args = parser.parse_args(argv)
    try:
        args.net_name, args.net_arguments, args.remarks = net_flags.net_arguments(args, registry.CIFAR)
        flags.settle_recipe(args, PROGRAM)
        if args.save_plot_dir:
            args.save_plot_dir = expanded(args.save_plot_dir)
    except InputError as error:
        parser.error(str(error))
    return parser, args


def experiment_of(args, stored):
    """The Experiment that the command line asks for; what it leaves open is a checkpoint's (stored) or the default."""
    from engine.data import cifar, sets
    from engine.data.dataset import Known
    from model import complete_arguments, image_size

    base = stored or DEFAULT
    name, dataset = args.net_name or base.model, args.dataset or base.dataset
    arguments = {**(stored.net if stored and not args.net_name else {}), **args.net_arguments}
    data = sets.of(dataset, args, stored and Known.of(stored))
    labels = len(data.class_names(None))
    arguments["classes"] = args.classes or arguments.get("classes") or CLASSES.get(dataset, labels)
    if stored is None and arguments["classes"] < labels:
        raise InputError(f"--classes {arguments['classes']} is too few for the {labels} labels of {dataset}")
    arguments = complete_arguments(name, arguments)
    size = image_size(name, arguments)
    cifar.check_size(name, size)
    return dataclasses.replace(
        base, model=name, arguments=arguments, dataset=dataset, label_mode=data.label_mode,
        recipe=dataclasses.replace(args.preset.recipe if args.preset else base.recipe, **args.changes),
        seed=base.seed if args.seed is None else args.seed,
        val_split=base.val_split if args.val_split is None else args.val_split,
        start=stored.start if stored else args.resume_params)


def report(args, start, training, result, directory):
    """Log the result; copy the plot if --save-plot-dir asks for it."""
    if args.save_plot_dir:
        plot = directory / "history.png"
        with writing(f"--save-plot-dir {args.save_plot_dir}", f"the plot is {plot}"):
            args.save_plot_dir.mkdir(parents=True, exist_ok=True)
            shutil.copy(plot, args.save_plot_dir / f"{start.experiment.name}_history.png")
    last, best = (result.held_out or {"last": result.last, "best": result.best}).values()
    labels = f" ({start.experiment.label_mode} labels)" if start.experiment.label_mode else ""
    log.info("%s%s: accuracy %.4f after %s; best %.4f (epoch %d), chosen on the %s images; data %s",
             start.experiment.dataset, labels, last.accuracy, counted(start.experiment.recipe.epochs, "epoch"),
             best.accuracy, best.epoch, result.chosen_on, training.origin.in_short)


def main():
    parser, args = parse()
    runtime.tune(args.tune)
    runtime.prepare(torch=True)  # before NumPy and MXNet load: it names a missing piece in a sentence
    from backend import choose, networks
    from engine import runlog
    from engine.cli import start

    runlog.start_logging()
    backend = choose(args.backend, bool(args.gpus))
    return start.train(parser, args, experiment_of, backend, networks(), "float32", report)


if __name__ == "__main__":
    run_script(main)
