#!/usr/bin/env python3
"""Train a network of the paper on CIFAR-10 or CIFAR-100.

The paper's recipe is the default: NAG, learning rate 0.2, 400 epochs, x0.1 at 300 and 350, weight decay 1e-4, batch
128 (Section IV-A). The authors' own command line runs as it is:

    python train_cifar.py --gpus 0 --num-epochs 400 --mode hybrid -j 32 --batch-size 128 --wd 0.0001 --lr 0.2 \\
        --lr-decay 0.1 --lr-decay-epoch 300,350 --dataset cifar100 --model atac --act-type ChaATAC --useReLU \\
        --r 2 --blocks 3

Published accuracy of that net (Table III): 0.936 on CIFAR-10, 0.812 on the 20 superclasses of CIFAR-100.
A short run on a CPU (README.md has its result):

    python train_cifar.py --model atac_resnet20_v2 --blocks 1 --recipe scaled --num-epochs 20 --gpus ''

A run leaves args.json, metrics.jsonl, train.log, result.json, history.png and the checkpoints last.params and
best.params in its folder; --resume continues it to the bit, also after a stop by SIGTERM or Ctrl-C.
"""
import contextlib
import dataclasses
import logging
import shlex
import shutil
import sys
from pathlib import Path

from engine import flags
from engine.recipe import CIFAR_PAPER, Recipe
from support import runtime
from support.errors import InputError

log = logging.getLogger("engine.train_cifar")

DEFAULTS = {"model": "atac_resnet20_v2", "arguments": {}, "dataset": "cifar10", "label_mode": None, "seed": 0,
            "val_split": 0, "recipe": dataclasses.asdict(CIFAR_PAPER)}


def parse(argv=None):
    parser = flags.Parser(prog="train_cifar.py", description=__doc__)
    flags.add_net_flags(parser)
    flags.add_data_flags(parser, "default cifar10")
    parser.add_argument("--val-split", type=flags.number(int, 0), metavar="N",
                        help="hold N training images back and choose the best epoch on them; the test images are "
                        "scored once, at the end (default 0: score the test images after every epoch, as the authors)")
    parser.add_argument("--recipe", choices=("paper", "scaled"), help="paper (default), or scaled: the paper's with "
                        "its decays moved in proportion to --num-epochs")
    flags.add_recipe_flags(parser)
    group = parser.add_argument_group("run")
    flags.add_device_flags(group)
    group.add_argument("--dtype", choices=("float32", "float16"),
                       help="float16: on GPUs, with float32 master weights and float32 checkpoints (default float32)")
    group.add_argument("--kvstore", choices=("device", "local", "nccl"), default="device",
                       help="how several devices add their gradients (default device)")
    group.add_argument("-j", "--num-data-workers", type=flags.number(int, 0), default=1, metavar="N",
                       help="threads that prepare batches ahead, no more than there are cores; 0: none (default 1)")
    group.add_argument("--seed", type=flags.number(int, 0, most=2**32 - 1), metavar="N",
                       help="of initialization, order and augmentation (default 0)")
    group.add_argument("--save-dir", type=flags.words, metavar="DIR", help="folder of the run (default runs/NAME)")
    group.add_argument("--save-period", "--save-frequency", type=flags.number(int, 0), default=0, metavar="N",
                       help="also keep the checkpoint of every Nth epoch")
    group.add_argument("--save-plot-dir", type=flags.words, metavar="DIR", help="put a copy of history.png there")
    group.add_argument("--resume", nargs="?", const="", metavar="PATH", help="go on with the run in folder PATH, or "
                       "from the checkpoint PATH; without PATH with the run in --save-dir or the newest of this name")
    group.add_argument("--resume-params", "--resume-from", type=flags.words, metavar="FILE",
                       help="start from the weights in FILE, ours or the authors'")
    group.add_argument("--log-interval", type=flags.number(int, 1), default=100, metavar="N",
                       help="steps between two lines of the log (default 100)")
    group.add_argument("--logging-file", type=flags.words, metavar="FILE", help="default train.log in the run's folder")
    group.add_argument("--summary", action="store_true", help="print the table of layers first")
    args = parser.parse_args(argv)
    try:
        args.net_name, args.net_arguments, args.remarks = flags.net_arguments(args)
        args.changes = flags.recipe_changes(args, Recipe)
        if args.resume is not None and args.resume_params:
            raise InputError("--resume and --resume-params exclude each other")
        args.preset = CIFAR_PAPER if args.recipe == "paper" else None
        if args.recipe == "scaled":
            args.preset = CIFAR_PAPER.scaled(args.changes.get("epochs", CIFAR_PAPER.epochs))
        if args.preset or args.resume is None:  # without both, the numbers belong to a checkpoint's recipe
            dataclasses.replace(args.preset or CIFAR_PAPER, **args.changes)  # raises for nonsense, before MXNet loads
    except InputError as error:
        parser.error(str(error))
    return parser, args


def spec_of(args, stored):
    """What decides the run: from the command line, and where that is silent from a checkpoint or the defaults.

    A resumed run may get more epochs; any other difference from its checkpoint is refused.
    """
    from model import complete_arguments

    base = DEFAULTS if stored is None else stored
    spec = {"model": args.net_name or base["model"]}
    arguments = {**({} if args.net_name else base["arguments"]), **args.net_arguments}
    spec["dataset"] = args.dataset or base["dataset"]
    spec["label_mode"] = args.label_mode or base["label_mode"]
    if spec["label_mode"] is None and spec["dataset"] == "cifar100":
        spec["label_mode"] = "coarse"
    arguments["classes"] = args.classes or arguments.get("classes") or (10 if spec["dataset"] == "cifar10" else 100)
    spec["arguments"] = complete_arguments(spec["model"], arguments)
    for name in ("seed", "val_split"):
        spec[name] = getattr(args, name) if getattr(args, name) is not None else base[name]
    recipe = dataclasses.replace(args.preset or Recipe(**base["recipe"]), **args.changes)
    spec["recipe"] = dataclasses.asdict(recipe)
    if stored is not None:
        stored = {**stored, "arguments": complete_arguments(stored["model"], stored["arguments"])}
        recipes = [{**recipe, "epochs": None, "lr_decay_epochs": list(recipe["lr_decay_epochs"])}
                   for recipe in (spec["recipe"], stored["recipe"])]
        for name, new, old in [("recipe", *recipes)] + [(name, spec[name], stored[name]) for name in spec
                                                        if name != "recipe"]:
            if new != old:
                raise InputError(f"--resume: the command asks for {name} {_difference(new, old)}; "
                                 "only --num-epochs may change when a run goes on")
        begun = stored["state"]["epoch"] + (stored["state"]["step"] > 0)
        if spec["recipe"]["epochs"] < begun:
            raise InputError(f"--resume: the checkpoint is in epoch {begun} already, so --num-epochs "
                             f"{spec['recipe']['epochs']} is too few")
    return spec


def _difference(new, old):
    if isinstance(new, dict) and isinstance(old, dict):
        name = next(name for name in {**old, **new} if new.get(name) != old.get(name))
        return f"{name}={new.get(name)} but the checkpoint has {name}={old.get(name)}"
    return f"{new} but the checkpoint has {old}"


def checkpoint_of(args, name):
    """The checkpoint that --resume asks for; None without --resume, or where no run of that name has saved one yet."""
    from engine import run

    if args.resume is None:
        return None
    if args.resume:
        path = run.checkpoint_to_resume(args.resume)
        if args.save_dir and Path(args.save_dir).expanduser().resolve() != path.parent.resolve():
            raise InputError(f"--resume goes on in {path.parent}; leave --save-dir out")
        return path
    place = Path(args.save_dir).expanduser() if args.save_dir else run.newest_directory(name)
    if place and (place / run.LAST).exists():
        return run.checkpoint_to_resume(place)
    log.warning("--resume: there is no checkpoint in %s yet; starting a new run", place or f"runs/{name}")
    return None


def run_name(spec):
    labels = f"-{spec['label_mode']}" if spec["label_mode"] else ""
    return f"{spec['dataset']}{labels}_{spec['model']}_b{spec['arguments']['blocks']}_seed{spec['seed']}"


def decide(parser, args):
    """Everything that the flags and a checkpoint decide: (spec, net, contexts, checkpoint to resume, its settings)."""
    from engine import checkpoint, cifar, loop, run
    from model import get_model, image_size

    try:
        spec = spec_of(args, None)
        cifar.check_size(spec["model"], image_size(spec["model"], spec["arguments"]))
        net = get_model(spec["model"], **spec["arguments"])
        contexts = loop.devices(args.gpus)
        if args.kvstore == "nccl" and contexts[0][0].device_type != "gpu":
            raise InputError("--kvstore nccl is for GPUs; leave it out here")
    except (InputError, TypeError) as error:
        parser.error(str(error))
    resume, stored = checkpoint_of(args, run_name(spec)), None
    if resume is not None:
        stored = checkpoint.read_settings(resume)
        checkpoint.require(stored, [*spec, "data", "state"], resume)
        run.refuse_rewinding(resume, stored["state"])
        spec = spec_of(args, stored)
        net = get_model(spec["model"], **spec["arguments"])
    try:
        labels, classes = len(cifar.class_names(spec["dataset"], spec["label_mode"])), spec["arguments"]["classes"]
    except InputError as error:
        parser.error(str(error))
    if classes < labels:
        parser.error(f"--classes {classes} is too few for the {labels} labels of {_data_name(spec)}")
    return spec, net, contexts, resume, stored


def announce(args, spec, recipe, net, data, contexts, batches):
    """Say in the log what will be trained, on what and how."""
    from model.complexity import count, table

    for remark in args.remarks:
        log.info("%s", remark)
    log.info("data: %s, %s training and %s test images, sha256 %s", _data_name(spec), f"{len(data.train):,}",
             f"{len(data.test):,}", data.provenance["sha256"])
    if data.label_mode == "coarse":
        log.info("labels: the 20 superclasses under an output of %d, as in the authors' runs and the paper's table; "
                 "--label-mode fine trains the 100 classes", spec["arguments"]["classes"])
    log.info("recipe: %s", ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(recipe).items()))
    log.info("global batch %d (%d on each of %d), %d steps an epoch, seed %d", batches.batch_size, recipe.batch_size,
             len(contexts), batches.steps, spec["seed"])
    late = [epoch for epoch in recipe.lr_decay_epochs if epoch >= recipe.epochs]
    if late and recipe.lr_mode == "step" and not recipe.lr_decay_period:
        log.warning("the decays at %s lie behind the last of the %d epochs; --recipe scaled moves them in proportion",
                    ", ".join(map(str, late)), recipe.epochs)
    complexity = count(net)
    log.info("%s: %s parameters (%s trainable), %.3fM multiply-adds",
             flags.net_text(spec["model"], spec["arguments"]), f"{complexity.total:,}",
             f"{complexity.trainable:,}", complexity.macs / 1e6)
    if args.resume_params:
        log.info("weights from %s", args.resume_params)
    if args.summary:
        with contextlib.suppress(BrokenPipeError):  # the reader may have seen enough
            print(table(complexity), flush=True)


def main():
    parser, args = parse()
    runtime.tune(args.tune)
    runtime.prepare()  # before NumPy and MXNet load, so that a missing piece is a sentence
    from engine import cifar, loop, run, runlog
    from model import fuse, load_params
    from ops.nag import update_operator

    runlog.start_logging()
    spec, net, (contexts, sentence), resume, stored = decide(parser, args)
    recipe = Recipe(**spec["recipe"])
    command = " ".join(map(shlex.quote, ["python", *sys.argv]))
    log.info("%s", command)
    log.info("%s", sentence)
    log.info("%s", runtime.settings_sentence())
    dtype, remark = loop.training_type(args.dtype or (stored or {}).get("dtype", "float32"), contexts)
    if remark:
        log.info("%s", remark)
    data = cifar.load_or_download(spec["dataset"], args.data_dir, spec["label_mode"], args.mirror)
    if stored is not None and stored["data"]["sha256"] != data.provenance["sha256"]:
        raise InputError("--resume: the data are not those of the checkpoint "
                         f"(now {data.variant}; then {stored['data']['variant']}); give the same --data-dir")
    train_split, held_out = data.train, None
    if spec["val_split"]:
        train_split, held_out = cifar.hold_out(data.train, spec["val_split"], spec["seed"])
    batches = cifar.TrainBatches(train_split, recipe.batch_size * len(contexts), spec["seed"])
    loop.initialize(net, spec["seed"], contexts)
    if args.resume_params:
        load_params(net, args.resume_params, contexts)
    forward, operators = fuse(net, args.fused)
    log.info("%s", operators)
    loop.set_mode(forward, args.mode)

    # Only now, so that a start that fails leaves no folder behind.
    if args.logging_file:
        runlog.log_to_file(args.logging_file)
    directory = resume.parent if resume else run.new_directory(args.save_dir, run_name(spec))
    if not args.logging_file:
        runlog.log_to_file(directory / "train.log")
    announce(args, spec, recipe, net, data, contexts, batches)
    settings = {**spec, "data": {"variant": data.variant, "sha256": data.provenance["sha256"],
                                 "official": data.provenance["official"], "class_names": list(data.class_names)},
                "devices": len(contexts), "dtype": dtype, "operators": operators, "command": command,
                "started_from": stored.get("started_from") if stored else args.resume_params}
    runlog.write_json(directory / "args.json", {**settings, "provenance": data.provenance,
                                                "environment": runlog.environment(), "contexts": str(contexts)})

    def scored(split):
        return cifar.EvalBatches(split, min(loop.evaluation_batch(contexts), len(split)))

    job = run.Job(
        net=net, recipe=recipe, batches=batches, score_batches=scored(held_out or data.test),
        labels=len(data.class_names), scored_on="held-out" if held_out else "test",
        test_batches=scored(data.test) if held_out else None,
        contexts=contexts, directory=directory, settings=settings, workers=args.num_data_workers,
        kvstore=args.kvstore, save_period=args.save_period, log_interval=args.log_interval, dtype=dtype,
        forward=forward, update_all=update_operator(args.fused))
    try:
        result = run.train(job, resume)
    except run.Stopped as stop:
        log.warning("%s", stop)
        return stop.status
    except InputError as error:  # into the log file too
        log.error("train_cifar.py: %s", error)
        return 1
    if args.save_plot_dir:
        _copy_plot(directory / "history.png", Path(args.save_plot_dir).expanduser(), run_name(spec))
    log.info("%s: accuracy %.4f after the last of %d epochs; best %.4f (epoch %d), chosen on the %s images; data %s",
             _data_name(spec), result["last"]["accuracy"], result["epochs"], result["best"]["accuracy"],
             result["best"]["epoch"], result["scored_on"], data.variant)
    log.info("checkpoints, metrics and history.png are in %s", directory)
    return 0


def _copy_plot(plot, folder, name):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(plot, folder / f"{name}_history.png")
    except OSError as error:
        raise InputError(f"--save-plot-dir {folder} cannot be written: {error.strerror}; the plot is {plot}") from error


def _data_name(spec):
    return spec["dataset"] + (f" ({spec['label_mode']} labels)" if spec["label_mode"] else "")


if __name__ == "__main__":
    flags.run_script(main)
