"""What must be true of the process before MXNet loads: `prepare()`, to be called before `import mxnet`.

MXNet 1.9.1 was built in 2022. It needs a Python and a NumPy of its time (or names that NumPy has dropped since),
two system libraries, and, in its GPU build, an NVIDIA driver and the CUDA 11 libraries, which the wheels of
requirements.txt hold in folders where MXNet does not look. It also reads its thread count when it loads.

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

from .errors import InputError

SETUP = "bash scripts/setup.sh"
USE_VENV = f"run `{SETUP}`, then use .venv/bin/python"
CPU_BUILD, GPU_BUILD = "mxnet", "mxnet-cu112"
OLDEST_PYTHON, NEWEST_PYTHON = (3, 8), (3, 12)
ALIASES = {"bool": bool, "int": int, "float": float}  # NumPy < 1.24 had these; MXNet and GluonCV use them

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


def prepare():
    """Make `import mxnet` work in this process, or raise InputError with what is missing; once is enough."""
    global _prepared
    if _prepared:
        return
    check_python()
    set_environment()  # first of all that loads libraries: OpenMP reads its variables once
    build = installed_build()
    check_libraries()
    check_numpy()
    if build == GPU_BUILD:
        load_cuda()
    _prepared = True


# ---- Python and its packages


def check_python(version=None):
    """Refuse a Python for which MXNet's and NumPy's wheels do not exist or do not work together."""
    version = tuple(version or sys.version_info)
    if not OLDEST_PYTHON <= version[:2] <= NEWEST_PYTHON:
        raise InputError(
            f"Python {version[0]}.{version[1]} ({sys.executable}) cannot run MXNet 1.9.1: install one of Python 3.8 "
            f"to 3.12 and run `PYTHON=python3.11 {SETUP}` with its name"
        )


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
    """Refuse a NumPy that MXNet cannot use; give a newer one back the names MXNet uses."""
    version = version or version_of("numpy")
    if version is None:
        raise InputError(f"NumPy is not installed for {sys.executable}: {USE_VENV}")
    major, minor = (int(part) for part in version.split(".")[:2])
    if major >= 2:
        raise InputError(
            f"NumPy {version} is too new for MXNet 1.9.1, which needs NumPy 1: run `{SETUP}`, or "
            f"`{sys.executable} -m pip install 'numpy<2'`"
        )
    if sys.version_info >= (3, 12) and find_spec("distutils") is None:
        raise InputError(
            f"MXNet 1.9.1 needs distutils, which Python 3.12 dropped and setuptools brings: run `{SETUP}`, "
            f"or `{sys.executable} -m pip install setuptools==80.9.0`"
        )
    if (major, minor) >= (1, 24):
        import numpy

        for name, plain in ALIASES.items():
            if name not in vars(numpy):  # hasattr would warn
                setattr(numpy, name, plain)


# ---- Threads


def set_environment(environment=os.environ):
    """Settings that MXNet reads as it loads; what the user has set stays."""
    if not environment.get("OMP_NUM_THREADS"):  # MXNet's own default is half the cores
        environment["OMP_NUM_THREADS"] = str(usable_cores())
    # Above this size MXNet copies an array with a pool of threads of its own, which fights with OpenMP's.
    environment.setdefault("MXNET_CPU_PARALLEL_SIZE", "2000000000")


def usable_cores(root="/", cpus=None):
    """Physical cores that this process may use, by its affinity and by the CPU quota of its control groups."""
    if cpus is None:
        cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    topology = os.path.join(root, "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list")
    # The hyperthreads of a core list the same siblings, so they count once.
    cores = {_read(topology.format(cpu)) or str(cpu) for cpu in cpus}
    return int(max(1, min(len(cores), cpu_quota(root) // 1)))


def cpu_quota(root="/"):
    """How many CPUs' time the control groups (version 1 or 2) leave to this process; without a limit, infinity."""
    quota = math.inf
    for line in _read(os.path.join(root, "proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in {controllers, "cpu"} if controllers else {"", "unified"}:
            # Every group above limits too. A container may see its host's path here; its own group is then the top.
            names = path.strip("/").split("/")
            for depth in range(len(names) + 1):
                quota = min(quota, _group_quota(os.path.join(root, "sys/fs/cgroup", mount, *names[:depth])))
    return quota


def _group_quota(folder):
    limit = _read(os.path.join(folder, "cpu.max")).split()
    if not limit:
        limit = [_read(os.path.join(folder, name)) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    try:
        quota, period = (int(number) for number in limit)
    except ValueError:  # no such files, or "max"
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def _read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


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
                state, cure = f"is missing; the wheel {wheel} holds it", "-r requirements.txt"
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
    import warnings

    import mxnet as mx  # before GluonCV, which hides why it cannot import MXNet

    warnings.simplefilter("ignore")  # of old packages about each other
    import gluoncv
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
        f"{versions}, GluonCV {version_of('gluoncv') or gluoncv.__version__}; "
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


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m support.runtime", description="Is this machine ready?")
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
