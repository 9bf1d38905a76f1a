"""What must be true of the process before MXNet loads: `prepare()`, to be called before `import mxnet`.

MXNet 1.9.1 was built in 2022. It needs a NumPy of its time (or the names that NumPy has dropped since), two system
libraries, and, in its GPU build, an NVIDIA driver and the CUDA 11 libraries, which the wheels of requirements.txt hold
in folders where MXNet does not look. It also reads its thread count when it loads.

The scripts call `tune()` before that: the C library reads its allocator's settings once, as a process starts.

    python -m support.runtime              what this machine and this Python have
    python -m support.runtime choose MODE  which build suits this machine (MODE: auto, cpu or gpu), and why
    python -m support.runtime libraries    whether the system libraries are there
    python -m support.runtime check        whether everything imports and computes

Nothing heavier than the standard library is imported at the top, and the syntax is Python 3.6's: scripts/setup.sh
runs this file before anything is installed, and an old Python is to read the sentence about its version.
"""
import argparse
import ctypes
import importlib.util
import math
import os
import platform
import sys
import warnings

from . import threads
from .errors import InputError
from .threads import _groups, _read, _read_bytes, cpu_quota, usable_cores

SETUP = "bash scripts/setup.sh"
USE_VENV = f"run `{SETUP}`, then use .venv/bin/python"
CPU_BUILD, GPU_BUILD = "mxnet", "mxnet-cu112"
OLDEST_PYTHON = (3, 8)

DRIVER = "libcuda.so.1"
OLDEST_CUDA = 11000  # drivers of CUDA 11.0 and later run the libraries of any CUDA 11 ("minor version compatibility")
PTX_CUDA = 11080  # but only these take the PTX that NVRTC 11.8 makes of the operators MXNet fuses at run time
OTHER_GPU = f"use the CPU build (`{SETUP} --cpu`), or hide this GPU with CUDA_VISIBLE_DEVICES"
CAPABILITIES = (5, 8)  # the machine code in mxnet-cu112: sm_50, 60, 70, 80 and 86; no PTX for anything newer
CUDA_LIBRARIES = (  # in the order to load them, each with its folder under site-packages/nvidia
    ("libcudart.so.11.0", "cuda_runtime"),
    ("libnvrtc.so.11.2", "cuda_nvrtc"),
    ("libnvToolsExt.so.1", "nvtx"),
    ("libcublasLt.so.11", "cublas"),
    ("libcublas.so.11", "cublas"),
    ("libcufft.so.10", "cufft"),
    ("libcurand.so.10", "curand"),
    ("libcusparse.so.11", "cusparse"),
    ("libcusolver.so.11", "cusolver"),
    ("libcudnn.so.8", "cudnn"),
    ("libnccl.so.2", "nccl"),
)

# Library, package of apt, package of dnf.
MXNET_LIBRARIES = (("libgomp.so.1", "libgomp1", "libgomp"),)
if platform.machine() in ("x86_64", "AMD64"):
    MXNET_LIBRARIES += (("libquadmath.so.0", "libquadmath0", "libquadmath"),)
OPENCV_LIBRARIES = (
    ("libGL.so.1", "libgl1", "libglvnd-glx"),
    ("libgthread-2.0.so.0", "libglib2.0-0", "glib2"),
)

_prepared = False
_hands_off = False  # tune(False) was the last word about the environment
_made = set()  # names of the variables that prepare() has set


def prepare():
    """Make `import mxnet` work in this process, or raise InputError with what is missing; once is enough."""
    global _prepared
    if _prepared:
        return
    check_python()
    check_role()
    check_switches()
    threads.check()
    if not _hands_off:
        _made.update(set_environment())  # first of all that loads libraries: OpenMP reads its variables once
    build = installed_build()
    check_libraries()
    check_numpy()
    if build == GPU_BUILD:
        load_cuda()
    _prepared = True


# ---- Python and its packages


def check_python(version=None):
    """Refuse a Python that is too old for this code."""
    version = tuple(version or sys.version_info)
    if version[:2] < OLDEST_PYTHON:
        raise InputError(
            f"Python {version[0]}.{version[1]} ({sys.executable}) is too old: install Python 3.8 or newer and run "
            f"`PYTHON=python3.11 {SETUP}` with its name"
        )


def check_role(environment=os.environ):
    """Refuse a role in which `import mxnet` would serve, and unpickle what it is sent."""
    role = environment.get("DMLC_ROLE")
    if role in ("server", "scheduler"):
        raise InputError(f"DMLC_ROLE={role} is set in the environment and would turn this program into MXNet's {role}: "
                         "unset it (scripts/launch.sh starts servers and schedulers itself)")


def check_switches(optimize=sys.flags.optimize):
    """Refuse a Python without docstrings, and keep one that makes errors of warnings (-W error) from MXNet's own."""
    if optimize >= 2:
        raise InputError("PYTHONOPTIMIZE=2 (python -OO) drops the docstrings that MXNet reads while it is imported: "
                         "unset it")
    if any(action == "error" for action, *_ in warnings.filters):
        for package in ("mxnet", "gluoncv"):
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=rf"{package}\b")


def version_of(package):
    """The installed version of a package, or None."""
    from importlib import metadata  # Python 3.8 has it; check_python comes first

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def installed_build(version_of=version_of, find_spec=importlib.util.find_spec):
    """Which distribution brought MXNet: CPU_BUILD, GPU_BUILD, or "" for one that these pins do not know."""
    builds = [build for build in (CPU_BUILD, GPU_BUILD) if version_of(build)]
    if len(builds) > 1:
        raise InputError(
            f"{CPU_BUILD} and {GPU_BUILD} are both installed for {sys.executable} and overwrite each other's files: "
            f"run `{SETUP}`, which makes a clean .venv"
        )
    spec = find_spec("mxnet")
    if spec is None or spec.origin is None:  # no origin: only some folder called mxnet
        state = f"{builds[0]} is installed without its files" if builds else "MXNet is not installed"
        raise InputError(f"{state} for {sys.executable}: {USE_VENV}")
    return builds[0] if builds else ""


def check_numpy(version=None, find_spec=importlib.util.find_spec):
    """Refuse a Python without NumPy or distutils; give a newer NumPy back the names that MXNet and GluonCV use."""
    version = version or version_of("numpy")
    if version is None:
        raise InputError(f"NumPy is not installed for {sys.executable}: {USE_VENV}")
    if sys.version_info >= (3, 12) and find_spec("distutils") is None:
        raise InputError(
            f"MXNet 1.9.1 needs distutils, which Python 3.12 dropped and setuptools brings: run `{SETUP}`, "
            f"or `{sys.executable} -m pip install setuptools==80.9.0`"
        )
    if tuple(int(part) for part in version.split(".")[:2]) >= (1, 24):
        import numpy

        from . import numpy_names

        numpy_names.restore(numpy)


def refused_torch(version_of=version_of):
    """The version of a PyTorch beside which GluonCV refuses to be imported, 2.0 or newer; None without one."""
    version = version_of("torch")
    return version if version and int(version.split(".")[0]) >= 2 else None


# ---- Threads and memory

THREADS = ("OMP_NUM_THREADS", "MXNET_CPU_PARALLEL_SIZE")
# Left alone, glibc gives the memory of a large array back to the system at once and takes the next one's page by page.
# Here only arrays above the first number have memory of their own, free memory below the second is kept, and the third
# is what is taken at once.
MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = 1 << 32, 1 << 34, 1 << 28
OLD_MMAP_THRESHOLD = 1 << 25  # half of the largest heap of a thread: an older glibc refuses more
HUGE_PAGES, HUGE_PAGES_SINCE = "glibc.malloc.hugetlb", (2, 35)
ALLOCATOR = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
MARK = "ATAC_TUNED"  # what tune() leaves for the program it starts: process number and the names that it has set


def set_environment(environment=os.environ):
    """Settings that MXNet reads as it loads; what the user has set stays. Returns the names of those it has made."""
    made = []
    if not environment.get("OMP_NUM_THREADS"):  # MXNet's own default is half the cores
        environment["OMP_NUM_THREADS"] = str(usable_cores())
        made.append("OMP_NUM_THREADS")
    # Above this size MXNet copies an array with a pool of threads of its own, which fights with OpenMP's.
    if "MXNET_CPU_PARALLEL_SIZE" not in environment:
        environment["MXNET_CPU_PARALLEL_SIZE"] = "2000000000"
        made.append("MXNET_CPU_PARALLEL_SIZE")
    return made


def tune(wanted=True, environment=os.environ, execute=os.execve):
    """Start this very command anew with the allocator's settings in its environment, once, before MXNet loads.

    For the scripts alone, right after their flags are read. The process keeps its number, files and standard input.
    Returns where there is nothing to set: started anew already, another C library, everything set by the user; also
    where it is too late (MXNet is loaded) or the command cannot be known. wanted=False leaves the environment alone,
    here and in prepare().
    """
    global _hands_off
    _hands_off = not wanted
    if _hands_off or "mxnet" in sys.modules or environment.get(MARK, "").split(" ")[0] == str(os.getpid()):
        return
    missing = allocator_settings(environment)
    command = _command()
    if not missing or not command:
        return
    changed = dict(environment)
    changed.update(missing)
    # The first are from a program of ours that has started this one.
    names = sorted({*_marked(environment), *missing, *set_environment(changed)})
    changed[MARK] = f"{os.getpid()} {','.join(names)}"
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    try:
        execute(sys.executable, command, changed)
    except OSError:  # such as an environment that is too large: then it goes without
        return


def _marked(environment):
    return set(environment.get(MARK, "").partition(" ")[2].split(",")) - {""}


def _command():
    """The command line of this process with the interpreter's full path; None where it cannot be known."""
    words = list(getattr(sys, "orig_argv", ()))  # Python 3.10 has it
    if not words:
        words = [os.fsdecode(word) for word in _read_bytes("/proc/self/cmdline").split(b"\0")[:-1]]
    if not sys.executable or len(words) < 2 or sys.argv[0] in ("", "-"):  # a program typed in, or piped in, is gone
        return None
    return [sys.executable] + words[1:]


def allocator_settings(environment=os.environ, version=None, memory=None, threshold=None):
    """{name: value}: what glibc's allocator is still to be told; what the user has set, in either spelling, stays.

    version of glibc, bytes of memory and the largest threshold for mmap are this machine's unless given. Empty for
    another C library.
    """
    version = version or glibc_version()
    if not version:
        return {}
    tunables = environment.get("GLIBC_TUNABLES", "")
    named = {part.partition("=")[0] for part in tunables.split(":")}
    found = {}
    if version >= HUGE_PAGES_SINCE and HUGE_PAGES not in named:
        found["GLIBC_TUNABLES"] = f"{tunables}:{HUGE_PAGES}=1".lstrip(":")
    for name, value in zip(ALLOCATOR[1:], (
            threshold or mmap_threshold(), TRIM_THRESHOLD, top_pad(usable_memory() if memory is None else memory))):
        tunable = "glibc.malloc." + name[len("MALLOC_"):-1].lower()
        if name not in environment and tunable not in named:
            found[name] = str(value)
    return found


def glibc_version():
    """(major, minor) of glibc, or None where the C library is another one."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return tuple(int(part) for part in version.split(".")[:2]) if name == "glibc" else None
    except (AttributeError, ValueError, OSError):
        return None


def mmap_threshold(mallopt=None):
    """The largest threshold that this glibc takes. Asking raises it in this process to 1 GiB where that is taken."""
    try:
        mallopt = mallopt or ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return OLD_MMAP_THRESHOLD
    return MMAP_THRESHOLD if mallopt(-3, 1 << 30) else OLD_MMAP_THRESHOLD  # -3 is M_MMAP_THRESHOLD; 0: refused


def top_pad(memory):
    """256 MiB, on machines with less than 16 GiB of memory a power of two near 1/64 of it, at least 2 MiB."""
    if memory >= 64 * TOP_PAD:
        return TOP_PAD
    return 1 << max(21, int(memory // 64).bit_length() - 1)


def settings(environment=os.environ):
    """{name: value or None}: the variables that decide how fast a process of MXNet's is on a CPU."""
    return {name: environment.get(name) for name in THREADS + ALLOCATOR}


def settings_sentence(environment=os.environ, root="/"):
    """What of settings() is in force and who has set it, for the log."""
    values = settings(environment)
    own = (_made | _marked(environment)) & {name for name, value in values.items() if value is not None}
    groups = [(", ".join(f"{name}={values[name]}" for name in values if name in own), "set by this program"),
              (", ".join(f"{name}={value}" for name, value in values.items()
                         if value is not None and name not in own), "found in the environment"),
              (", ".join(name for name, value in values.items() if value is None), "not set")]
    parts = [f"{names} {state}" for names, state in groups if names]
    if "MALLOC_TOP_PAD_" in own and values["MALLOC_TOP_PAD_"] != str(TOP_PAD):
        parts.append(f"MALLOC_TOP_PAD_ is below {TOP_PAD} because memory is short")
    if f"{HUGE_PAGES}=1" in (values["GLIBC_TUNABLES"] or "").split(":") \
            and "[never]" in _read(os.path.join(root, "sys/kernel/mm/transparent_hugepage/enabled")):
        parts.append("huge pages are switched off on this system")
    if not glibc_version():
        parts.append("the allocator's are glibc's, which this system does not have")
    return f"process settings{' (--no-tune: left alone)' if _hands_off else ''}: {'; '.join(parts)}"


def usable_memory(root="/"):
    """Bytes of memory that this process may still use, by the system's count and the limits of its control groups."""
    memory = math.inf
    for line in _read(os.path.join(root, "proc/meminfo")).splitlines():
        words = line.split()
        if words[:1] == ["MemAvailable:"] and words[1:2] and words[1].isdigit():
            memory = 1024 * int(words[1])  # in kB, which are of 1024 bytes there
    for folder in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _read(os.path.join(folder, name))
            if limit.isdigit():
                memory = min(memory, int(limit))
    return memory


# ---- System libraries


def load_library(name):
    """Load a shared library so that what is loaded later finds its symbols; OSError if it is not there."""
    return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)


def check_libraries(load=load_library):
    """Refuse a system without the libraries that MXNet links to."""
    sentence = _missing(MXNET_LIBRARIES, "MXNet", load)
    if sentence:
        raise InputError(sentence)


def check_opencv(load=load_library):
    """A sentence if OpenCV, which only some of GluonCV's image functions use, would not import; else None."""
    return _missing(OPENCV_LIBRARIES, "OpenCV (cv2)", load)


def _missing(libraries, user, load):
    if not sys.platform.startswith("linux"):
        return None  # only there do the wheels count on the system for these
    missing = []
    for library in libraries:
        try:
            load(library[0])
        except OSError:
            missing.append(library)
    if not missing:
        return None
    names, apt, dnf = (" ".join(column) for column in zip(*missing))
    return (
        f"{user} needs system libraries that are not installed ({names}): run `apt-get install {apt}` (Debian, "
        f"Ubuntu) or `dnf install {dnf}` (Fedora, RHEL)"
    )


# ---- CUDA


def load_cuda(folders=None, load=load_library):
    """Load what mxnet-cu112 links to: from the wheels if they are there, else from where the system has it."""
    try:
        driver = load(DRIVER)
    except OSError:
        raise InputError(
            f"{GPU_BUILD} needs an NVIDIA driver, and this machine has none ({DRIVER} not found): run `{SETUP} --cpu` "
            "for the CPU build, or install the driver"
        ) from None
    version, gpus = ask_driver(driver)
    fault = gpu_fault(version, gpus)
    if fault:
        raise InputError(f"{fault}: {OTHER_GPU}")
    if gpus and version < PTX_CUDA:
        os.environ.setdefault("MXNET_USE_FUSION", "0")
    for name, package in CUDA_LIBRARIES:
        wheel = f"nvidia-{package.replace('_', '-')}-cu11"
        path = _wheel_library(name, package, sys.path if folders is None else folders)
        try:
            load(path or name)
        except OSError as fault:
            if path:
                state, cure = f"cannot be loaded ({fault})", f"--force-reinstall --no-deps {wheel}=={version_of(wheel)}"
            else:
                state, cure = f"is missing; the wheel {wheel} holds it", "--no-deps -r requirements.txt"
            raise InputError(
                f"{path or name}, which {GPU_BUILD} links to, {state}: run `{SETUP} --gpu`, or "
                f"`{sys.executable} -m pip install {cure}`"
            ) from None


def _wheel_library(name, package, folders):
    paths = (os.path.join(folder, "nvidia", package, "lib", name) for folder in folders)
    return next((path for path in paths if os.path.isfile(path)), None)


def ask_driver(driver):
    """CUDA version of a driver library (11080 is 11.8; 0: it does not say) and its GPUs, [(name, major, minor)]."""
    number, name = ctypes.c_int(), ctypes.create_string_buffer(256)

    def ask(function, *arguments):
        if function(ctypes.byref(number), *arguments):
            raise OSError
        return number.value

    version, gpus = 0, []
    try:
        version = ask(driver.cuDriverGetVersion)
        if driver.cuInit(0):
            return version, []
        for index in range(ask(driver.cuDeviceGetCount)):
            device = ask(driver.cuDeviceGet, index)
            capability = [ask(driver.cuDeviceGetAttribute, attribute, device) for attribute in (75, 76)]
            driver.cuDeviceGetName(name, len(name), device)
            gpus.append((name.value.decode(errors="replace"), *capability))
    except (AttributeError, OSError):  # a library without these functions, or one that answers with an error
        pass
    return version, gpus


def gpu_capabilities(library=DRIVER, load=load_library):
    """[(name, major, minor)]: the GPUs that the driver shows to this process; empty without a driver."""
    try:
        return ask_driver(load(library))[1]
    except OSError:
        return []


def gpu_fault(version, gpus):
    """Why mxnet-cu112 cannot use these GPUs with a driver of this CUDA version; None if it can."""
    oldest, newest = CAPABILITIES
    for name, major, minor in gpus:
        if not oldest <= major <= newest:
            return (
                f"{name} has compute capability {major}.{minor}, but {GPU_BUILD} 1.9.1 holds code for sm_50 to sm_86 "
                f"only, which is for GPUs of {oldest}.0 to {newest}.x"
            )
    if gpus and version < OLDEST_CUDA:
        return (
            f"the NVIDIA driver knows CUDA {version // 1000}.{version % 1000 // 10} at most, but the CUDA libraries "
            f"that {GPU_BUILD} links to need 11.0, which is driver 450 or newer"
        )
    return None


def choose_build(mode="auto", load=load_library):
    """("cpu" or "gpu", why): the build for this machine, or the one asked for; InputError if that could not run."""
    if mode == "cpu":
        return "cpu", "asked for with --cpu"
    try:
        version, gpus = ask_driver(load(DRIVER))
        found = "the NVIDIA driver shows " + (_listing(gpus) or "no GPU")
    except OSError:
        version, gpus = 0, []
        found = f"no NVIDIA driver ({DRIVER}) on this machine"
    fault = gpu_fault(version, gpus)
    if mode == "gpu":
        if fault:
            raise InputError(f"{fault}: {OTHER_GPU}")
        return "gpu", f"asked for with --gpu; {found}"
    if fault or not gpus:
        return "cpu", fault or found
    return "gpu", found


def _listing(gpus):
    return ", ".join(f"{name} ({major}.{minor})" for name, major, minor in gpus)


# ---- The command


def check():
    """Import and use what the requirements bring; a line that says what works."""
    check_python()
    if installed_build() == GPU_BUILD:
        missing = [name for name, package in CUDA_LIBRARIES if not _wheel_library(name, package, sys.path)]
        try:
            load_library(DRIVER)
        except OSError:
            if missing:
                raise InputError(f"the CUDA wheels lack {', '.join(missing)}: run `{SETUP} --gpu`") from None
            return f"{GPU_BUILD} is complete, but cannot be imported before there is an NVIDIA driver ({DRIVER})"
    prepare()
    import mxnet as mx  # before GluonCV, which hides why it cannot import MXNet

    warnings.simplefilter("ignore")  # of old packages about each other
    torch, remark = refused_torch(), ""
    if torch:
        remark = (f" (it refuses to be imported beside PyTorch {torch}, which is installed too, unless "
                  "`sys.modules['torch'] = None` hides that before; training and evaluation need neither)")
        sys.modules["torch"] = None
    import gluoncv

    if torch:
        del sys.modules["torch"]
    import matplotlib
    import numpy as np
    import PIL
    import tqdm  # noqa: F401

    net = mx.gluon.nn.Conv2D(2, 3, in_channels=1)
    net.initialize(mx.init.One())
    if net(mx.nd.ones((1, 1, 3, 3))).asnumpy().ravel().tolist() != [9.0, 9.0]:
        raise InputError("MXNet computes a wrong convolution on this machine: please report it")
    build = installed_build() or "own build"
    packages = ((f"MXNet ({build})", mx), ("NumPy", np), ("matplotlib", matplotlib), ("Pillow", PIL))
    versions = ", ".join(f"{name} {module.__version__}" for name, module in packages)
    # GluonCV 0.10.5 calls itself 0.11.0.
    return (
        f"{versions}, GluonCV {version_of('gluoncv') or gluoncv.__version__}{remark}; "
        f"{os.environ['OMP_NUM_THREADS']} CPU threads, {mx.context.num_gpus()} GPUs"
    )


def report():
    """What this machine and this Python have, as lines; faults are lines too."""
    chosen = os.environ.get("OMP_NUM_THREADS")
    quota = cpu_quota()
    limit = "" if quota == math.inf else f", control group's quota {quota:g}"
    cores = f"{usable_cores()} usable cores{limit}"
    lines = [
        ("Python", f"{platform.python_version()} at {sys.executable}"),
        ("Machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {cores}"),
        ("Threads", f"{chosen} (OMP_NUM_THREADS is set)" if chosen else f"{usable_cores()} (all usable cores)"),
        ("Allocator", ", ".join(f"{name}={value}" for name, value in allocator_settings().items()) or "as it is"),
        ("GPUs", _listing(gpu_capabilities()) or "none"),
    ]
    try:
        check_python()
        packages = (CPU_BUILD, GPU_BUILD, "numpy", "gluoncv", "matplotlib")
        lines += [(package, version_of(package) or "not installed") for package in packages]
        lines.append(("OpenCV", check_opencv() or "its system libraries are there"))
        lines.append(("State", check()))
    except InputError as fault:
        lines.append(("Fault", str(fault)))
    except Exception as fault:
        lines.append(("Fault", broken(fault)))
    return "\n".join(f"{name:<12}{value}" for name, value in lines)


def broken(fault):
    """The sentence for packages that are there but do not work."""
    return f"an installed package does not work ({type(fault).__name__}: {fault}): run `{SETUP}` to repair .venv"


class Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors. engine.cli.flags has one for the scripts, in a newer Python's syntax."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (--help says more)\n")


def main(arguments=None):
    parser = Parser(prog="python -m support.runtime", description="Is this machine ready?")
    tasks, modes = ("report", "choose", "libraries", "check"), ("auto", "cpu", "gpu")
    parser.add_argument("task", nargs="?", default="report", choices=tasks)
    parser.add_argument("mode", nargs="?", default="auto", choices=modes, help="for choose")
    options = parser.parse_args(arguments)
    try:
        if options.task == "report":
            print(report())
        elif options.task == "choose":
            print("\n".join(choose_build(options.mode)))
        elif options.task == "libraries":
            check_libraries()
            print(check_opencv() or "")
        else:
            print(check())
    except InputError as fault:
        sys.exit(f"error: {fault}")
    except Exception as fault:  # whatever a half-installed package raises
        sys.exit(f"error: {broken(fault)}")


if __name__ == "__main__":
    main()
