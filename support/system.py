"""Facts about the system, and the shared libraries that the wheels expect from it."""
import ctypes
import os
import platform
import sys

from .errors import InputError

# Library, package of apt, package of dnf.
MXNET_LIBRARIES = (("libgomp.so.1", "libgomp1", "libgomp"),)
if platform.machine() in ("x86_64", "AMD64"):
    MXNET_LIBRARIES += (("libquadmath.so.0", "libquadmath0", "libquadmath"),)
OPENCV_LIBRARIES = (
    ("libGL.so.1", "libgl1", "libglvnd-glx"),
    ("libgthread-2.0.so.0", "libglib2.0-0", "glib2"),
)


def read_bytes(path):
    """The bytes of one of the system's own files; empty if it is not there."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def read(path):
    """The same as text, without surrounding space."""
    return read_bytes(path).decode("utf-8", errors="replace").strip()


def cpuinfo(*names):
    """The first value in /proc/cpuinfo under one of these names; "" if there is none."""
    for line in read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""


def processor():
    """The processor's name."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def control_groups(root, controller):
    """Folders of the control groups, version 1 or 2, whose controller limits this process."""
    for line in read(os.path.join(root, "proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for mount in {controllers, controller} if controllers else {"", "unified"}:
            # Every group above limits too. A container may see its host's path here; its own group is then the top.
            names = path.strip("/").split("/")
            for depth in range(len(names) + 1):
                yield os.path.join(root, "sys/fs/cgroup", mount, *names[:depth])


def load_library(name):
    """Load a shared library so that later libraries find its symbols; OSError if it is not there."""
    return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)


def check_libraries(load=load_library):
    """Refuse a system without the libraries that MXNet links to."""
    sentence = _missing(MXNET_LIBRARIES, "MXNet", load)
    if sentence:
        raise InputError(sentence)


def check_opencv(load=load_library):
    """A message if OpenCV would not import, else None. Only some of GluonCV's image functions use it."""
    return _missing(OPENCV_LIBRARIES, "OpenCV (cv2)", load)


def _missing(libraries, user, load):
    if not sys.platform.startswith("linux"):
        return None  # elsewhere the wheels do not expect these from the system
    missing = []
    for library in libraries:
        try:
            load(library[0])
        except OSError:
            missing.append(library)
    if not missing:
        return None
    names, apt, dnf = (" ".join(column) for column in zip(*missing))
    return (f"{user} needs system libraries that are not installed ({names}): run `apt-get install {apt}` (Debian, "
            f"Ubuntu) or `dnf install {dnf}` (Fedora, RHEL)")
