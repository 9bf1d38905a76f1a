"""A process that has imported everything and starts trainings by forking: hundreds of starts, of which none imports.

    python -m tests.faults.starter      (a line of JSON in, a line of JSON out)

What it starts dies with it. A fork of it ends with the files of a process that began from nothing; tests.faults.killed
holds every first start of a setting to that.
"""
import atexit
import contextlib
import ctypes
import fcntl
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import termios
import time
import traceback

from . import suite  # isort: skip - finds the project
from support import runtime

ROOT = suite.ROOT
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
TOLD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PATIENCE = 120  # seconds for a small training on a busy machine
_running = []


class Starter:
    """The other end: starts `module:function` in processes of their own."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.starter"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=ROOT if "." in __package__ else ROOT / "tests", start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1",
                 "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))})
        self.ask(ready=True)

    def ask(self, **question):
        print(json.dumps(question), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the starter is gone ({self.process.wait()})")
        return json.loads(answer)

    def start(self, call, *arguments, folder=".", output=os.devnull, tty=None, file_size=None):
        """Call `module:function`, a script's main() with the arguments as its flags, any other with them.

        output: file or pipe that its two streams go to; tty: name of the terminal that becomes its own;
        file_size: bytes beyond which no file may grow. Returns the process.
        """
        answer = self.ask(call=call, arguments=[str(word) if call.endswith(":main") else word for word in arguments],
                          folder=str(folder), output=str(output), tty=tty, file_size=file_size)
        return Child(self, answer["pid"])

    def run(self, *call, **how):
        """Start and wait; the exit status."""
        return self.start(*call, **how).wait()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Child:
    """A process that the starter has made."""

    def __init__(self, starter, number):
        self.starter, self.number, self.status = starter, number, None

    def ended(self):
        """Whether it has; then `status` is as of subprocess.Popen: negative for a signal."""
        if self.status is None:
            self.status = self.starter.ask(poll=self.number)["status"]
        return self.status is not None

    def signal(self, number):
        if not self.ended():
            os.kill(self.number, number)

    def wait(self, patience=PATIENCE):
        """Its status, or None: killed because it did not end in time."""
        give_up = time.monotonic() + patience
        while not self.ended():
            if time.monotonic() > give_up:
                self.kill()
                return None
            time.sleep(.005)
        return self.status

    def kill(self):
        self.signal(signal.SIGKILL)
        while not self.ended():
            time.sleep(.001)


def shared():
    """The starter of this process, made when it is first asked for."""
    if not _running:
        _running.append(Starter())
        atexit.register(_running[0].close)
    return _running[0]


def hear():
    """Take the signals as a process at a terminal does: one that a shell has put into the background ignores some."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def main():
    hear()
    runtime.prepare()
    import importlib.util  # noqa: F401 - all that a training imports late, so that its forks need not

    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot
    import tiny  # noqa: F401

    import backend.gluon  # noqa: F401
    import engine.cli.start  # noqa: F401
    import ops.nag  # noqa: F401
    import reproduce.publish  # noqa: F401
    import train_cifar  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    own, started = os.getpid(), set()
    for line in sys.stdin:
        question = json.loads(line)
        if "call" in question:
            sys.stdout.flush()
            signal.pthread_sigmask(signal.SIG_BLOCK, TOLD)  # until the script is under way
            number = os.fork()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD if number else ())
            if not number:
                answers.close()
                _child(own, **question)
            started.add(number)
            answer = {"pid": number}
        elif "poll" in question:
            number, status = os.waitpid(question["poll"], os.WNOHANG)
            answer = {"status": None}
            if number:
                started.discard(number)
                answer = {"status": -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)}
        else:
            answer = {"ready": True}
        print(json.dumps(answer), file=answers, flush=True)
    for number in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def _child(parent, call, arguments, folder, output, tty, file_size):
    """What the fork does. Ends as the interpreter would end a script."""
    status = 70
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if tty:
            os.setsid()
            target = os.open(tty, os.O_RDWR)
            fcntl.ioctl(target, termios.TIOCSCTTY, 0)
        else:
            target = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for stream in (1, 2):
            os.dup2(target, stream)
        os.close(target)
        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
        module, _, function = call.partition(":")
        called = getattr(importlib.import_module(module), function)
        if function == "main":
            status = _as_script(module, called, arguments)
        else:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD)
            status = called(*arguments) or 0
    except SystemExit as end:
        status = end.code or 0
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:  # what the interpreter would show
        traceback.print_exc()
        status = 1
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)


def _as_script(module, main, arguments):
    from engine.cli.program import run_script

    def started():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD)
        return main()

    sys.argv = [f"{module}.py", *arguments]
    return run_script(started)


if __name__ == "__main__":
    main()
