#!/usr/bin/env python3
"""Train a network of Table IV on ImageNet.

The authors' own command line runs as it is:

    python train_imagenet.py --mode hybrid --lr 0.075 --lr-mode cosine --num-epochs 160 --batch-size 128 --num-gpus 2 \\
        -j 48 --warmup-epochs 5 --dtype float16 --use-rec --last-gamma --no-wd --label-smoothing --save-dir DIR \\
        --logging-file FILE --r 2 --act-layers 2

It is --recipe released, the default: the recipe of the checkpoint and the log that the authors have published, whose
command leaves weight decay and momentum to their script's defaults. --recipe paper is what Section IV-A says. They
differ:
                        paper                 released
    learning rate       0.075, x0.1 at        0.075, cosine to 0,
                        epochs 40 and 60      5 epochs of warmup
    weight decay        none                  1e-4, but on gamma, beta and bias
    label smoothing     not mentioned (0)     0.1
    last gamma          not mentioned (1)     starts at 0
    type                not mentioned         float16 with float32 master weights
    both                160 epochs, NAG with momentum 0.9, 256 images a step: 128 on each of two GPUs

Published error on the validation images (Table IV, ATAC-ResNet-50): top-1 21.41%, top-5 6.02%, the best of the 160
epochs; the last one of the log has 21.47% and 6.10%. This project has not repeated that run.

Data: record files (--use-rec) or class folders; scripts/prepare_imagenet.sh makes them. Training accuracy is counted
against the hard labels, under label smoothing and mixup too, on the augmented images. A smaller machine:

    python train_imagenet.py --num-gpus 1 --batch-size 256 --accumulate 4     # the same total batch, in four parts
    python train_imagenet.py --gpus '' --input-size 64 --batch-size 32 --recipe scaled --num-epochs 5   # a CPU

A run leaves args.json, metrics.jsonl, train.log, result.json, history.png and the checkpoints last.params and
best.params in its folder; --resume continues it to the bit, also from the middle of an epoch (--save-interval), after
a stop by SIGTERM, SIGHUP or Ctrl-C. With several workers (scripts/launch.sh) that folder must lie on a disk that all
of them reach; the first worker alone writes.
"""
import dataclasses
import logging

from engine.cli import flags, net_flags
from engine.cli.program import run_script
from engine.experiment import Experiment
from engine.recipe import CROP_RATIO, IMAGENET_PAPER, IMAGENET_RELEASED, INPUT_SIZE
from model import registry
from support import runtime
from support.errors import InputError
from support.words import counted

log = logging.getLogger("engine.train_imagenet")

PRESETS = {"paper": IMAGENET_PAPER, "released": IMAGENET_RELEASED}
LAST_GAMMA = {"paper": False, "released": True, "scaled": True}
DTYPES = {"paper": "float32", "released": "float16", "scaled": "float16"}
TOTAL_BATCH = 256  # that the recipes' learning rate is for
DEFAULT = Experiment("atac_resnet50_v1b", {"classes": 1000, "last_gamma": LAST_GAMMA["released"]}, "imagenet",
                     IMAGENET_RELEASED, input_size=INPUT_SIZE, crop_ratio=CROP_RATIO)
KVSTORES = ("device", "local", "nccl", "dist_sync_device", "dist_device_sync", "dist_sync", "horovod")
REFUSED = {
    "--resume-states": "a trainer's states are a pickle, which runs whatever code is in it; the checkpoints of this "
                       "script hold the optimizer's state, go on from one with --resume",
    "--use-pretrained": "no ImageNet weights come with this repository; start from a file with --resume-params",
    "--use-se": "name the net: --model se",
    "--teacher": "training by a teacher is not offered here",
}


def parse(argv=None):
    parser = flags.Parser(prog="train_imagenet.py", description=__doc__)
    net_flags.add_net_flags(parser, registry.IMAGENET, default=DEFAULT.model)
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", choices=("imagenet", "folder"), help="imagenet (default), or folder: your own "
                       "images in --data-dir, with train/ and val/ and a folder for each class in both")
    group.add_argument("--data-dir", type=flags.words, metavar="DIR", help="folder with train/ and val/, or with the "
                       "record files (default ~/.mxnet/datasets/imagenet)")
    group.add_argument("--use-rec", action="store_true", help="read record files: rec/train.rec and rec/val.rec in "
                       "--data-dir, or those that the next four flags name")
    for split in ("train", "val"):
        group.add_argument(f"--rec-{split}", type=flags.words, metavar="FILE", help=f"record file of {split}")
        group.add_argument(f"--rec-{split}-idx", type=flags.words, metavar="FILE", help="its index")
    group.add_argument("--damaged", choices=("refuse", "skip"), default="refuse",
                       help="end with the name of an image that cannot be read (default), or leave it out and say so")
    group.add_argument("--input-size", type=flags.number(int, 32, 4096), metavar="S",
                       help=f"side of the images, a multiple of 32 (default {INPUT_SIZE})")
    group.add_argument("--crop-ratio", type=flags.number(float, 0.01, most=1), metavar="X", help="validation images: "
                       f"share of the shorter side that the square in the middle keeps (default {CROP_RATIO})")
    parser.add_argument("--recipe", choices=(*PRESETS, "scaled"),
                        help="released (default: the published score is from it, and its log is public), paper, or "
                        "scaled: released with its warmup in proportion to --num-epochs")
    flags.add_recipe_flags(parser, IMAGENET_RELEASED, "by default")
    group = flags.add_run_flags(parser, KVSTORES, save_interval=1000, workers=4)
    group.add_argument("--resume-epoch", type=flags.number(int, 0), metavar="N",
                       help="with --resume-params: enter the schedule at epoch N, with fresh momentum")
    for flag, why in REFUSED.items():
        group.add_argument(flag, action=flags.Refused, why=why)
    args = parser.parse_args(argv)
    try:
        args.net_name, args.net_arguments, _ = net_flags.net_arguments(args, registry.IMAGENET)
        flags.settle_recipe(args, PRESETS, IMAGENET_RELEASED)
        if args.resume_epoch and not args.resume_params:
            raise InputError("--resume-epoch needs --resume-params; --resume goes on with a run of this script")
        epochs = args.changes.get("epochs", (args.preset or IMAGENET_RELEASED).epochs)
        if args.resume_epoch is not None and args.resume_epoch >= epochs:
            raise InputError(f"--resume-epoch {args.resume_epoch} leaves nothing of {counted(epochs, 'epoch')}")
        if args.input_size and args.input_size % 32:
            raise InputError(f"--input-size must be a multiple of 32 (the nets halve it five times), not "
                             f"{args.input_size}")
        for split in ("train", "val"):
            if getattr(args, f"rec_{split}_idx") and not getattr(args, f"rec_{split}"):
                raise InputError(f"--rec-{split}-idx needs --rec-{split}")
    except InputError as error:
        parser.error(str(error))
    return parser, args


def experiment_of(args, stored):
    """What the command line asks for; what it leaves open is a checkpoint's (stored) or the default."""
    from engine.data import sets
    from model import complete_arguments, image_size

    base = stored or DEFAULT
    name = args.net_name or base.model
    if image_size(name, {}) != DEFAULT.input_size:
        raise InputError(f"{name} is a net for CIFAR's images; train_cifar.py trains it")
    size = args.input_size or base.input_size
    arguments = {"last_gamma": base.net.get("last_gamma", False), **({} if args.net_name else base.net)}
    if args.recipe:
        arguments["last_gamma"] = LAST_GAMMA[args.recipe]
    arguments.update(args.net_arguments)
    if "input_size" in complete_arguments(name, {}):  # of GE and AA
        arguments["input_size"] = size
    dataset = args.dataset or base.dataset
    arguments["classes"] = args.classes or arguments.get("classes") or (
        DEFAULT.classes if dataset == DEFAULT.dataset else len(sets.of(dataset, args).class_names(None)))
    return dataclasses.replace(
        base, model=name, arguments=complete_arguments(name, arguments), dataset=dataset, input_size=size,
        recipe=dataclasses.replace(args.preset or base.recipe, **args.changes),
        seed=base.seed if args.seed is None else args.seed,
        crop_ratio=base.crop_ratio if args.crop_ratio is None else args.crop_ratio,
        start=stored.start if stored else args.resume_params,
        first_epoch=stored.first_epoch if stored else args.resume_epoch or 0)


def rate_sentence(lr, batch):
    """The learning rate beside the total batch, and the rate in proportion where it is another than the recipes'."""
    sentence = f"learning rate {lr:g} at a total batch of {batch}"
    if batch == TOTAL_BATCH:
        return f"{sentence}, the recipes'"
    return (f"{sentence}; the recipes' {IMAGENET_RELEASED.lr:g} is for {TOTAL_BATCH}, in proportion that is --lr "
            f"{IMAGENET_RELEASED.lr * batch / TOTAL_BATCH:g}")


def remarks(start):
    """What the log says of a run beside its recipe."""
    return [rate_sentence(start.experiment.recipe.lr, start.batch_size)]


def report(args, start, training, result, directory):
    """Say what came out."""
    last, best = result.last, result.best
    log.info("%s: err-top1 %.4f, err-top5 %.4f after %s; best err-top1 %.4f (epoch %d); %s validation images, each "
             "once; data %s", start.experiment.dataset, 1 - last.accuracy, 1 - last.top5,
             counted(start.experiment.recipe.epochs, "epoch"), 1 - best.accuracy, best.epoch, f"{last.images:,}",
             training.origin.in_short)


def main():
    parser, args = parse()
    runtime.tune(args.tune)
    runtime.prepare()  # before NumPy and MXNet load, so that a missing piece is a sentence
    import model
    from backend import gluon
    from engine.cli import start

    return start.train(parser, args, experiment_of, gluon, model, DTYPES[args.recipe or "released"], report, remarks)


if __name__ == "__main__":
    run_script(main)
