"""Compile the fused operators for this machine: `python -m ops.build`.

The library's name holds a checksum of its sources, of MXNet's sources and of the processor's instruction sets, so a
library built elsewhere or before an update is never loaded. Needs g++ (9 or newer) with the C++ library's headers; CXX
names another GCC; other compilers are refused (ops/src/operators.cc). The name does not hold the GCC's version: after a
change of GCC, build with --again.
"""
import contextlib
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from support.errors import InputError
from support.runtime import Parser
from support.system import cpuinfo

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"
BUILT = HERE / "built"
CHECKSUM = 64  # hexadecimal digits at the end of a library
FLAGS = ("-std=c++17", "-O3", "-funroll-loops", "-fno-math-errno", "-fno-trapping-math", "-march=native", "-fopenmp",
         "-fPIC", "-shared", "-Wall", "-Wextra", "-Wno-psabi")
SANITIZED = ("-std=c++17", "-O1", "-g", "-march=native", "-fopenmp", "-fPIC", "-shared", "-Wno-psabi",
             "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer")


def mxnet_folder():
    """Folder of the installed MXNet, without importing it. Raises InputError if there is none."""
    spec = importlib.util.find_spec("mxnet")
    if spec is None or spec.origin is None:
        raise InputError(f"MXNet is not installed for {sys.executable}: run `bash scripts/setup.sh`")
    return Path(spec.origin).parent


def instruction_sets():
    """The processor's instruction sets as text: -march=native compiles for them."""
    return " ".join(sorted(cpuinfo("flags", "Features").split())) or platform.processor()


def library(sanitized=False):
    """Path of the library for this machine, built or not."""
    machine = hashlib.sha256(f"{platform.machine()} {instruction_sets()}".encode()).hexdigest()
    folder = mxnet_folder()
    digest = hashlib.sha256(" ".join(SANITIZED if sanitized else FLAGS).encode())
    for path in sorted(SOURCES.iterdir()) + [folder / "include/mxnet/lib_api.h", folder / "src/lib_api.cc"]:
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return BUILT / f"{'sanitized' if sanitized else 'fused'}-{machine[:12]}-{digest.hexdigest()[:12]}.so"


def sound(path):
    """Whether a library is there and ends in its own checksum. Loading a cut library would kill the process."""
    try:
        content = Path(path).read_bytes()
    except OSError:
        return False
    return content[-CHECKSUM:] == _checksum(content[:-CHECKSUM])


def _checksum(content):
    return hashlib.sha256(content).hexdigest().encode()


def compiler():
    """The command of the C++ compiler as a list of words, or None."""
    try:
        words = shlex.split(os.environ.get("CXX") or "g++")
    except ValueError:  # quotes that do not close
        return None
    return words if words and shutil.which(words[0]) else None


def build(again=False, sanitized=False):
    """Compile the library if it is not there. Returns (path, whether it was compiled now). Raises InputError."""
    target = library(sanitized)
    if sound(target) and not again:
        return target, False
    command = compiler()
    if command is None:
        raise InputError(f"there is no C++ compiler ({os.environ.get('CXX') or 'g++'} not found): install one "
                         "(Debian, Ubuntu: `apt-get install g++`; Fedora, RHEL: `dnf install gcc-c++`) and run "
                         "`bash scripts/setup.sh`")
    folder = mxnet_folder()
    try:
        BUILT.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILT) as temporary:
            made = Path(temporary) / target.name
            done = subprocess.run([*command, *(SANITIZED if sanitized else FLAGS), "-isystem", folder / "include",
                                   "-o", made, SOURCES / "operators.cc", folder / "src/lib_api.cc"],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
                reason = lines[0] if lines else f"it ended with status {done.returncode} and no message"
                raise InputError(f"{shlex.join(command)} could not compile the operators: {reason}")
            if not sanitized:  # the sanitizer's runtime must be a process's first library, as only the tests arrange
                _try(made)
            with open(made, "r+b") as file:  # the loader ignores bytes after the last section
                file.write(_checksum(file.read()))
            os.replace(made, target)
    except OSError as error:
        raise InputError(f"the operators cannot be built in {BUILT}: {error.strerror}") from error
    with contextlib.suppress(OSError):  # another build may also be removing them
        for old in BUILT.glob(f"{target.name.rpartition('-')[0]}-*.so"):  # older ones of the same machine
            if old != target:
                old.unlink()
    return target, True


def _try(path):
    """Load a new library and compute with it in another process, which may crash. Raises InputError if it fails."""
    code = ("import sys\nfrom support import runtime\nruntime.prepare()\nimport mxnet as mx\n"
            "mx.library.load(sys.argv[1], verbose=False)\n"
            "y = mx.nd.atac_unit(mx.nd.array([-1.0, 2.0]).reshape((1, 2, 1, 1)), unit='relu')\n"
            "sys.exit(y.asnumpy().ravel().tolist() != [0.0, 2.0])")
    done = subprocess.run([sys.executable, "-c", code, os.path.abspath(path)], cwd=HERE.parent,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise InputError(f"the compiled operators do not work here: {lines[-1] if lines else done.returncode}")


def main(arguments=None):
    parser = Parser(prog="python -m ops.build", description=__doc__.partition("\n")[0])
    parser.add_argument("--again", action="store_true", help="compile even if the library is there")
    parser.add_argument("--sanitize", action="store_true",
                        help="compile with the address and undefined-behaviour sanitizers, for the tests")
    options = parser.parse_args(arguments)
    try:
        path, now = build(options.again, options.sanitize)
    except InputError as error:
        sys.exit(f"{parser.prog}: {error}")
    print(f"{'compiled' if now else 'there already'}: {path.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
