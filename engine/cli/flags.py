"""The flags that the programs share. Imports neither MXNet nor data, so that a wrong flag is answered at once."""
import argparse
import dataclasses
import os

from support import threads
from support.errors import InputError

from .. import presets
from ..experiment import DTYPES
from ..recipe import Recipe

SMOOTHING, MIXUP_ALPHA = 0.1, 0.2  # GluonCV's, for --label-smoothing and --mixup without a number
MOST, MOST_FLOAT = 2**31 - 1, 3e38  # MXNet stores numbers as C's int and float
MOST_GPUS, MOST_THREADS = 1024, threads.MOST
LONGEST = 900  # letters in a message
FIGURES = (".png", ".pdf", ".svg")
KVSTORES = ("device", "local", "nccl", "horovod")


def program(name):
    """The program's name for help and errors: the script in scripts/ that called it, else `name`."""
    return os.environ.get("CALLED_AS") or name


class Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors: no usage text, exit status 2, no guessing of shortened flags."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message):
        message = " ".join(message.split())  # it quotes the user, who may write many and long lines
        if len(message) > LONGEST:
            message = f"{message[:LONGEST]}..."
        self.exit(2, f"{self.prog}: {message} (--help lists the flags)\n")


def number(kind, least=None, most=None):
    """A type for argparse: a finite int or float, at least `least` and at most `most` (for int 2^31-1 by default)."""
    if most is None and kind is int:
        most = MOST

    def parse(text):
        try:
            value = kind(text)
            if not abs(value) < float("inf"):
                raise ValueError
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not {'a whole' if kind is int else 'a finite'} number") from None
        if least is not None and value < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"{text} is above {most}")
        return value
    return parse


def numbers(text, most=MOST):
    """A type for argparse: whole numbers between commas, perhaps none."""
    try:
        values = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 300,350") from None
    if any(abs(value) > most for value in values):
        raise argparse.ArgumentTypeError(f"{text} has a number above {most}")
    return values


def gpus(text):
    """A type for argparse: the numbers of GPUs between commas, perhaps none."""
    return numbers(text, MOST_GPUS - 1)


def words(text):
    """A type for argparse: a text that is not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text


def figure(text):
    """A type for argparse: a file for a figure, whose extension says its format."""
    if os.path.splitext(text)[1].lower() not in FIGURES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {', '.join(FIGURES[:-1])} or {FIGURES[-1]}")
    return text


def switch(text):
    """A type for argparse: on or off."""
    if text not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither on nor off")
    return text == "on"


def kvstore(text):
    """A type for argparse: one of KVSTORES. MXNet has more, which need its parameter server."""
    if text.startswith("dist_"):
        raise argparse.ArgumentTypeError(f"{text} needs MXNet's parameter server, which is not used here; for several "
                                         "machines start --backend torch with torchrun, or give --kvstore horovod "
                                         "(docs/DISTRIBUTED.md)")
    if text not in KVSTORES:
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {', '.join(KVSTORES)})")
    return text


class Refused(argparse.Action):
    """A flag that other scripts of this kind have and this one refuses, with the error `why`."""

    def __init__(self, option_strings, dest, why, **kwargs):
        super().__init__(option_strings, dest, nargs="*", help=argparse.SUPPRESS, **kwargs)
        self.why = why

    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f"{option_string}: {self.why}")


def _first_gpus(text):
    return tuple(range(number(int, 0, MOST_GPUS)(text)))


def add_device_flags(parser):
    """Where the net runs."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--gpus", type=gpus, default=(0,), metavar="N,N",
                      help="GPU numbers (default 0); '' for the CPU; on a machine without GPUs, as many CPU contexts")
    which.add_argument("--num-gpus", dest="gpus", type=_first_gpus, metavar="N",
                      help="the first N GPUs; 0 for the CPU")
    parser.add_argument("--backend", choices=("auto", "gluon", "torch"), default="auto",
                        help="what computes: MXNet, or PyTorch on the same nets, files and random draws; auto: PyTorch "
                        "on a GPU that this MXNet cannot use, else MXNet")
    parser.add_argument("--mode", choices=("hybrid", "imperative"), default="hybrid",
                        help="of MXNet: compile the net (default), or run it operator by operator")
    parser.add_argument("--fused", choices=("auto", "on", "off"), default="auto",
                        help="of MXNet: fused C++ operators on the CPU: use them if they are built and fit the net "
                        "(auto, the default), require them (on), or do without them (off); of PyTorch: on compiles the "
                        "net")
    parser.add_argument("--no-tune", dest="tune", action="store_false",
                        help="do not set the number of threads and the memory allocator")


def add_recipe_flags(parser, program, where):
    """--recipe, with a program's presets, and a flag for every number of a recipe.

    The help quotes the default preset's numbers. A flag that is not given takes the recipe's value.
    """
    default, *others = presets.of(program).values()
    named = default.recipe
    parser.epilog = presets.shown(program)
    group = parser.add_argument_group("recipe")
    group.add_argument("--recipe", choices=(default.name, *(preset.name for preset in others), "scaled"),
                       help=f"{default.name} (default), {', '.join(preset.name for preset in others)}, all explained "
                       f"below, or scaled: {default.name} with its decays and warmup moved in proportion to "
                       "--num-epochs")
    group.add_argument("--num-epochs", dest="epochs", type=number(int, 1), metavar="N", help=f"{named.epochs} {where}")
    group.add_argument("--batch-size", type=number(int, 1), metavar="N", help=f"per device; {named.batch_size} {where}")
    group.add_argument("--accumulate", type=number(int, 1), metavar="N",
                       help="compute a device's batch in N equal parts, one after the other, to save memory; each part "
                       "has its own BatchNorm statistics (default 1)")
    group.add_argument("--lr", type=number(float, 0), metavar="X", help=f"learning rate; {named.lr:g} {where}")
    group.add_argument("--momentum", type=number(float, 0), metavar="X",
                       help=f"momentum of NAG; {named.momentum:g} in the authors' code")
    group.add_argument("--wd", type=number(float, 0), metavar="X", help=f"weight decay; {named.wd:g} {where}")
    group.add_argument("--no-wd", nargs="?", type=switch, const=True, metavar="on|off",
                       help=f"no weight decay on gamma, beta and bias (default {'on' if named.no_wd else 'off'})")
    group.add_argument("--lr-mode", choices=("step", "cosine"),
                       help=f"shape of the schedule (default {named.lr_mode})")
    group.add_argument("--lr-decay", type=number(float, 0), metavar="X", help="factor of a decay; 0.1 in the paper")
    group.add_argument("--lr-decay-epoch", dest="lr_decay_epochs", type=numbers, metavar="E,E",
                       help="epochs, from 0, at whose start the rate decays; "
                       f"{','.join(map(str, named.lr_decay_epochs))} {where}")
    group.add_argument("--lr-decay-period", type=number(int, 0), metavar="N",
                       help="decay every N epochs, in place of --lr-decay-epoch")
    group.add_argument("--warmup-epochs", type=number(int, 0), metavar="N",
                       help=f"in the first N epochs the rate rises linearly from --warmup-lr (default "
                       f"{named.warmup_epochs})")
    group.add_argument("--warmup-lr", type=number(float, 0), metavar="X",
                       help="rate at the start of the warmup (default 0)")
    group.add_argument("--label-smoothing", nargs="?", type=number(float, 0), const=SMOOTHING, metavar="X",
                       help=f"spread the share X of the target over all classes; {SMOOTHING} without X (default "
                       f"{named.label_smoothing:g})")
    group.add_argument("--mixup", action="store_true", help="mix each batch with itself; training accuracy then counts "
                       "the label with the larger share")
    group.add_argument("--mixup-alpha", type=number(float, 1e-6), metavar="X",
                       help=f"the shares are from Beta(X, X) (default {MIXUP_ALPHA})")
    group.add_argument("--mixup-off-epoch", dest="mixup_off_epochs", type=number(int, 0), metavar="N",
                       help="do not mix in the last N epochs (default 0)")


def recipe_changes(args):
    """The recipe fields that the command line sets, as a dict. Raises InputError for --mixup-alpha without --mixup."""
    if args.mixup_alpha is not None and not args.mixup:
        raise InputError("--mixup-alpha needs --mixup")
    changes = {field.name: getattr(args, field.name) for field in dataclasses.fields(Recipe)
               if getattr(args, field.name) is not None}
    return {"mixup_alpha": MIXUP_ALPHA, **changes} if args.mixup else changes


def recipe_remarks(changes, recipe):
    """A sentence for each recipe field that the command line sets without effect in this recipe."""
    idle = {}
    if recipe.lr_mode == "cosine":
        idle = dict.fromkeys(("lr_decay", "lr_decay_epochs", "lr_decay_period"), "--lr-mode cosine")
    elif recipe.lr_decay_period:
        idle = {"lr_decay_epochs": "--lr-decay-period"}
    if not recipe.warmup_epochs:
        idle["warmup_lr"] = "--warmup-epochs 0"
    return [f"{name} {changes[name]} from the command line has no effect with {why}" for name, why in idle.items()
            if name in changes]


def add_run_flags(parser, save_interval, workers=1):
    """How a training runs, what it writes and what it starts from; returns the group.

    save_interval, workers : the defaults of --save-interval and -j.
    """
    group = parser.add_argument_group("run")
    add_device_flags(group)
    group.add_argument("--dtype", choices=DTYPES, help="float16: on GPUs; bfloat16, and tf32 on GPUs: PyTorch's; "
                       "weights and checkpoints stay float32 in all of them")
    group.add_argument("--kvstore", type=kvstore, default="device", metavar="NAME",
                       help=f"how MXNet adds several devices' gradients: {', '.join(KVSTORES)} (default device)")
    group.add_argument("-j", "--num-data-workers", "--num-workers", type=number(int, 0, MOST_THREADS),
                       default=workers, metavar="N", help="threads that prepare batches ahead, at most one for each "
                       f"core; 0: none (default {workers})")
    group.add_argument("--seed", type=number(int, 0, most=2**32 - 1), metavar="N",
                       help="seed of initialization, order and augmentation (default 0)")
    group.add_argument("--save-dir", type=words, metavar="DIR", help="folder of the run (default runs/NAME)")
    group.add_argument("--save-period", "--save-frequency", type=number(int, 0), default=0, metavar="N",
                       help="also keep the checkpoint of every Nth epoch")
    group.add_argument("--save-interval", type=number(int, 0), default=save_interval, metavar="STEPS",
                       help="write last.params also every STEPS steps and before scoring; 0: only after each epoch "
                       f"(default {save_interval})")
    group.add_argument("--resume", nargs="?", const="", metavar="PATH", help="resume the run in folder PATH, or the "
                       "checkpoint PATH; without PATH the run in --save-dir, or the newest run of this name")
    group.add_argument("--resume-params", "--resume-from", type=words, metavar="FILE",
                       help="start from the weights in FILE: ours, the authors' or Gluon's (save_parameters, export, "
                       "collect_params().save()), or numpy.savez of such names")
    group.add_argument("--ignore-output", action="store_true",
                       help="with --resume-params: take all weights except the last layer's, for another number of "
                       "classes")
    group.add_argument("--log-interval", type=number(int, 1), default=100, metavar="N",
                       help="steps between two lines of the log (default 100)")
    group.add_argument("--logging-file", type=words, metavar="FILE",
                       help="write the log to FILE (default train.log in the run's folder)")
    group.add_argument("--tensorboard", type=words, metavar="DIR",
                       help="write curves, and histograms of the gates, for TensorBoard into DIR/NAME, NAME as that of "
                       "the run's folder")
    group.add_argument("--summary", action="store_true", help="print the net's table of layers first")
    return group


def settle_recipe(args, program):
    """Set args.changes, the recipe fields that single flags give, and args.preset, the Preset that --recipe names.

    Without --recipe args.preset is None: the recipe is the default, or a checkpoint's. Raises InputError for nonsense,
    before MXNet loads.
    """
    args.changes = recipe_changes(args)
    if args.resume is not None and args.resume_params:
        raise InputError("--resume and --resume-params exclude each other")
    if args.ignore_output and not args.resume_params:
        raise InputError("--ignore-output needs --resume-params")
    args.preset = presets.named(program, args.recipe, args.changes.get("epochs"))
    if args.preset or args.resume is None:  # otherwise the numbers belong to a checkpoint's recipe
        default, *_ = presets.of(program).values()
        recipe = dataclasses.replace((args.preset or default).recipe, **args.changes)
        if recipe.accumulate > 1 and args.fused == "on":
            raise InputError("--fused on and --accumulate exclude each other: the fused operators cannot add up "
                             "gradients")
