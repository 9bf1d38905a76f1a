"""How many threads this process may use, by the machine and by the user's settings."""
import math
import os
import re

from .errors import InputError
from .system import control_groups, read

OPENMP = "OMP_NUM_THREADS"
SPIN = "GOMP_SPINCOUNT"  # how long GCC's OpenMP waits for another thread before it sleeps
SHORT_SPIN = "10000"
BUSY = 0.5  # processes that run or want to run
MOST = 1024  # with about ten thousand, OpenMP gets no memory for their stacks and the process dies


def check(environment=os.environ):
    """Check the numbers of threads in the environment, because MXNet aborts the process at any other text.

    OpenMP's list, a number for each level of nesting, becomes its first number, because MXNet does not nest. InputError
    for anything else that is not a number of threads.
    """
    for name, value in sorted(environment.items()):
        listed = name == OPENMP
        if not value or not (listed or re.match(r"MXNET_\w+_(N|MAX_)THREADS$", name)):
            continue
        numbers = [part.strip() for part in value.split(",")] if listed else [value.strip()]
        if not all(re.match("[0-9]{1,9}$", number) and listed <= int(number) <= MOST for number in numbers):
            raise InputError(f"{name}={value[:40]!r} in the environment is not a number of threads: give a whole "
                             f"number from {listed:d} to {MOST:,}, or unset it")
        environment[name] = numbers[0]


def usable_cores(root="/", cpus=None):
    """Physical cores that this process may use, by its affinity and its control groups' CPU quota."""
    if cpus is None:
        cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    topology = os.path.join(root, "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list")
    # The hyperthreads of a core list the same siblings and count once.
    cores = {read(topology.format(cpu)) or str(cpu) for cpu in cpus}
    return int(max(1, min(len(cores), cpu_quota(root) // 1)))


def cpu_quota(root="/"):
    """The number of CPUs whose time the control groups (version 1 or 2) allow this process; inf without a limit."""
    return min([_group_quota(folder) for folder in control_groups(root, "cpu")], default=math.inf)


def _group_quota(folder):
    limit = read(os.path.join(folder, "cpu.max")).split()
    if not limit:
        limit = [read(os.path.join(folder, name)) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    try:
        quota, period = (int(number) for number in limit)
    except ValueError:  # no such files, or "max"
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def busy(load=None):
    """Whether other processes were using the machine in the last minute. load : the average; None for the system's."""
    try:
        return (os.getloadavg()[0] if load is None else load) > BUSY
    except OSError:  # a system without it
        return False
