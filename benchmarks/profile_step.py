"""Shows where the time of a training step goes: operators by kind, oneDNN's reorders, the update, and Python.

    python -m benchmarks.profile_step --model atac_resnet20_v2 --blocks 1 --gpus ''
    python -m benchmarks.profile_step --model atac_resnet50_v1b --gpus 0 --batch-size 128 --dtype float16

The step is train_cifar.py's, on images of noise. MXNet's profiler times every operator. Its engine may not bundle
operators meanwhile, so a step takes a little longer than in training. Operators on a GPU may overlap. On CPUs a second
process lists the primitives that oneDNN runs inside the operators; their times are part of the operators' times.
"""
import argparse
import ctypes
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import repeat

from engine.cli import flags, net_flags
from engine.cli.program import run_script
from engine.steps import Meter
from model import registry
from support import runtime
from support.errors import InputError

from .contender import Contender, Reference

KINDS = (  # the first kind with a text in an operator's name counts; the rest is "other operators"
    ("update", ("atac_nag", "nag_", "mom_update", "sgd_")),
    ("fused operators", ("atac_",)),
    ("convolution", ("Convolution",)),
    ("batch normalization", ("BatchNorm",)),
    ("dense", ("FullyConnected",)),
    ("pooling", ("Pooling",)),
    ("loss and metric", ("softmax", "pick", "argmax", "_mean", "stack", "broadcast_equal", "_equal", "sum_axis")),
    ("activations and gates", ("Activation", "LeakyReLU", "broadcast_mul", "relu", "erf", "exp", "square", "_mul")),
    ("additions", ("add_n", "elemwise_add", "_plus", "grad_add")),
    ("copies", ("Copy", "copy", "zeros", "Cast", "cast", "ones", "SetValue")),
)
NOT_WORK = ("WaitForVar", "DeleteVariable", "DeleteOperator", "ResourceParallelRandom")  # the engine's own bookkeeping
WARM = 3
MARK = "counted from here"


class Step:
    """A net in training on noise, as train_cifar.py runs it. gpus: numbers, none for the CPU."""

    def __init__(self, model, arguments, batch, size, gpus=(), fused="auto", dtype="float32", mode="hybrid"):
        from backend.gluon import placement
        from model import get_model

        from . import mxnet_contenders as ours

        contexts, self.device = placement.devices(gpus)
        dtype, self.remark = placement.training_type(dtype, contexts)
        net = get_model(model, **arguments)
        placement.initialize(net, 0, contexts)
        if placement.kind(contexts) != "cpu":
            fused = "off"
        forward, self.path = net, "run operator by operator"
        if mode == "hybrid":
            forward, self.path = ours.compiled(net, fused)
        images = batch * len(contexts)
        self.train = functools.partial(ours.train, ours.program_of(net, images, forward, fused, dtype, contexts))
        self.batch = ours.noise(images, size, arguments.get("classes", 10))

    def run(self, steps):
        """Seconds per step, the mean of `steps`."""
        began = time.perf_counter()
        self.train(repeat(self.batch, steps), Meter())
        return (time.perf_counter() - began) / steps


def kind_of(operator):
    """The kind of an operator, from its name in the profile."""
    return next((kind for kind, texts in KINDS if any(text in operator for text in texts)), "other operators")


def profile(steps, **net):
    """Profile `steps` training steps of a Step(**net). Returns a JSON-able dict; times are milliseconds per step."""
    os.environ["MXNET_EXEC_BULK_EXEC_TRAIN"] = "0"  # so that the profiler sees operators, not bundles of them
    step = Step(**net)
    import mxnet as mx

    step.run(WARM)
    unprofiled = 1000 * step.run(steps)
    with tempfile.TemporaryDirectory() as folder:  # MXNet removes this file, so it must never be a device
        mx.profiler.set_config(profile_all=True, aggregate_stats=True, filename=os.path.join(folder, "profile.json"))
        mx.profiler.set_state("run")
        wall = 1000 * step.run(steps)
        mx.profiler.set_state("stop")
        operators = json.loads(mx.profiler.dumps(reset=True, format="json"))["Time"].get("operator", {})
    found = {name: (row["Count"] / steps, row["Total"] / steps) for name, row in operators.items()
             if name not in NOT_WORK}
    return {
        "device": step.device, "path": step.path, "remark": step.remark, "steps": steps,
        "step_ms": unprofiled, "profiled_step_ms": wall, "kinds": _by_kind(found),
        "operators": [{"name": name, "calls": calls, "ms": ms}
                      for name, (calls, ms) in sorted(found.items(), key=lambda item: -item[1][1])],
        "without_operator_ms": max(wall - sum(ms for _, ms in found.values()), 0),
        "primitives": None if net.get("gpus") else primitives(steps, net),
    }


def _by_kind(operators):
    kinds = {}
    for name, (calls, ms) in operators.items():
        before = kinds.get(kind_of(name), (0, 0))
        kinds[kind_of(name)] = before[0] + calls, before[1] + ms
    return [{"name": kind, "calls": calls, "ms": ms}
            for kind, (calls, ms) in sorted(kinds.items(), key=lambda item: -item[1][1])]


def primitives(steps, net):
    """oneDNN's primitives by kind: [{"name", "calls", "ms"}] per step; None if this build of MXNet prints none."""
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.profile_step", "--primitives-of", json.dumps({"steps": steps, **net})],
        env={**os.environ, "DNNL_VERBOSE": "1", "MKLDNN_VERBOSE": "1"}, capture_output=True, text=True, check=False)
    lines = made.stdout.partition(MARK)[2].splitlines()
    found = {}
    for line in lines:
        words = line.split(",")
        if words[:2] not in (["dnnl_verbose", "exec"], ["mkldnn_verbose", "exec"]) or len(words) < 5:
            continue
        kind = words[3]
        if kind == "reorder":  # the shape comes before the time; maps begin with the batch size
            kind += " of maps" if words[-2].startswith(f"{net['batch']}x") else " of weights"
        calls, ms = found.get(kind, (0, 0))
        found[kind] = calls + 1 / steps, ms + float(words[-1]) / steps
    return [{"name": name, "calls": calls, "ms": ms}
            for name, (calls, ms) in sorted(found.items(), key=lambda item: -item[1][1])] or None


def _print_primitives(steps, **net):
    """The second process: oneDNN prints a line for each primitive as it runs."""
    step = Step(**net)
    step.run(WARM)
    ctypes.CDLL(None).fflush(None)
    print(MARK, flush=True)
    step.run(steps)


class Profile(Contender):
    """The profile as a record of the benchmarks."""

    def __init__(self, folder, fused, steps):
        about = Reference(folder).about
        self.about = profile(steps, fused=fused, **{name: about[name] for name in (
            "model", "arguments", "batch", "size")})


def as_text(profile):
    """A profile as a table for a terminal."""
    wall = profile["profiled_step_ms"]
    lines = [profile["device"], profile["path"], *filter(None, [profile["remark"]]),
             f"a step takes {profile['step_ms']:.2f} ms, or {wall:.2f} ms with the profiler", ""]
    left = [{"name": "no operator (Python, waiting)", "calls": 0, "ms": profile["without_operator_ms"]}]
    for title, rows in (("kind", profile["kinds"] + left), ("operator", profile["operators"][:20]),
                        ("oneDNN primitive (part of the above)", profile["primitives"] or [])):
        if rows:
            lines.append(f"{title:<58}{'calls a step':>14}{'ms a step':>12}{'share':>8}")
            lines += [f"{row['name'][:56]:<58}{row['calls']:>14.1f}{row['ms']:>12.3f}{row['ms'] / wall:>8.1%}"
                      for row in rows] + [""]
    return "\n".join(lines[:-1])


def parse(argv=None):
    parser = flags.Parser(prog="python -m benchmarks.profile_step", description=__doc__)
    net_flags.add_net_flags(parser, registry.CIFAR)
    flags.add_device_flags(parser.add_argument_group("device"))
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="float16: on GPUs")
    parser.add_argument("--batch-size", type=flags.number(int, 1), default=128, metavar="N", help="per device")
    parser.add_argument("--steps", type=flags.number(int, 1), default=10, metavar="N", help="steps to profile")
    parser.add_argument("--primitives-of", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    try:
        args.net_name, args.net_arguments, _ = net_flags.net_arguments(args, registry.CIFAR)
    except InputError as error:
        parser.error(str(error))
    return args


def main():
    args = parse()
    if args.primitives_of:
        _print_primitives(**args.primitives_of)
        return 0
    runtime.tune(args.tune)
    runtime.prepare()
    from model import complete_arguments, image_size

    name = args.net_name or "atac_resnet20_v2"
    arguments = complete_arguments(name, {**args.net_arguments, **({"classes": args.classes} if args.classes else {})})
    print(as_text(profile(args.steps, model=name, arguments=arguments, batch=args.batch_size, gpus=args.gpus,
                          size=image_size(name, arguments), fused=args.fused, dtype=args.dtype, mode=args.mode)))
    return 0


if __name__ == "__main__":
    sys.argv[0] = "profile_step"
    run_script(main)
