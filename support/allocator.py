"""The settings of glibc's allocator that make MXNet's large arrays fast."""
import ctypes
import math
import os

from .system import control_groups, read

# By default, glibc returns the memory of a large array to the system at once and takes the next array's page by page.
# Here only arrays above the first number get their own mapping, free memory below the second number is kept, and the
# third number is taken at once.
MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = 1 << 32, 1 << 34, 1 << 28
OLD_MMAP_THRESHOLD = 1 << 25  # half of a thread's largest heap; an older glibc refuses more
HUGE_PAGES, HUGE_PAGES_SINCE = "glibc.malloc.hugetlb", (2, 35)
NAMES = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


def to_set(environment=os.environ, version=None, memory=None, threshold=None):
    """{name: value}: the allocator's variables that are still to be set. The user's own, in either spelling, stay.

    version (of glibc), memory (bytes) and threshold (the largest for mmap) are this machine's unless given. Empty for
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
    for name, value in zip(NAMES[1:], (
            threshold or mmap_threshold(), TRIM_THRESHOLD, top_pad(usable_memory() if memory is None else memory))):
        tunable = "glibc.malloc." + name[len("MALLOC_"):-1].lower()
        if name not in environment and tunable not in named:
            found[name] = str(value)
    return found


def glibc_version():
    """(major, minor) of glibc, or None if the C library is another one."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return tuple(int(part) for part in version.split(".")[:2]) if name == "glibc" else None
    except (AttributeError, ValueError, OSError):
        return None


def mmap_threshold(mallopt=None):
    """The largest threshold that this glibc accepts. If it accepts 1 GiB, this call sets it in this process."""
    try:
        mallopt = mallopt or ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return OLD_MMAP_THRESHOLD
    return MMAP_THRESHOLD if mallopt(-3, 1 << 30) else OLD_MMAP_THRESHOLD  # -3 is M_MMAP_THRESHOLD; 0: refused


def top_pad(memory):
    """256 MiB; below 16 GiB of memory a power of two near 1/64 of the memory, at least 2 MiB."""
    if memory >= 64 * TOP_PAD:
        return TOP_PAD
    return 1 << max(21, int(memory // 64).bit_length() - 1)


def usable_memory(root="/"):
    """Bytes of memory that this process may still use, by the system's count and its control groups' limits."""
    memory = math.inf
    for line in read(os.path.join(root, "proc/meminfo")).splitlines():
        words = line.split()
        if words[:1] == ["MemAvailable:"] and words[1:2] and words[1].isdigit():
            memory = 1024 * int(words[1])  # a kB has 1024 bytes here
    for folder in control_groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = read(os.path.join(folder, name))
            if limit.isdigit():
                memory = min(memory, int(limit))
    return memory
