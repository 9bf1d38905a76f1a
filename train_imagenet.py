#!/usr/bin/env python3
"""Train a network of Table IV on ImageNet.

The authors' own command line runs as it is:

    python train_imagenet.py --mode hybrid --lr 0.075 --lr-mode cosine --num-epochs 160 --batch-size 128 --num-gpus 2 \\
        -j 48 --warmup-epochs 5 --dtype float16 --use-rec --last-gamma --no-wd --label-smoothing --save-dir DIR \\
        --logging-file FILE --r 2 --act-layers 2

It is --recipe released, the default: the recipe of the authors' published checkpoint and log. Weight decay and momentum
are the defaults of their script. --recipe paper is the text of Section IV-A. The two differ:
                        paper                 released
    learning rate       0.075, x0.1 at        0.075, cosine to 0,
                        epochs 40 and 60      5 epochs of warmup
    weight decay        none                  1e-4, except on gamma, beta, bias
    label smoothing     not mentioned (0)     0.1
    last gamma          not mentioned (1)     starts at 0
    type                not mentioned         float16 with float32 master weights
    both                160 epochs, NAG with momentum 0.9, 256 images a step: 128 on each of two GPUs

Published error on the validation images (Table IV, ATAC-ResNet-50): top-1 21.41%, top-5 6.02% in the best of the 160
epochs; 21.47% and 6.10% in the last (the authors' log). This project has not repeated that run.

Data: record files (--use-rec) or class folders; scripts/prepare_imagenet.sh makes them. Training accuracy counts the
hard labels on the augmented images, also under label smoothing and mixup. On a smaller machine:

    python train_imagenet.py --num-gpus 1 --batch-size 256 --accumulate 4     # the same total batch, in four parts
    python train_imagenet.py --gpus '' --input-size 64 --batch-size 32 --recipe scaled --num-epochs 5   # a CPU

A run writes args.json, metrics.jsonl, train.log, result.json, history.png and the checkpoints last.params and
best.params into its folder. --resume continues it to the bit, also within an epoch (--save-interval) and after SIGTERM,
SIGHUP or Ctrl-C. With several workers (docs/DISTRIBUTED.md) only the first one writes, and all of them must reach the
folder.
"""
import dataclasses
import logging

from engine import presets
from engine.cli import data_flags, flags, net_flags
from engine.cli.program import run_script
from engine.experiment import Experiment
from engine.recipe import CROP_RATIO, INPUT_SIZE
from model import registry
from support import runtime
from support.errors import InputError
from support.words import counted

log = logging.getLogger("engine.train_imagenet")

PROGRAM = "train_imagenet.py"
RELEASED = presets.named(PROGRAM, "released")
TOTAL_BATCH = 2 * RELEASED.recipe.batch_size  # the authors' two GPUs; the recipes' learning rate is for it
DEFAULT = Experiment("atac_resnet50_v1b", {"classes": 1000, **RELEASED.net}, "imagenet", RELEASED.recipe,
                     input_size=INPUT_SIZE, crop_ratio=CROP_RATIO)
REFUSED = {
    "--resume-states": "a trainer's states are a pickle, and reading a pickle runs the code in it; this script's "
                       "checkpoints hold the optimizer's state: resume one with --resume",
    "--use-pretrained": "no ImageNet weights come with this repository; start from a file with --resume-params",
    "--use-se": "name the net: --model se",
    "--teacher": "this script does not train with a teacher; leave it out",
}


def parse(argv=None):
    parser = flags.Parser(prog=PROGRAM, description=__doc__)
    net_flags.add_net_flags(parser, registry.IMAGENET, default=DEFAULT.model)
    data_flags.add_imagenet_flags(parser)
    flags.add_recipe_flags(parser, PROGRAM, "by default")
    group = flags.add_run_flags(parser, save_interval=1000, workers=4)
    group.add_argument("--resume-epoch", type=flags.number(int, 0), metavar="N",
                       help="with --resume-params: enter the schedule at epoch N, with fresh momentum")
    for flag, why in REFUSED.items():
        group.add_argument(flag, action=flags.Refused, why=why)
    args = parser.parse_args(argv)
    try:
        args.net_name, args.net_arguments, _ = net_flags.net_arguments(args, registry.IMAGENET)
        flags.settle_recipe(args, PROGRAM)
        if args.resume_epoch and not args.resume_params:
            raise InputError("--resume-epoch needs --resume-params; --resume continues a run of this script")
        epochs = args.changes.get("epochs", (args.preset or RELEASED).recipe.epochs)
        if args.resume_epoch is not None and args.resume_epoch >= epochs:
            raise InputError(f"--resume-epoch {args.resume_epoch} leaves nothing of {counted(epochs, 'epoch')}")
        data_flags.check_image_flags(args)
    except InputError as error:
        parser.error(str(error))
    return parser, args


def experiment_of(args, stored):
    """The Experiment that the command line asks for; what it leaves open is a checkpoint's (stored) or the default."""
    from engine.data import sets
    from model import complete_arguments, image_size

    base = stored or DEFAULT
    name = args.net_name or base.model
    if image_size(name, {}) != DEFAULT.input_size:
        raise InputError(f"{name} is a net for CIFAR's images; train_cifar.py trains it")
    size = args.input_size or base.input_size
    arguments = {"last_gamma": base.net.get("last_gamma", False), **({} if args.net_name else base.net)}
    arguments.update(args.preset.net if args.preset else {})
    arguments.update(args.net_arguments)
    if "input_size" in complete_arguments(name, {}):  # of GE and AA
        arguments["input_size"] = size
    dataset = args.dataset or base.dataset
    arguments["classes"] = args.classes or arguments.get("classes") or (
        DEFAULT.classes if dataset == DEFAULT.dataset else len(sets.of(dataset, args).class_names(None)))
    return dataclasses.replace(
        base, model=name, arguments=complete_arguments(name, arguments), dataset=dataset, input_size=size,
        recipe=dataclasses.replace(args.preset.recipe if args.preset else base.recipe, **args.changes),
        seed=base.seed if args.seed is None else args.seed,
        crop_ratio=base.crop_ratio if args.crop_ratio is None else args.crop_ratio,
        start=stored.start if stored else args.resume_params,
        first_epoch=stored.first_epoch if stored else args.resume_epoch or 0)


def rate_sentence(lr, batch):
    """The learning rate and the total batch; for another batch than the recipes', also the rate in proportion."""
    sentence = f"learning rate {lr:g} at a total batch of {batch}"
    if batch == TOTAL_BATCH:
        return f"{sentence}, the recipes'"
    return (f"{sentence}; the recipes' {RELEASED.recipe.lr:g} is for {TOTAL_BATCH}, in proportion that is --lr "
            f"{RELEASED.recipe.lr * batch / TOTAL_BATCH:g}")


def remarks(start):
    """More sentences for the log."""
    return [rate_sentence(start.experiment.recipe.lr, start.batch_size)]


def report(args, start, training, result, directory):
    """Log the result."""
    last, best = result.last, result.best
    log.info("%s: err-top1 %.4f, err-top5 %.4f after %s; best err-top1 %.4f (epoch %d); %s validation images, each "
             "once; data %s", start.experiment.dataset, 1 - last.accuracy, 1 - last.top5,
             counted(start.experiment.recipe.epochs, "epoch"), 1 - best.accuracy, best.epoch, f"{last.images:,}",
             training.origin.in_short)


def main():
    parser, args = parse()
    runtime.tune(args.tune)
    runtime.prepare(torch=True)  # before NumPy and MXNet load: it names a missing piece in a sentence
    from backend import choose, networks
    from engine import runlog
    from engine.cli import start

    runlog.start_logging()
    backend, dtype = choose(args.backend, bool(args.gpus)), (args.preset or RELEASED).dtype
    return start.train(parser, args, experiment_of, backend, networks(), dtype, report, remarks)


if __name__ == "__main__":
    run_script(main)
