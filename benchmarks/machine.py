"""The machine's description for a record, the environment of a worker, and facts about processes from /proc."""
import os
import platform
import sys

from support import allocator, python, runtime, threads
from support.system import cpuinfo, processor, read

PACKAGES = ("mxnet", "mxnet-cu112", "numpy", "gluoncv", "torch", "onnx", "onnxruntime")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")  # they decide which kernels run
MXNET_PARALLEL_SIZE = "200000"  # MXNet's own default of MXNET_CPU_PARALLEL_SIZE
ALL_SETTINGS = (*runtime.THREADS, *allocator.NAMES, "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def environment(threads, tuned=True):
    """The environment of a worker: the same threads and allocator settings for every framework.

    tuned=False only sets the number of threads and leaves MXNet's and glibc's own defaults for the rest.
    """
    made = {name: value for name, value in os.environ.items() if name not in ALL_SETTINGS}
    made["OMP_NUM_THREADS"] = made["OPENBLAS_NUM_THREADS"] = str(threads)
    if tuned:
        made.update(allocator.to_set(made))
        runtime.set_environment(made)
    else:
        made["MXNET_CPU_PARALLEL_SIZE"] = MXNET_PARALLEL_SIZE
    return made


def description():
    """Machine and versions for a record, as a JSON-able dict."""
    flags = cpuinfo("flags").split()
    memory = read("/proc/meminfo").partition("MemTotal:")[2].split()[:1]
    return {
        "processor": processor(), "flags": [flag for flag in FLAGS if flag in flags], "cores": threads.usable_cores(),
        "cpus": os.cpu_count(), "memory_gib": round(int(memory[0]) / 2**20) if memory else None,
        "system": f"{platform.system()} {platform.machine()}",
        "glibc": ".".join(map(str, allocator.glibc_version() or ())) or None,
        "python": platform.python_version(),
        "packages": {name: version for name, version in ((name, python.version_of(name)) for name in PACKAGES)
                     if version},
    }


# ---- /proc

def peak_mib():
    """Largest resident memory of this process since forget_peak(), in MiB; None if the system does not say."""
    words = read("/proc/self/status").partition("VmHWM:")[2].split()[:1]
    return int(words[0]) / 1024 if words else None


def forget_peak():
    """Restart peak_mib() from the present memory, so that compiling does not count."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass  # then the peak includes the start


def busy_seconds():
    """Processor time of the whole machine so far, in seconds; None if the system does not say."""
    words = read("/proc/stat").split("\n", 1)[0].split()
    if words[:1] != ["cpu"]:
        return None
    user, nice, system, _idle, _wait, *interrupts = (int(word) for word in words[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def session_seconds(session):
    """Processor time of all processes of a session, including ended ones, in seconds."""
    ticks = 0
    for name in os.listdir("/proc") if sys.platform.startswith("linux") else ():
        if name.isdigit():
            fields = read(f"/proc/{name}/stat").rpartition(")")[2].split()
            if fields and int(fields[3]) == session:
                ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")
