"""Installation: the requirement files, what support/ demands of a process, and scripts/setup.sh.

Nothing here is downloaded. Other machines (their libraries, GPUs, control groups) are folders and loaders made up here,
or the stub driver of tests/tools/make_stub_libcuda.sh.
"""
import ast
import importlib.machinery
import math
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ops import build
from support import allocator, cuda, import_hook, numpy_names, python, runtime, system, threads
from support.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
NUMPYS = {"3.12": "==1.26.4", "3.13": "==2.3.5", "3.14": "==2.3.5", "3.15": ""}  # of the others 1.23.5
Spec = namedtuple("Spec", "origin")


def read_requirements(name):
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def loader(missing=(), broken=(), log=None):
    """A stand-in for load_library on a machine that lacks some libraries, or has broken ones."""

    def load(name):
        if log is not None:
            log.append(name)
        if os.path.basename(name) in missing:
            raise OSError(f"{name}: cannot open shared object file")
        if os.path.basename(name) in broken:
            raise OSError("file too short")

    return load


def sentence(raised):
    text = str(raised.value)
    assert "\n" not in text
    return text


# ---- Requirement files


def test_cpu_and_gpu_requirements_differ_only_in_mxnet_and_cuda():
    gpu = [str(line) for line in read_requirements("requirements.txt")]
    cpu = [str(line) for line in read_requirements("requirements-cpu.txt")]
    assert "mxnet-cu112==1.9.1" in gpu and "mxnet==1.9.1" in cpu
    assert [line for line in gpu if not line.startswith(("nvidia-", "mxnet"))] == [
        line for line in cpu if not line.startswith("mxnet")
    ]


def test_every_cuda_library_has_its_wheel():
    wheels = {line.name for line in read_requirements("requirements.txt") if line.name.startswith("nvidia-")}
    assert wheels == {f"nvidia-{folder.replace('_', '-')}-cu11" for _, folder in cuda.CUDA_LIBRARIES}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-cpu.txt", "requirements-dev.txt"])
def test_each_python_gets_each_package_once(name):
    for version in (*PYTHONS, "3.15"):
        chosen = [line for line in read_requirements(name)
                  if not line.marker or line.marker.evaluate({"python_version": version})]
        pins = {line.name: str(line.specifier) for line in chosen}
        assert len(chosen) == len(pins)
        if name == "requirements-dev.txt":
            continue
        pinned = {package for package, pin in pins.items() if pin.startswith("==")}
        assert {"gluoncv", "opencv-python"} | ({"numpy", "matplotlib"} if version in PYTHONS else set()) <= pinned
        # A Python that nobody has tried gets the newest of what is made for each Python.
        assert version in PYTHONS or pins["numpy"] == pins["matplotlib"] == ""
        assert ("setuptools" in pins) == (version not in PYTHONS[:4])  # distutils
        assert pins["numpy"] == NUMPYS.get(version, "==1.23.5")
        assert {"requests", "graphviz"} <= set(pins)  # MXNet itself comes without what it asks for


# ---- Python and its packages


def test_older_pythons_are_refused_and_others_pass():
    for version in (*PYTHONS, "3.15", "4.0"):
        python.check_version(tuple(int(part) for part in version.split(".")))
    with pytest.raises(InputError) as raised:
        python.check_version((3, 7, 16))
    assert "Python 3.7 " in sentence(raised) and "scripts/setup.sh" in sentence(raised)


@pytest.mark.parametrize("installed, spec, expected", [
    (["mxnet"], Spec("mxnet/__init__.py"), "mxnet"), (["mxnet-cu112"], Spec("mxnet/__init__.py"), "mxnet-cu112"),
    ([], Spec("mxnet/__init__.py"), ""), ([], None, "MXNet is not installed"),
    ([], Spec(None), "MXNet is not installed"), (["mxnet"], None, "mxnet is installed without its files"),
    (["mxnet", "mxnet-cu112"], Spec("mxnet/__init__.py"), "both installed")])
def test_installed_build(installed, spec, expected):
    def ask():
        return python.installed_build(lambda name: "1.9.1" if name in installed else None, lambda name: spec)

    if " " not in expected:
        assert ask() == expected
    else:
        with pytest.raises(InputError) as raised:
            ask()
        assert expected in sentence(raised) and "bash scripts/setup.sh" in sentence(raised)


def test_missing_numpy_is_refused(monkeypatch):
    monkeypatch.setattr(python, "version_of", lambda name: None)
    with pytest.raises(InputError, match="NumPy is not installed .*bash scripts/setup.sh"):
        python.check_numpy()


def test_newer_numpy_gets_its_old_names_back(monkeypatch):
    given = []
    monkeypatch.setattr(numpy_names, "restore", given.append)
    for version in ("1.23.5", "1.24.0", "2.3.5", "10.0.1rc1"):  # the first has them still, with warnings
        python.check_numpy(version, find_spec=lambda name: Spec("there"))
    assert given == [sys.modules["numpy"]] * 3


def test_python_312_without_distutils_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    with pytest.raises(InputError) as raised:
        python.check_numpy("1.26.4", find_spec=lambda name: None)
    (pin,) = [line for line in read_requirements("requirements.txt") if line.name == "setuptools"]
    assert f"pip install setuptools{pin.specifier}" in sentence(raised)


# ---- Threads


def machine(root, siblings=(), files=()):
    """A root folder with the CPU topology and control group files given."""
    for cpu, group in enumerate(siblings):
        write(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", group)
    for path, text in dict(files).items():
        write(root / path, text)
    return str(root)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


@pytest.mark.parametrize("siblings, cpus, cores", [
    (["0,2", "1,3", "0,2", "1,3"], range(4), 2), (["0-1", "0-1", "2-3", "2-3"], [0, 1], 1),
    (["0-1", "0-1", "2-3", "2-3"], [1, 2], 2), (["0", "1", "2"], range(3), 3),
    ([], range(5), 5), ([], [7], 1)])  # no topology to read
def test_hyperthreads_and_affinity(tmp_path, siblings, cpus, cores):
    assert threads.usable_cores(machine(tmp_path, siblings), cpus) == cores


V1, V2 = "4:cpu,cpuacct:{}", "0::{}"
GROUPS = "sys/fs/cgroup"


@pytest.mark.parametrize("group, files, quota", [
    (None, {}, math.inf), (V2.format("/"), {}, math.inf), (V2.format("/"), {"cpu.max": "max 100000"}, math.inf),
    (V2.format("/"), {"cpu.max": "250000 100000"}, 2.5), (V2.format("/a/b"), {"a/b/cpu.max": "50000 100000"}, .5),
    (V2.format("/a/b"), {"a/cpu.max": "300000 100000"}, 3),  # the group above
    (V2.format("/on/the/host"), {"cpu.max": "400000 100000"}, 4),  # in a container
    (V2.format("/"), {"cpu.max": "garbage"}, math.inf),
    (V1.format("/job"), {"cpu,cpuacct/job/cpu.cfs_quota_us": "200000",
                         "cpu,cpuacct/job/cpu.cfs_period_us": "100000"}, 2),
    ("5:memory:/x\n" + V1.format("/docker/id"), {"cpu/cpu.cfs_quota_us": "150000",
                                                 "cpu/cpu.cfs_period_us": "100000"}, 1.5),
    (V1.format("/"), {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf)])
def test_control_group_quota(tmp_path, group, files, quota):
    files = {f"{GROUPS}/{name}": text for name, text in files.items()}
    root = machine(tmp_path, files=files if group is None else {"proc/self/cgroup": group, **files})
    assert threads.cpu_quota(root) == quota
    assert threads.usable_cores(root, range(8)) == max(1, min(8, math.floor(quota) if quota < math.inf else 8))


busy = threads.busy


@pytest.fixture(autouse=True)
def idle(monkeypatch):
    """A machine on which nothing else runs."""
    monkeypatch.setattr(threads, "busy", lambda: False)


def test_threads_wait_for_a_short_time_on_a_busy_machine(monkeypatch):
    assert [busy(load) for load in (0, .5, .6, 8)] == [False, False, True, True]
    monkeypatch.setattr(threads, "busy", lambda: True)
    environment = {}
    runtime.set_environment(environment)
    assert environment["GOMP_SPINCOUNT"] == "10000"
    for users in ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}):
        environment = dict(users)
        runtime.set_environment(environment)
        assert environment.get("GOMP_SPINCOUNT") == users.get("GOMP_SPINCOUNT")


def test_environment_is_set_once_and_the_users_stays():
    environment = {}
    runtime.set_environment(environment)
    assert environment == {"OMP_NUM_THREADS": str(threads.usable_cores()), "MXNET_CPU_PARALLEL_SIZE": "2000000000"}
    users = {"OMP_NUM_THREADS": "7", "MXNET_CPU_PARALLEL_SIZE": "5"}
    environment = dict(users)
    runtime.set_environment(environment)
    assert environment == users


@pytest.mark.parametrize("files, memory", [
    ({}, math.inf), ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    2048 kB"}, 2 << 20),
    ({"proc/meminfo": "MemAvailable:", "proc/self/cgroup": V2.format("/")}, math.inf),
    ({"proc/self/cgroup": V2.format("/a"), f"{GROUPS}/a/memory.max": "max", f"{GROUPS}/memory.max": "4096"}, 4096),
    ({"proc/meminfo": "MemAvailable: 1024 kB", "proc/self/cgroup": "5:memory:/x",
      f"{GROUPS}/memory/x/memory.limit_in_bytes": "9223372036854771712"}, 1 << 20),
    ({"proc/self/cgroup": "5:memory:/x\n1:cpu:/", f"{GROUPS}/memory/memory.limit_in_bytes": "8192"}, 8192)])
def test_usable_memory(tmp_path, files, memory):
    assert allocator.usable_memory(machine(tmp_path, files=files)) == memory


# ---- The scripts' own start


def test_the_allocator_takes_less_at_once_where_memory_is_short():
    assert allocator.top_pad(math.inf) == allocator.top_pad(16 << 30) == 256 << 20
    assert allocator.top_pad((16 << 30) - 1) == allocator.top_pad(8 << 30) == 128 << 20
    assert allocator.top_pad(1 << 30) == 16 << 20
    assert allocator.top_pad(1 << 20) == allocator.top_pad(0) == 2 << 20


def test_an_older_glibc_gets_the_threshold_it_takes():
    asked = []
    assert allocator.mmap_threshold(lambda *arguments: asked.append(arguments) or 1) == 1 << 32
    assert allocator.mmap_threshold(lambda *arguments: 0) == 1 << 25
    assert asked == [(-3, 1 << 30)]


ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


@pytest.mark.parametrize("version, users, expected", [
    ((2, 36), {}, ALLOCATOR),
    ((2, 34), {}, {key: ALLOCATOR[key] for key in ALLOCATOR if key != "GLIBC_TUNABLES"}),
    ((2, 36), {**ALLOCATOR, "MALLOC_TOP_PAD_": ""}, {}),
    ((2, 36), {**ALLOCATOR, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0:x=1"}, {}),
    ((2, 36), {"GLIBC_TUNABLES": "glibc.rtld.nns=5:glibc.malloc.top_pad=1", "MALLOC_MMAP_THRESHOLD_": "7"},
     {"GLIBC_TUNABLES": "glibc.rtld.nns=5:glibc.malloc.top_pad=1:glibc.malloc.hugetlb=1",
      "MALLOC_TRIM_THRESHOLD_": "17179869184"})])
def test_the_allocators_settings_leave_the_users_as_they_are(version, users, expected):
    assert allocator.to_set(users, version, math.inf, 1 << 32) == expected


@pytest.mark.parametrize("answer, version", [("glibc 2.36", (2, 36)), ("musl 1.2", None), (ValueError, None)])
def test_other_c_libraries_are_left_alone(monkeypatch, answer, version):
    def confstr(name):
        if answer is ValueError:
            raise ValueError("unrecognized configuration name")
        return answer

    monkeypatch.setattr(os, "confstr", confstr)
    assert allocator.glibc_version() == version
    assert bool(allocator.to_set({}, memory=1, threshold=1)) == bool(version)


@pytest.fixture
def fresh_start(monkeypatch):
    """A process as a script finds it; returns a function that calls tune() and gives what it would execute."""
    monkeypatch.setattr(runtime, "_hands_off", False)
    monkeypatch.delitem(sys.modules, "mxnet", raising=False)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-u", "train.py", "--gpus", ""], raising=False)
    monkeypatch.setattr(sys, "argv", ["train.py", "--gpus", ""])
    monkeypatch.setattr(allocator, "glibc_version", lambda: (2, 36))

    def tune(environment, wanted=True):
        calls = []
        runtime.tune(wanted, environment, lambda *arguments: calls.append(arguments))
        return calls

    return tune


def test_a_script_starts_itself_anew_once_with_everything_set(fresh_start):
    users = {"PATH": "/bin", "MALLOC_TOP_PAD_": "5"}
    ((path, command, environment),) = fresh_start(users)
    assert path == sys.executable and command == [sys.executable, "-u", "train.py", "--gpus", ""]
    made = {"OMP_NUM_THREADS": str(threads.usable_cores()), "MXNET_CPU_PARALLEL_SIZE": "2000000000", **ALLOCATOR}
    made["MALLOC_MMAP_THRESHOLD_"] = str(allocator.mmap_threshold())
    mark = environment.pop(runtime.MARK)
    assert environment == {**made, **users} and users == {"PATH": "/bin", "MALLOC_TOP_PAD_": "5"}
    assert fresh_start({**environment, runtime.MARK: mark}) == []  # the same process again
    lacking = {key: value for key, value in environment.items() if key != "GLIBC_TUNABLES"}
    assert fresh_start({**lacking, runtime.MARK: mark}) == []  # even if that has not helped

    said = runtime.settings_sentence(environment)
    assert said.startswith("process settings: OMP_NUM_THREADS=") and said.endswith(", MALLOC_TOP_PAD_=5")


def test_a_child_of_a_tuned_process_has_nothing_left_to_set(fresh_start):
    ((_, _, environment),) = fresh_start({})
    other = {**environment, runtime.MARK: "1"}
    assert fresh_start(other) == []
    del other["MALLOC_TOP_PAD_"]
    ((_, _, again),) = fresh_start(other)
    assert again == environment


def test_no_start_anew_where_it_would_be_wrong(fresh_start, monkeypatch):
    assert fresh_start({}, wanted=False) == []
    assert fresh_start({})
    monkeypatch.setattr(sys, "argv", ["-"])  # the program came from standard input
    assert fresh_start({}) == []
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setitem(sys.modules, "mxnet", None)
    assert fresh_start({}) == []


@pytest.mark.skipif(not hasattr(sys, "orig_argv"), reason="this Python does not keep its command line to compare with")
def test_python_3_8_and_3_9_read_the_command_line_from_the_system(monkeypatch):
    expected = [sys.executable, *sys.orig_argv[1:]]
    monkeypatch.setattr(sys, "orig_argv", [])
    assert runtime._command() == expected


def test_a_start_anew_that_fails_goes_on(fresh_start):
    def refuse(*arguments):
        raise OSError(7, "Argument list too long")

    runtime.tune(True, {}, refuse)
    assert runtime.settings_sentence({}).endswith("MALLOC_TRIM_THRESHOLD_ not set, MALLOC_TOP_PAD_ not set")


def test_the_sentence_says_that_everything_was_left_alone(fresh_start):
    fresh_start({}, wanted=False)
    assert runtime.settings_sentence({}).startswith("process settings (--no-tune: left alone): ")


PROGRAM = """
import os, sys
from support import runtime
if __name__ == "__main__":
    print("started", flush=True)
    runtime.tune("--no-tune" not in sys.argv)
    runtime.set_environment() if "--no-tune" not in sys.argv else None
    inherited = dict(line.partition("=")[::2] for line in open("/proc/self/environ").read().split("\\0") if line)
    print([os.getpid(), sys.argv[1:], sys.stdin.read(), sys.flags.optimize, runtime.settings(inherited)])
    keep = bytearray(64 << 20)
    for at in range(0, len(keep), 4096):
        keep[at] = 1
    huge = sum(int(line.split()[1]) for line in open("/proc/self/smaps") if line.startswith("AnonHugePages"))
    print(huge)
    sys.exit(7)
"""
needs_glibc = pytest.mark.skipif(not allocator.glibc_version(), reason="this system has another C library than glibc")


def run_program(folder, *command, **users):
    """Run a Python command with PROGRAM in folder/program.py; its process number, lines of output and exit status."""
    (folder / "program.py").write_text(PROGRAM)
    environment = {key: value for key, value in os.environ.items()
                   if key not in (*runtime.THREADS, *allocator.NAMES, runtime.MARK)}
    environment.update(PYTHONPATH=str(ROOT), **users)
    with subprocess.Popen([sys.executable, *command], cwd=folder, env=environment, text=True, stdin=-1, stdout=-1,
                          stderr=-1) as process:
        out, error = process.communicate("from standard input", timeout=60)
    assert error == ""
    return process.pid, out.splitlines(), process.returncode


@needs_glibc
@pytest.mark.parametrize("start", [["program.py"], ["-O", "-m", "program"], ["-c", "exec(open('program.py').read())"]])
def test_the_process_itself_has_the_settings(tmp_path, start):
    pid, lines, status = run_program(tmp_path, *start, "--gpus", "", "ünï")
    assert lines[:2] == ["started", "started"] and status == 7  # twice, and no more
    found = ast.literal_eval(lines[2])
    assert found[:4] == [pid, ["--gpus", "", "ünï"], "from standard input", int("-O" in start)]
    assert found[4].pop("OMP_NUM_THREADS") == str(threads.usable_cores())
    expected = allocator.to_set({})
    found[4].pop("GOMP_SPINCOUNT")  # depends on what else runs
    assert found[4] == {"MXNET_CPU_PARALLEL_SIZE": "2000000000", **dict.fromkeys(allocator.NAMES), **expected,
                        "MALLOC_TOP_PAD_": found[4]["MALLOC_TOP_PAD_"]}  # memory comes and goes


@needs_glibc
def test_a_program_may_leave_everything_as_it_is_and_the_users_settings_stay(tmp_path):
    pid, lines, status = run_program(tmp_path, "program.py", "--no-tune", MALLOC_TOP_PAD_="77")
    assert len(lines) == 3 and status == 7
    assert ast.literal_eval(lines[1])[4] == {**dict.fromkeys(runtime.THREADS + allocator.NAMES),
                                             "MALLOC_TOP_PAD_": "77"}
    _, lines, _ = run_program(tmp_path, "program.py", MALLOC_TOP_PAD_="77", OMP_NUM_THREADS="3")
    found = ast.literal_eval(lines[2])[4]
    assert (found["MALLOC_TOP_PAD_"], found["OMP_NUM_THREADS"]) == ("77", "3")
    assert found["MALLOC_TRIM_THRESHOLD_"] == "17179869184"


@pytest.mark.skipif("[madvise]" not in system.read("/sys/kernel/mm/transparent_hugepage/enabled")
                    or (allocator.glibc_version() or ()) < allocator.HUGE_PAGES_SINCE,
                    reason="this system gives out huge pages always, never, or to no program that asks")
def test_arrays_lie_in_huge_pages(tmp_path):
    tuned, plain = (int(run_program(tmp_path, "program.py", *flags)[1][-1]) for flags in ([], ["--no-tune"]))
    assert plain < 32 << 10 < tuned  # KiB, of 64 MiB


@needs_glibc
def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    (tmp_path / "program.py").write_text(
        "import signal\nfrom support import runtime\nruntime.tune()\n"
        "print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN, signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)")
    done = subprocess.run(["sh", "-c", 'trap "" INT HUP; exec "$0" program.py', sys.executable], cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.stdout == "True True\n"


@needs_glibc
def test_importing_the_library_starts_nothing_anew():
    code = "import os, sys, support.runtime, engine.cli.flags; print(os.getpid())"
    environment = {key: value for key, value in os.environ.items() if key not in allocator.NAMES}
    code += "; import backend.gluon.program; print(os.environ.get('MALLOC_TOP_PAD_'), os.environ.get('ATAC_TUNED'))"
    environment.pop(runtime.MARK, None)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[1:] == ["None None"], done.stderr


# ---- System libraries


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux wheels use the system's libraries")
def test_missing_libraries_are_named_with_their_packages():
    system.check_libraries(loader())
    names = [name for name, _, _ in system.MXNET_LIBRARIES]
    with pytest.raises(InputError) as raised:
        system.check_libraries(loader(missing=names))
    for word in [*names, "apt-get install libgomp1", "dnf install libgomp"]:
        assert word in sentence(raised)
    with pytest.raises(InputError) as raised:
        system.check_libraries(loader(missing=["libgomp.so.1"]))
    assert "quadmath" not in sentence(raised)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux wheels use the system's libraries")
def test_opencv_libraries_only_warn():
    assert system.check_opencv(loader()) is None
    warning = system.check_opencv(loader(missing=["libGL.so.1"]))
    assert "libGL.so.1" in warning and "apt-get install libgl1" in warning and "glib" not in warning


# ---- CUDA

ORDER = [
    "libcuda.so.1", "libcudart.so.11.0", "libnvrtc.so.11.2", "libnvToolsExt.so.1", "libcublasLt.so.11",
    "libcublas.so.11", "libcufft.so.10", "libcurand.so.10", "libcusparse.so.11",
    "libcusolver.so.11", "libcudnn.so.8", "libnccl.so.2",
]  # fmt: skip


@pytest.fixture
def wheels(tmp_path):
    """A site-packages folder that holds the CUDA wheels' files, all empty."""
    for name, package in cuda.CUDA_LIBRARIES:
        write(tmp_path / "site" / "nvidia" / package / "lib" / name, "")
    return tmp_path / "site"


@pytest.fixture
def no_driver_answer(monkeypatch):
    monkeypatch.setattr(cuda, "ask_driver", lambda driver: (12040, []))


def test_cuda_is_loaded_from_the_wheels_in_order(wheels, no_driver_answer):
    log = []
    cuda.load_cuda(["/nowhere", str(wheels)], loader(log=log))
    assert [os.path.basename(name) for name in log] == ORDER
    assert all(name.startswith(f"{wheels}{os.sep}nvidia") for name in log[1:])


def test_cuda_without_wheels_is_taken_from_the_system(no_driver_answer):
    log = []
    cuda.load_cuda([], loader(log=log))
    assert log == ORDER


def test_missing_driver(wheels):
    with pytest.raises(InputError) as raised:
        cuda.load_cuda([str(wheels)], loader(missing=["libcuda.so.1"]))
    assert "NVIDIA driver" in sentence(raised) and "bash scripts/setup.sh --cpu" in sentence(raised)


def test_missing_or_broken_wheel_is_named(wheels, no_driver_answer):
    for name, package in cuda.CUDA_LIBRARIES:
        wheel, path = f"nvidia-{package.replace('_', '-')}-cu11", wheels / "nvidia" / package / "lib" / name
        with pytest.raises(InputError) as raised:
            cuda.load_cuda([str(wheels)], loader(broken=[name]))
        said = sentence(raised)
        assert f"{name}, which" in said and "file too short" in said and wheel in said
        path.unlink()
        with pytest.raises(InputError) as raised:
            cuda.load_cuda([str(wheels)], loader(missing=[name]))
        said = sentence(raised)
        assert said.startswith(f"{name}, which") and f"the wheel {wheel} holds it" in said
        assert "bash scripts/setup.sh --gpu" in said and "requirements.txt" in said
        write(path, "")


def test_usable_and_unusable_gpus(wheels, monkeypatch):
    for capability in ((5, 0), (6, 1), (7, 5), (8, 9)):
        assert cuda.gpu_fault(12040, [("GPU", 7, 5), ("Other", *capability)]) is None
    for capability in ((3, 7), (9, 0), (12, 0)):
        answer = 12040, [("GPU", 7, 5), ("Other", *capability)]
        monkeypatch.setattr(cuda, "ask_driver", lambda driver: answer)  # noqa: B023
        with pytest.raises(InputError) as raised:
            cuda.load_cuda([str(wheels)], loader())
        assert "Other has compute capability {}.{}".format(*capability) in sentence(raised)
        assert "bash scripts/setup.sh --cpu" in sentence(raised) and "CUDA_VISIBLE_DEVICES" in sentence(raised)


def test_old_driver():
    assert "CUDA 10.2" in cuda.gpu_fault(10020, [("GPU", 7, 5)])
    assert cuda.gpu_fault(11000, [("GPU", 7, 5)]) is None
    assert cuda.gpu_fault(10020, []) is None


@pytest.mark.parametrize("version, fusion", [(11040, "0"), (11080, None), (12040, None)])
def test_drivers_that_cannot_take_newer_ptx_get_no_fusion_at_run_time(wheels, monkeypatch, version, fusion):
    monkeypatch.setenv("MXNET_USE_FUSION", "kept for monkeypatch to restore")
    monkeypatch.delenv("MXNET_USE_FUSION")
    monkeypatch.setattr(cuda, "ask_driver", lambda driver: (version, [("GPU", 7, 5)]))
    cuda.load_cuda([str(wheels)], loader())
    assert os.environ.get("MXNET_USE_FUSION") == fusion


@pytest.fixture(scope="session")
def stub(tmp_path_factory):
    """A folder with a libcuda.so.1 that shows the GPUs named in STUB_CUDA_GPUS."""
    if not (shutil.which("gcc") and shutil.which("bash")):
        pytest.skip("gcc, which builds the stub driver, is not installed")
    folder = tmp_path_factory.mktemp("driver")
    subprocess.run(["bash", ROOT / "tests/tools/make_stub_libcuda.sh", folder], check=True)
    return folder


@pytest.mark.parametrize("gpus, expected", [
    ("", []), ("8.6,9.0", [("Stub GPU 0", 8, 6), ("Stub GPU 1", 9, 0)])])
def test_capabilities_are_read_from_the_driver(stub, monkeypatch, gpus, expected):
    monkeypatch.setenv("STUB_CUDA_GPUS", gpus)
    monkeypatch.setenv("STUB_CUDA_VERSION", "11080")
    assert cuda.gpu_capabilities(lambda name: system.load_library(str(stub / name))) == expected
    assert cuda.ask_driver(system.load_library(str(stub / "libcuda.so.1"))) == (11080, expected)


def test_no_driver_and_no_answers_mean_no_gpus():
    assert cuda.gpu_capabilities(loader(missing=["libcuda.so.1"])) == []
    assert cuda.ask_driver(object()) == (0, [])


# ---- The import hook


def test_hook_prepares_at_loading_only_and_raises_import_errors(tmp_path, monkeypatch):
    write(tmp_path / "mxnet.py", "loaded = True")
    calls = []
    monkeypatch.setattr(runtime, "prepare", lambda: calls.append(1))
    spec = import_hook.find_spec("mxnet", [str(tmp_path)])
    assert calls == []
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert calls == [1] and module.loaded

    def refuse():
        raise InputError("no driver")

    monkeypatch.setattr(runtime, "prepare", refuse)
    with pytest.raises(ImportError, match="no driver"):
        spec.loader.exec_module(module)
    assert import_hook.find_spec("mxnet", [str(tmp_path / "empty")]) is None


def test_an_installed_hook_prepares_once_and_says_that_mxnet_is_missing(tmp_path):
    """Also beside the .pth file's hook, and found from within prepare() itself."""
    code = ("import sys\nfrom support import import_hook, python\n"
            "import_hook.install()\nimport_hook.install()\n"
            "print(sys.meta_path.count(import_hook.Finder), import_hook.Finder.find_spec('numpy'))\n"
            "checked, python.check_version = python.check_version, lambda: print('prepares') or checked()\n"
            "try:\n    import mxnet\nexcept ImportError as error:\n    print(error)")
    for options, said in (([], "prepares\n"), (["-S"], "prepares\nMXNet is not installed for ")):
        done = subprocess.run([sys.executable, *options, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.stdout.startswith(f"1 None\n{said}") and done.stdout.count("prepares") == 1, done.stderr


# ---- scripts/setup.sh


@pytest.fixture
def checkout(tmp_path):
    return make_checkout(tmp_path)


def make_checkout(parent):
    """A copy of what setup.sh needs, in a path with a space, so that the real .venv stays out of it."""
    folder = parent / "a checkout"
    folder.mkdir()
    for name in ("support", "scripts", "ops"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "built"))
    for path in ROOT.glob("requirements*.txt"):
        shutil.copy(path, folder)
    return folder


def setup(checkout, *flags, **environment):
    """Run setup.sh, without a package index and, unless CXX says otherwise, without a compiler."""
    environment = {**os.environ, "PYTHON": sys.executable, "PIP_NO_INDEX": "1", "CXX": "no-compiler", **environment}
    for name in ("PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        environment.pop(name, None)
    command = ["bash", str(checkout / "scripts/setup.sh"), *flags]
    done = subprocess.run(command, env=environment, cwd="/", text=True, stdout=-1, stderr=-1, timeout=100)
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.mark.parametrize("flags, gpus, requirements, why", [
    ([], "5.0,8.6", "requirements.txt", "Stub GPU 1 (8.6)"),
    ([], "9.0", "requirements-cpu.txt", "capability 9.0, but mxnet-cu112 1.9.1 holds code for sm_50 to sm_86 only"),
    ([], "8.6,9.0", "requirements-cpu.txt", "Stub GPU 1 has compute capability 9.0"),
    ([], "", "requirements-cpu.txt", "shows no GPU"), (["--cpu"], "7.5", "requirements-cpu.txt", "--cpu"),
    (["--gpu"], "", "requirements.txt", "--gpu"), (["--torch"], "9.0", "requirements-torch.txt", "--torch"),
    ([], "9.0", "requirements-cpu.txt", "PyTorch can use it: run `bash scripts/setup.sh --torch`"),
    (["--cpu", "--torch"], "9.0", "requirements-cpu.txt", "and PyTorch (requirements-torch.txt)")])
def test_setup_chooses_the_build(checkout, stub, flags, gpus, requirements, why):
    done = setup(checkout, "--dry-run", *flags, LD_LIBRARY_PATH=str(stub), STUB_CUDA_GPUS=gpus)
    assert done.returncode == 0 and f"({requirements})" in done.stdout and why in done.stdout
    assert not (checkout / ".venv").exists()


def test_where_mxnet_has_no_build_pytorch_takes_its_place():
    apple = {"system": lambda: "Darwin", "machine": lambda: "arm64"}
    assert cuda.choose_build("auto", **apple) == ("torch", "MXNet 1.9.1 has no build for Darwin on arm64")
    assert cuda.choose_build("torch", **apple)[0] == "torch"
    for mode in ("cpu", "gpu"):
        with pytest.raises(InputError, match="no build for Darwin on arm64: run `bash scripts/setup.sh --torch`"):
            cuda.choose_build(mode, **apple)


def test_setup_refuses_a_python_without_a_pytorch(checkout, tmp_path):
    done = setup(checkout, "--torch", PYTHON=str(fake(
        tmp_path / "old", 'case "$*" in *choose*) echo torch;; *) echo 3.9;; esac')))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "PyTorch 2.13 needs Python 3.10 or newer" in done.stderr


def test_setup_refuses_gpus_that_cannot_run(checkout, stub):
    done = setup(checkout, "--dry-run", "--gpu", LD_LIBRARY_PATH=str(stub), STUB_CUDA_GPUS="9.0")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "scripts/setup.sh --cpu" in done.stderr


def test_setup_flags(checkout):
    done = setup(checkout, "--tpu")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "'--tpu'" in done.stderr
    done = setup(checkout, "--help")
    assert done.returncode == 0 and "--dry-run" in done.stdout


def fake(program, body):
    """A program that does the same whatever it is asked, as a Python that says its version."""
    write(program, f"#!/bin/sh\n{body}")
    program.chmod(0o755)
    return program


def tools(folder, *names):
    """A folder for a PATH on which there are the programs that setup.sh calls, and no others."""
    folder.mkdir(exist_ok=True)
    for tool in ("bash", "cat", "grep", "ls", "mkdir", "readlink", "rm", "sed", "sh", "tail", "touch", *names):
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


def test_setup_wants_a_python_that_fits(checkout, tmp_path):
    done = setup(checkout, PYTHON=str(fake(tmp_path / "old", "echo 3.7")))
    assert done.returncode == 1 and "old is Python 3.7, and this project needs Python 3.8 or newer" in done.stderr
    done = setup(checkout, PYTHON="no-such-python")
    assert done.returncode == 1 and "PYTHON=no-such-python does not run" in done.stderr
    path = tools(tmp_path / "bin")
    fake(path / "python3", "echo 3.6")
    done = setup(checkout, PYTHON="", PATH=str(path))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "no Python 3.8 or newer found (python3 is 3.6)" in done.stderr and "`uv python install 3.11`" in done.stderr


def test_setup_tries_a_newer_python_with_a_warning(checkout, tmp_path):
    version = "3.100"
    path = tools(tmp_path / "bin")
    fake(path / "python3", f"echo {version}")
    done = setup(checkout, "--dry-run", PYTHON="", PATH=str(path))
    assert done.returncode == 0 and f"for Python {version}: " in done.stdout
    assert f"warning: nobody has tried this project with Python {version} yet" in done.stdout
    fake(path / "python3.14", "echo 3.14")  # one that was tried comes first
    done = setup(checkout, "--dry-run", PYTHON="", PATH=str(path))
    assert "for Python 3.14: " in done.stdout and "warning" not in done.stdout


def test_setup_has_uv_bring_a_python_where_none_fits(checkout, tmp_path):
    path = tools(tmp_path / "bin")
    fake(path / "uv", f"echo $* >> '{tmp_path}/asked'; [ $2 = install ] || echo '{sys.executable}'")
    done = setup(checkout, "--dry-run", PYTHON="", PATH=str(path))
    assert (done.returncode, done.stderr) == (0, "") and "uv brings Python 3.11" in done.stdout
    assert not (tmp_path / "asked").exists()
    done = setup(checkout, PYTHON="", PATH=str(path))  # without an index it comes no further than this
    assert f"making .venv with Python {sys.version_info[0]}.{sys.version_info[1]}\n" in done.stdout
    assert (tmp_path / "asked").read_text().splitlines() == ["python install 3.11", "python find --system 3.11"]
    fake(path / "uv", "echo no network >&2; exit 2")
    shutil.rmtree(checkout / ".venv")
    done = setup(checkout, PYTHON="", PATH=str(path))
    assert (done.returncode, done.stderr) == (1, "error: `uv python install 3.11` failed: no network\n")


def test_setup_leaves_a_foreign_venv_alone(checkout):
    write(checkout / ".venv/precious", "mine")
    done = setup(checkout)
    assert done.returncode == 1 and "this script did not make it" in done.stderr
    assert (checkout / ".venv/precious").exists()


Made = namedtuple("Made", "checkout python tried done")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkout that setup.sh has installed offline: its .venv borrows the packages that run this test.

    python is the name of a Python whose virtual environments do so; tried is what setup.sh did with one whose
    environments are empty, done what it did after that.
    """
    if python.installed_build() != python.CPU_BUILD:
        pytest.skip("these tests do not run with the CPU build")
    folder = tmp_path_factory.mktemp("installed")
    packages = Path(sys.modules["pytest"].__file__).resolve().parent.parent
    write(folder / "borrower", f"""#!/bin/sh
set -e
'{sys.executable}' "$@"
if [ "$1 $2" = '-m venv' ]; then
    echo "import site; site.addsitedir('{packages}')" > "$(echo "$3"/lib/python3*/site-packages)/borrowed.pth"
fi""")
    (folder / "borrower").chmod(0o755)
    checkout, borrower = make_checkout(folder), str(folder / "borrower")
    tried = setup(checkout)
    assert not (checkout / ".venv/setup-stamp").exists()
    return Made(checkout, borrower, tried, setup(checkout, PYTHON=borrower))


def test_setup_without_an_index_says_so(made):
    assert made.tried.returncode == 1
    assert re.fullmatch("error: pip could not install requirements-cpu.txt: .*\n", made.tried.stderr)


def test_setup_makes_venv_anew_from_what_is_left(made):
    assert made.done.returncode == 0, made.done.stdout + made.done.stderr
    assert "making .venv" in made.done.stdout and made.done.stdout.endswith("next: bash scripts/quickstart.sh\n")


def test_a_bare_import_of_mxnet_works_in_venv(made):
    def python(code):
        environment = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "PYTHONPATH")}
        command = [str(made.checkout / ".venv/bin/python"), "-c", code]
        done = subprocess.run(command, cwd="/", env=environment, text=True, stdout=-1, stderr=-1)
        return done.stdout.strip() + done.stderr.strip()

    look = "import importlib.util, os; importlib.util.find_spec('mxnet')"
    show = "print(os.environ.get('OMP_NUM_THREADS'))"
    assert python(f"{look}; {show}; import mxnet; {show}").split() == ["None", str(threads.usable_cores())]
    hook = made.checkout / "support/import_hook.py"
    hook.rename(made.checkout / "hidden")
    assert python("print('silent')") == "silent"  # the repository has moved
    (made.checkout / "hidden").rename(hook)


def test_a_second_setup_changes_nothing(made):
    stamp = made.checkout / ".venv/setup-stamp"
    before = stamp.stat().st_mtime_ns
    done = setup(made.checkout, "--quiet", PYTHON="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert stamp.stat().st_mtime_ns == before


PLAIN = "warning: training and evaluation use the plain Gluon operators, which are slower: "


def test_setup_goes_on_without_a_compiler(made, tmp_path):
    done = setup(made.checkout, PYTHON="", CXX="", PATH=str(tools(tmp_path)))
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("warning: train")]
    assert line.startswith(f"{PLAIN}there is no C++ compiler (g++ not found)") and "apt-get install g++" in line
    assert re.search("^ready, nothing to do: .*; plain Gluon operators$", done.stdout, re.MULTILINE)


def test_setup_goes_on_when_the_operators_cannot_be_compiled(made, tmp_path):
    write(tmp_path / "c++", "#!/bin/sh\necho operators.cc:1: error: too old >&2\nexit 1")
    (tmp_path / "c++").chmod(0o755)
    done = setup(made.checkout, PYTHON="", CXX=str(tmp_path / "c++"))
    assert (done.returncode, done.stderr) == (0, "")
    assert PLAIN in done.stdout and "operators.cc:1: error: too old\n" in done.stdout
    assert re.search("^ready: .*; plain Gluon operators$", done.stdout, re.MULTILINE)
    assert not list((made.checkout / "ops/built").iterdir())


@pytest.mark.skipif(not build.sound(build.library()), reason="the fused operators, which stand in for what a compiler "
                    "writes here, are not built (python -m ops.build)")
def test_setup_compiles_the_operators_once_and_again_when_their_sources_change(made, tmp_path):
    calls = tmp_path / "calls"
    write(tmp_path / "c++", f"""#!/bin/sh
echo >> '{calls}'
while [ "$1" != -o ]; do shift; done
cp '{build.library()}' "$2\"""")
    (tmp_path / "c++").chmod(0o755)

    def compiled(*flags):
        done = setup(made.checkout, *flags, PYTHON="", CXX=str(tmp_path / "c++"))
        assert (done.returncode, done.stderr) == (0, "") and PLAIN not in done.stdout
        return done.stdout, len(calls.read_text().splitlines()), os.listdir(made.checkout / "ops/built")

    talk, count, first = compiled("--quiet")
    assert talk.startswith("compiling the fused operators") and count == 1 and first == [build.library().name]
    talk, count, _ = compiled()
    assert re.search("^ready, nothing to do: .*; fused operators$", talk, re.MULTILINE) and count == 1
    with open(made.checkout / "ops/src/operators.cc", "a", encoding="utf-8") as file:
        file.write("\n")
    talk, count, second = compiled()
    assert "compiling the fused operators" in talk and count == 2 and len(second) == 1 and second != first
    shutil.copy(ROOT / "ops/src/operators.cc", made.checkout / "ops/src/operators.cc")
    shutil.rmtree(made.checkout / "ops/built")


def test_setup_repairs_venv(made):
    venv = made.checkout / ".venv"
    (venv / "lib").joinpath(f"python3.{sys.version_info[1]}", "site-packages/borrowed.pth").unlink()
    done = setup(made.checkout, PYTHON=made.python)
    assert done.returncode == 0 and "repairing .venv" in done.stdout and (venv / "setup-stamp").exists()


# ---- README.md


@pytest.mark.parametrize("page, names", [
    ("README.md", {"get_model", "replace_activations"}), ("docs/MODELS.md", {"fuse", "inference"}),
    ("docs/PYTORCH.md", {"hub", "to_torch", "from_torch"})])
def test_the_python_of_the_pages_runs(page, names):
    if "PYTORCH" in page:
        pytest.importorskip("torch", reason="PyTorch is not installed")
    text = (ROOT / page).read_text(encoding="utf-8")
    code = "\n".join(re.findall("^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert names <= set(re.findall(r"\w+", code))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- The scripts on a Python without packages


@pytest.mark.parametrize("command", [["train_cifar.py"], ["evaluate.py", "--params", "x"], ["-m", "benchmarks"]])
def test_scripts_without_packages_end_in_one_sentence(command):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-S", *command], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and done.stdout == ""
    assert "MXNet is not installed" in done.stderr and "bash scripts/setup.sh" in done.stderr


# A stray role of MXNet's parameter server.

@pytest.mark.parametrize("role", ["server", "scheduler"])
def test_a_stray_server_role_is_refused_before_mxnet_loads(role):
    done = subprocess.run([sys.executable, "evaluate.py", "--pretrained", "atac_resnet20_v2_b1_cifar10"], cwd=ROOT,
                          env={**os.environ, "DMLC_ROLE": role}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"evaluate.py: DMLC_ROLE={role} is set in the environment")


def test_a_worker_may_load_mxnet():
    python.check_role({"DMLC_ROLE": "worker"})
    python.check_role({})
