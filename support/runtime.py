"""Prepares the process for MXNet: call `prepare()` before `import mxnet`.

MXNet 1.9.1 was built in 2022. It needs a NumPy of its time (or the names that NumPy has removed since) and two system
libraries. Its GPU build also needs an NVIDIA driver and the CUDA 11 libraries, which the wheels of requirements.txt
hold in folders that MXNet does not search. MXNet reads its thread count when it loads.

The scripts call `tune()` first, because the C library reads its allocator's settings once, when a process starts.

    python -m support.runtime              what this machine and this Python have
    python -m support.runtime choose MODE  which build suits this machine (MODE: auto, cpu, gpu or torch), and why
    python -m support.runtime libraries    whether the system libraries are there
    python -m support.runtime check        whether everything imports and computes

This module and its imports (python, threads, allocator, system, cuda) keep Python 3.6's syntax and only import the
standard library at the top. scripts/setup.sh runs them before anything is installed, and an old Python must reach the
message about its version.
"""
import argparse
import math
import os
import platform
import sys
import warnings

from . import allocator, cuda, python, system, threads
from .errors import InputError
from .threads import usable_cores

THREADS = (threads.OPENMP, "MXNET_CPU_PARALLEL_SIZE", threads.SPIN)
MARK = "ATAC_TUNED"  # tells the program that tune() starts: its process number

_prepared = False
_hands_off = False  # tune(False) was called: leave the environment alone


def prepare(torch=False):
    """Make `import mxnet` work in this process, or raise InputError with what is missing; one call is enough.

    torch : PyTorch without MXNet is enough; if it is so, only set the number of threads.
    """
    global _prepared
    if _prepared:
        return
    alone = torch and python.torch_alone()
    python.check_version()
    python.check_role()
    python.check_switches()
    threads.check()
    if not _hands_off:
        set_environment()  # before any library loads, because OpenMP reads its variables once
    if alone:
        python.numpy_version()
        return
    build = python.installed_build()
    system.check_libraries()
    python.check_numpy()
    if build == python.GPU_BUILD:
        cuda.load_cuda()
    _prepared = True


def set_environment(environment=os.environ):
    """Set the variables that MXNet reads as it loads; the user's own stay."""
    if not environment.get("OMP_NUM_THREADS"):  # MXNet's own default is half the cores
        environment["OMP_NUM_THREADS"] = str(usable_cores())
    # Above this size MXNet copies an array with its own pool of threads, which competes with OpenMP's.
    environment.setdefault("MXNET_CPU_PARALLEL_SIZE", "2000000000")
    # A thread that spins takes the time of the one it waits for if other processes want the cores.
    if threads.busy() and not {threads.SPIN, "OMP_WAIT_POLICY"} & set(environment):
        environment[threads.SPIN] = threads.SHORT_SPIN


def tune(wanted=True, environment=os.environ, execute=os.execve):
    """Start this command again with the allocator's settings in its environment, once, before MXNet loads.

    Only for the scripts, right after they read their flags. The process keeps its number, files and standard input.
    Returns if there is nothing to set (started again already, another C library, everything set by the user), if it is
    too late (MXNet is loaded), or if the command is unknown. wanted=False leaves the environment alone, here and in
    prepare().
    """
    global _hands_off
    _hands_off = not wanted
    if _hands_off or "mxnet" in sys.modules or environment.get(MARK) == str(os.getpid()):
        return
    missing = allocator.to_set(environment)
    command = _command()
    if not missing or not command:
        return
    changed = dict(environment)
    changed.update(missing)
    set_environment(changed)
    changed[MARK] = str(os.getpid())
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    try:
        execute(sys.executable, command, changed)
    except OSError:  # for example, too large an environment: continue without these settings
        return


def _command():
    """The command line of this process with the interpreter's full path; None if unknown."""
    words = list(getattr(sys, "orig_argv", ()))  # Python 3.10 has it
    if not words:
        words = [os.fsdecode(word) for word in system.read_bytes("/proc/self/cmdline").split(b"\0")[:-1]]
    if not sys.executable or len(words) < 2 or sys.argv[0] in ("", "-"):  # a typed or piped program cannot run again
        return None
    return [sys.executable] + words[1:]


def settings(environment=os.environ):
    """{name: value or None}: the variables that decide how fast MXNet runs on a CPU."""
    return {name: environment.get(name) for name in THREADS + allocator.NAMES}


def settings_sentence(environment=os.environ):
    """A sentence for the log: settings(), and whether tune() was to leave them as they were."""
    shown = (f"{name} not set" if value is None else f"{name}={value}" for name, value in settings(environment).items())
    return f"process settings{' (--no-tune: left alone)' if _hands_off else ''}: {', '.join(shown)}"


# ---- The command


def check():
    """Import and use the required packages. Returns a line that says what works."""
    python.check_version()
    if python.torch_alone():
        return _check_torch()
    if python.installed_build() == python.GPU_BUILD:
        missing = [name for name, package in cuda.CUDA_LIBRARIES if not cuda.wheel_library(name, package, sys.path)]
        try:
            system.load_library(cuda.DRIVER)
        except OSError:
            if missing:
                raise InputError(f"the CUDA wheels lack {', '.join(missing)}: run `{python.SETUP} --gpu`") from None
            return (f"{python.GPU_BUILD} is complete, but cannot be imported before there is an NVIDIA driver "
                    f"({cuda.DRIVER})")
    prepare()
    import mxnet as mx  # before GluonCV, which hides why it cannot import MXNet

    warnings.simplefilter("ignore")  # of old packages about each other
    sys.modules.setdefault("torch", None)  # beside PyTorch 2 GluonCV refuses to be imported
    import gluoncv

    if sys.modules["torch"] is None:
        del sys.modules["torch"]
    net = mx.gluon.nn.Conv2D(2, 3, in_channels=1)
    net.initialize(mx.init.One())
    if net(mx.nd.ones((1, 1, 3, 3))).asnumpy().ravel().tolist() != [9.0, 9.0]:
        raise InputError("MXNet computes a wrong convolution on this machine: please report it")
    # GluonCV 0.10.5 calls itself 0.11.0.
    return _what_works(f"MXNet ({python.installed_build() or 'own build'}) {mx.__version__}",
                       f"GluonCV {python.version_of('gluoncv') or gluoncv.__version__}", mx.context.num_gpus())


def _check_torch():
    """As `check`, without MXNet."""
    prepare(torch=True)
    import torch

    if torch.nn.functional.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 2, 2)).flatten().tolist() != [4.0] * 4:
        raise InputError("PyTorch computes a wrong convolution on this machine: please report it")
    return _what_works(f"PyTorch {torch.__version__}", "without MXNet", torch.cuda.device_count())


def _what_works(framework, ending, gpus):
    """The line of `check`, after an import of the packages that are needed with every framework."""
    import matplotlib
    import numpy as np
    import PIL
    import tqdm  # noqa: F401

    return (f"{framework}, NumPy {np.__version__}, matplotlib {matplotlib.__version__}, Pillow {PIL.__version__}, "
            f"{ending}; {os.environ['OMP_NUM_THREADS']} CPU threads, {gpus} GPUs")


def report():
    """Lines about this machine and this Python, including their faults."""
    chosen = os.environ.get("OMP_NUM_THREADS")
    quota = threads.cpu_quota()
    limit = "" if quota == math.inf else f", control group's quota {quota:g}"
    cores = f"{usable_cores()} usable cores{limit}"
    lines = [
        ("Python", f"{platform.python_version()} at {sys.executable}"),
        ("Machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {cores}"),
        ("Threads", f"{chosen} (OMP_NUM_THREADS is set)" if chosen else f"{usable_cores()} (all usable cores)"),
        ("Allocator", ", ".join(f"{name}={value}" for name, value in allocator.to_set().items()) or "as it is"),
        ("GPUs", cuda.listing(cuda.gpu_capabilities()) or "none"),
    ]
    try:
        python.check_version()
        packages = (python.CPU_BUILD, python.GPU_BUILD, "torch", "numpy", "gluoncv", "matplotlib")
        lines += [(package, python.version_of(package) or "not installed") for package in packages]
        lines.append(("OpenCV", system.check_opencv() or "its system libraries are there"))
        lines.append(("State", check()))
    except InputError as fault:
        lines.append(("Fault", str(fault)))
    except Exception as fault:
        lines.append(("Fault", broken(fault)))
    return "\n".join(f"{name:<12}{value}" for name, value in lines)


def broken(fault):
    """The message for packages that are installed but do not work."""
    return f"an installed package does not work ({type(fault).__name__}: {fault}): run `{python.SETUP}` to repair .venv"


class Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors. The scripts use engine.cli.flags.Parser, which has a newer Python's syntax."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (--help says more)\n")


def main(arguments=None):
    parser = Parser(prog="python -m support.runtime", description="Is this machine ready?")
    tasks, modes = ("report", "choose", "libraries", "check"), ("auto", "cpu", "gpu", "torch")
    parser.add_argument("task", nargs="?", default="report", choices=tasks)
    parser.add_argument("mode", nargs="?", default="auto", choices=modes, help="for choose")
    options = parser.parse_args(arguments)
    try:
        if options.task == "report":
            print(report())
        elif options.task == "choose":
            print("\n".join(cuda.choose_build(options.mode)))
        elif options.task == "libraries":
            system.check_libraries()
            print(system.check_opencv() or "")
        else:
            print(check())
    except InputError as fault:
        sys.exit(f"error: {fault}")
    except Exception as fault:  # whatever a half-installed package raises
        sys.exit(f"error: {broken(fault)}")


if __name__ == "__main__":
    main()
