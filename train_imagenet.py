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

from engine import flags
from engine.recipe import IMAGENET_PAPER, IMAGENET_RELEASED
from support import runtime
from support.errors import InputError
from support.words import counted

log = logging.getLogger("engine.train_imagenet")

PRESETS = {"paper": IMAGENET_PAPER, "released": IMAGENET_RELEASED}
LAST_GAMMA = {"paper": False, "released": True, "scaled": True}
DTYPES = {"paper": "float32", "released": "float16", "scaled": "float16"}
TOTAL_BATCH = 256  # that the recipes' learning rate is for
DEFAULTS = {"model": flags.IMAGENET_MODEL, "arguments": {"last_gamma": LAST_GAMMA["released"]}, "seed": 0,
            "input_size": 224, "crop_ratio": 0.875, "recipe": dataclasses.asdict(IMAGENET_RELEASED)}
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
    flags.add_imagenet_net_flags(parser)
    group = parser.add_argument_group("data")
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
                       help="side of the images, a multiple of 32 (default 224)")
    group.add_argument("--crop-ratio", type=flags.number(float, 0.01, most=1), metavar="X", help="validation images: "
                       "share of the shorter side that the square in the middle keeps (default 0.875)")
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
        args.net_name, args.net_arguments = flags.imagenet_net_arguments(args)
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


def spec_of(args, stored):
    """What decides the run: from the command line, and where that is silent from a checkpoint or the defaults.

    A resumed run may get more epochs; any other difference from its checkpoint is refused.
    """
    from engine import script
    from model import complete_arguments, image_size

    base = DEFAULTS if stored is None else stored
    spec = {"model": args.net_name or base["model"], "dataset": "imagenet", "label_mode": None}
    if image_size(spec["model"], {}) != 224:
        raise InputError(f"{spec['model']} is a net for CIFAR's images; train_cifar.py trains it")
    for name in ("seed", "input_size", "crop_ratio"):
        spec[name] = getattr(args, name) if getattr(args, name) is not None else base[name]
    arguments = {"last_gamma": base["arguments"]["last_gamma"], **({} if args.net_name else base["arguments"])}
    if args.recipe:
        arguments["last_gamma"] = LAST_GAMMA[args.recipe]
    arguments.update(args.net_arguments)
    if "input_size" in complete_arguments(spec["model"], {}):  # of GE and AA
        arguments["input_size"] = spec["input_size"]
    arguments["classes"] = args.classes or arguments.get("classes") or 1000
    spec["arguments"] = complete_arguments(spec["model"], arguments)
    spec["recipe"] = script.recipe_of(args, base["recipe"])
    if stored is not None:
        script.refuse_another_run(spec, stored, complete_arguments, args.recipe)
    return spec


def build(spec):
    from model import get_model

    return get_model(spec["model"], **spec["arguments"])


def run_name(spec):
    size = "" if spec["input_size"] == DEFAULTS["input_size"] else str(spec["input_size"])
    return f"imagenet{size}_{spec['model']}_seed{spec['seed']}"


def rate_sentence(lr, batch):
    """The learning rate beside the total batch, and the rate in proportion where it is another than the recipes'."""
    sentence = f"learning rate {lr:g} at a total batch of {batch}"
    if batch == TOTAL_BATCH:
        return f"{sentence}, the recipes'"
    return (f"{sentence}; the recipes' {IMAGENET_RELEASED.lr:g} is for {TOTAL_BATCH}, in proportion that is --lr "
            f"{IMAGENET_RELEASED.lr * batch / TOTAL_BATCH:g}")


def main():
    parser, args = parse()
    runtime.tune(args.tune)
    runtime.prepare()  # before NumPy and MXNet load, so that a missing piece is a sentence
    import model
    from engine import imagenet, runlog, script
    from model.complexity import count, table
    from ops.nag import update_operator

    runlog.start_logging()
    with script.decide(parser, args, spec_of, build, run_name) as start:
        spec, recipe = start.spec, start.recipe
        start.greet(DTYPES[args.recipe or "released"])
        data = imagenet.load(args.data_dir, args.use_rec, args.rec_train, args.rec_train_idx, args.rec_val,
                             args.rec_val_idx)
        start.require_data(data)
        labels, classes = len(data.class_names), spec["arguments"]["classes"]
        if classes < labels:
            raise InputError(f"--classes {classes} is too few for the {labels} classes of the data")
        size = spec["input_size"]
        batches = imagenet.TrainBatches(data.train, start.batch_size, spec["seed"], size, part=start.part,
                                        damaged=args.damaged)
        score_batches = imagenet.EvalBatches(
            data.val, min(recipe.batch_size // recipe.accumulate, len(data.val)), size, spec["crop_ratio"],
            args.num_data_workers, start.part, damaged=args.damaged)
        start.prepare_net(model)
        start.open_folder()

        log.info("data: %s training and %s validation images in %d classes, %dx%d pixels, %s, sha256 %s",
                 f"{len(data.train):,}", f"{len(data.val):,}", labels, size, size, start.data_in_short,
                 data.provenance["sha256"])
        start.announce(batches, count(start.net, (3, size, size)), table)
        log.info("%s", rate_sentence(recipe.lr, batches.batch_size))
        if recipe.label_smoothing or recipe.mixup_alpha:
            log.info("training accuracy is counted against the hard labels%s",
                     ", of mixed images the one with the larger share" if recipe.mixup_alpha else "")
        if args.resume_epoch:
            log.info("the schedule is entered at epoch %d, with fresh momentum", args.resume_epoch)
        status, result = start.train(
            start.settings(input_size=size, crop_ratio=spec["crop_ratio"]), update_operator(args.fused),
            batches=batches, score_batches=score_batches, labels=labels, scored_on="validation", test_batches=None,
            first_epoch=args.resume_epoch or 0)
        if result is not None:
            last, best = result["last"], result["best"]
            log.info("imagenet: err-top1 %.4f, err-top5 %.4f after %s; best err-top1 %.4f (epoch %d); %s validation "
                     "images, each once; data %s", 1 - last["accuracy"], 1 - last["top5"],
                     counted(result["epochs"], "epoch"), 1 - best["accuracy"], best["epoch"], f"{last['images']:,}",
                     start.data_in_short)
            log.info("checkpoints, metrics and history.png are in %s", start.directory)
    return status


if __name__ == "__main__":
    flags.run_script(main)
