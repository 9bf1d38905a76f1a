"""The NVIDIA driver, its GPUs and the CUDA libraries that mxnet-cu112 links to, and which build suits a machine."""
import ctypes
import os
import platform
import sys

from .errors import InputError
from .python import GPU_BUILD, SETUP, version_of
from .system import load_library

DRIVER = "libcuda.so.1"
OLDEST_CUDA = 11000  # drivers of CUDA 11.0 and later run the libraries of any CUDA 11 ("minor version compatibility")
PTX_CUDA = 11080  # only these and later drivers accept NVRTC 11.8's PTX for the operators MXNet fuses at run time
OTHER_GPU = f"use the CPU build (`{SETUP} --cpu`), or hide this GPU with CUDA_VISIBLE_DEVICES"
CAPABILITIES = (5, 8)  # the machine code in mxnet-cu112: sm_50, 60, 70, 80 and 86; no PTX for anything newer
WHEELS = (("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "x86_64"))  # of MXNet 1.9.1
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


def load_cuda(folders=None, load=load_library):
    """Load the libraries that mxnet-cu112 links to: from the wheels if they are there, else from the system."""
    try:
        driver = load(DRIVER)
    except OSError:
        raise InputError(f"{GPU_BUILD} needs an NVIDIA driver, and this machine has none ({DRIVER} not found): run "
                         f"`{SETUP} --cpu` for the CPU build, or install the driver") from None
    version, gpus = ask_driver(driver)
    fault = gpu_fault(version, gpus)
    if fault:
        raise InputError(f"{fault}: {OTHER_GPU}")
    if gpus and version < PTX_CUDA:
        os.environ.setdefault("MXNET_USE_FUSION", "0")
    for name, package in CUDA_LIBRARIES:
        wheel = f"nvidia-{package.replace('_', '-')}-cu11"
        path = wheel_library(name, package, sys.path if folders is None else folders)
        try:
            load(path or name)
        except OSError as fault:
            if path:
                state, cure = f"cannot be loaded ({fault})", f"--force-reinstall --no-deps {wheel}=={version_of(wheel)}"
            else:
                state, cure = f"is missing; the wheel {wheel} holds it", "--no-deps -r requirements.txt"
            raise InputError(f"{path or name}, which {GPU_BUILD} links to, {state}: run `{SETUP} --gpu`, or "
                             f"`{sys.executable} -m pip install {cure}`") from None


def wheel_library(name, package, folders):
    paths = (os.path.join(folder, "nvidia", package, "lib", name) for folder in folders)
    return next((path for path in paths if os.path.isfile(path)), None)


def ask_driver(driver):
    """CUDA version of a driver library (11080 is 11.8; 0 if unknown) and its GPUs, [(name, major, minor)]."""
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


def gpu_capabilities(load=load_library):
    """[(name, major, minor)]: the GPUs that the driver shows to this process; empty without a driver."""
    try:
        return ask_driver(load(DRIVER))[1]
    except OSError:
        return []


def gpu_fault(version, gpus):
    """Why mxnet-cu112 cannot use these GPUs with a driver of this CUDA version; None if it can."""
    oldest, newest = CAPABILITIES
    for name, major, minor in gpus:
        if not oldest <= major <= newest:
            return (f"{name} has compute capability {major}.{minor}, but {GPU_BUILD} 1.9.1 holds code for sm_50 to "
                    f"sm_86 only, which is for GPUs of {oldest}.0 to {newest}.x")
    if gpus and version < OLDEST_CUDA:
        return (f"the NVIDIA driver knows CUDA {version // 1000}.{version % 1000 // 10} at most, but the CUDA "
                f"libraries that {GPU_BUILD} links to need 11.0, which is driver 450 or newer")
    return None


def choose_build(mode="auto", load=load_library, system=platform.system, machine=platform.machine):
    """("cpu", "gpu" or "torch", why): the build of MXNet for this machine, or the requested one, or PyTorch in its
    place. Raises InputError if that could not run."""
    if mode == "torch":
        return "torch", "asked for with --torch"
    if (system(), machine()) not in WHEELS:
        fault = f"MXNet 1.9.1 has no build for {system()} on {machine()}"
        if mode == "auto":
            return "torch", fault
        raise InputError(f"{fault}: run `{SETUP} --torch`")
    if mode == "cpu":
        return "cpu", "asked for with --cpu"
    try:
        version, gpus = ask_driver(load(DRIVER))
        found = "the NVIDIA driver shows " + (listing(gpus) or "no GPU")
    except OSError:
        version, gpus = 0, []
        found = f"no NVIDIA driver ({DRIVER}) on this machine"
    fault = gpu_fault(version, gpus)
    if mode == "gpu":
        if fault:
            raise InputError(f"{fault}: {OTHER_GPU}")
        return "gpu", f"asked for with --gpu; {found}"
    if fault:
        return "cpu", f"{fault}; PyTorch can use it: run `{SETUP} --torch`"
    return "gpu" if gpus else "cpu", found


def listing(gpus):
    return ", ".join(f"{name} ({major}.{minor})" for name, major, minor in gpus)
