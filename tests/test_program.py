"""How a program ends: its status, its sentence, its streams and Ctrl-C."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.cli.program import run_script
from support.errors import InputError, out_of_memory

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("raised, status", [
    (InputError("one sentence"), "script.py: one sentence"), (KeyboardInterrupt(), 130), (None, 3)])
def test_a_script_ends_with_its_status_or_a_sentence(monkeypatch, capsys, raised, status):
    def main():
        if raised is not None:
            raise raised
        return 3

    monkeypatch.setattr(sys, "argv", ["/some/where/script.py"])
    with pytest.raises(SystemExit) as caught:
        run_script(main)
    assert caught.value.code == status and capsys.readouterr().err == ""


def printing(stdout):
    """A script that prints much to stdout, which is then closed if it is a pipe; returns status and standard error."""
    code = "from engine.cli.program import run_script\ndef main():\n    print('x' * 10**6)\nrun_script(main)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE,
                          text=True) as process:
        if process.stdout:
            process.stdout.close()
        return process.wait(60), process.stderr.read()


def test_a_reader_that_has_left_ends_a_script_silently():
    assert printing(subprocess.PIPE) == (1, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_output_that_finds_no_room_is_one_sentence():
    with open("/dev/full", "w") as full:
        status, error = printing(full)
    assert status == 1 and error == "-c: the output cannot be written: No space left on device\n"


def test_a_path_that_is_no_text_can_be_printed():
    code = "from engine.cli.program import run_script\nrun_script(lambda: print('\\udcff'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\udcff\n", "")


def test_an_error_of_the_program_is_not_hidden():
    def main():
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        run_script(main)


SWALLOWING = """
import sys, time
from engine.cli.program import clean_up_at_interrupt, run_script

def main():
    if sys.argv[1:]:
        clean_up_at_interrupt()
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        if sys.argv[1:]:
            print("cleaned up", flush=True)
            raise
    print("ran on", flush=True)  # as after an import that swallows what it meets

run_script(main)
"""


@pytest.mark.parametrize("arguments, said, status", [([], "", -signal.SIGINT), (["clean"], "cleaned up\n", 130)])
def test_an_interrupt_cannot_be_swallowed(arguments, said, status):
    process = subprocess.Popen(
        [sys.executable, "-c", SWALLOWING, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a background job ignores it
    with process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert (process.stdout.read(), process.stderr.read(), process.wait(60)) == (said, "", status)


def test_an_interrupt_that_is_ignored_stays_ignored_and_handlers_come_back(monkeypatch):
    seen = []
    before = signal.getsignal(signal.SIGINT)
    try:
        for handler in (signal.default_int_handler, signal.SIG_IGN):
            signal.signal(signal.SIGINT, handler)
            with pytest.raises(SystemExit):
                run_script(lambda: seen.append(signal.getsignal(signal.SIGINT)))
            assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIG_DFL, signal.SIG_IGN]


SHORT = """
import atexit, sys
from engine.cli.program import clean_up_at_interrupt, run_script
from support.errors import OutOfMemory

class MXNetError(RuntimeError):
    pass

def main():
    atexit.register(print, "at the end")  # where MXNet would wait for ever
    print("before")
    raise eval(sys.argv[1])

run_script(main)
"""


@pytest.mark.parametrize("error, sentence", [
    ("MemoryError()", "there is not enough memory (none is left): "),
    ("MXNetError('Traceback:\\n File\\nMXNetError: Failed to allocate CPU Memory')",
     "there is not enough memory (MXNetError: Failed to allocate CPU Memory): "),
    ("MXNetError('std: :bad_alloc')", "there is not enough memory (std: :bad_alloc): "),
    ("RuntimeError(\"can't start new thread\")", "there is not enough memory (can't start new thread): "),
    ("ImportError('numpy:\\nlib.so: failed to map segment from shared object\\n')",
     "there is not enough memory (lib.so: failed to map segment from shared object): "),
    ("OSError(12, 'Cannot allocate memory')", "there is not enough memory (none is left): "),
    ("OutOfMemory('all is said')", "all is said\n")])
def test_a_lack_of_memory_is_one_sentence_and_nothing_waits_for_mxnet(error, sentence):
    done = subprocess.run([sys.executable, "-c", SHORT, error], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "before\n")
    assert done.stderr.startswith(f"-c: {sentence}") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("error", [KeyError("out"), RuntimeError("a defect"), BlockingIOError(11, "try again")])
def test_other_errors_are_no_lack_of_memory(error):
    assert out_of_memory(error) is None and out_of_memory(InputError("x is out of memory")) is None


CLOSED = """
import os, sys
from engine.cli.program import clean_up_at_interrupt, run_script

def main():
    print("x")
    print("x", file=sys.stderr)
    with open(sys.argv[1], "w") as file:
        file.write(str(os.open(os.devnull, os.O_RDONLY)))

run_script(main)
"""


def test_closed_streams_are_the_null_device(tmp_path):
    done = subprocess.run(["bash", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "x", sys.executable, "-c", CLOSED,
                           tmp_path / "out"], cwd=ROOT)
    assert done.returncode == 0 and int((tmp_path / "out").read_text()) > 2
