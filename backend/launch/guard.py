"""The guard of one member: runs it on its machine, passes signals on to it, reports its end and ends it."""
import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import time

from support import threads
from support.processes import at_parents_death

MARK = "@member "  # before each report on standard error
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Seconds: without a word over ssh until the launcher is taken for dead; from then on until the member is ended.
SILENCE, ORPHAN_GRACE = 60, 5


def _report(**event):
    with contextlib.suppress(OSError):
        os.write(2, f"{MARK}{json.dumps(event)}\n".encode())


def _free_port(address):
    """A free port at an address of this machine; OSError if it is another's."""
    with socket.socket() as listener:
        listener.bind((address, 0))
        return listener.getsockname()[1]


def member_environment(order, environment):
    """The environment of a member: without stray DMLC_ variables and PORT, with the launcher's."""
    made = {name: value for name, value in environment.items() if not name.startswith("DMLC_") and name != "PORT"}
    made.update(order["environment"])
    made.setdefault("PYTHONUNBUFFERED", "1")  # lines come when they are written
    if not made.get("OMP_NUM_THREADS"):
        made["OMP_NUM_THREADS"] = str(max(1, threads.usable_cores() // order["peers"]))
    return made


class Guard:
    """Runs one member, passes signals on to it and reports its end; ends it when the launcher is gone."""

    def __init__(self):
        with contextlib.suppress(PermissionError):  # it leads a group already
            os.setsid()
        self.buffer = b""
        self.deadline = None

    def run(self):
        line = self._first_line()
        if line is None:
            return
        order = json.loads(line)
        self.silence = SILENCE if order["remote"] else float("inf")
        environment = member_environment(order, os.environ)
        try:
            port = _free_port(order["address"])
        except OSError as error:
            return _report(fault=f"{order['address']} is no address of its machine ({error.strerror})")
        if order["role"] == "scheduler":
            environment["DMLC_PS_ROOT_PORT"] = str(port)
        joined, to_join = os.pipe()
        environment["ATAC_JOINED"] = str(to_join)
        guard = os.getpid()
        woken, waker = os.pipe()
        for end in (woken, waker, joined):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (*STOPS, signal.SIGCHLD):
            signal.signal(number, self._pass_on)
        self.worker = order["role"] == "worker"
        try:
            self.child = subprocess.Popen(
                order["command"], stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, env=environment,
                pass_fds=(to_join,), preexec_fn=lambda: at_parents_death(signal.SIGKILL, guard))
        except (OSError, ValueError) as error:
            return _report(fault=f"{order['command'][0]}: {getattr(error, 'strerror', None) or error}")
        os.close(to_join)
        if order["role"] == "scheduler":
            _report(port=port)
        self._watch(joined, woken)

    def _first_line(self):
        while b"\n" not in self.buffer:
            chunk = os.read(0, 1 << 16)
            if not chunk:
                return None
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def _pass_on(self, number, frame):
        if number != signal.SIGCHLD:
            self._signal(number)

    def _signal(self, number):
        if self.child.poll() is None:
            self.child.send_signal(number)

    def _watch(self, joined, woken):
        heard = time.monotonic()
        with selectors.DefaultSelector() as selector:
            for source in (0, joined, woken):
                selector.register(source, selectors.EVENT_READ)
            while self.child.poll() is None:
                self._command_lines()
                for key, _ in selector.select(1):
                    with contextlib.suppress(BlockingIOError):
                        content = os.read(key.fd, 1 << 12)
                        if key.fd == joined and content:
                            _report(joined=True)
                        if key.fd == 0:
                            heard = time.monotonic()
                            self.buffer += content
                        if not content:
                            selector.unregister(key.fd)
                            if key.fd == 0:
                                self._launcher_is_gone()
                now = time.monotonic()
                if now - heard > self.silence:
                    self._launcher_is_gone()
                if self.deadline is not None and now > self.deadline:
                    os.killpg(0, signal.SIGKILL)
        with contextlib.suppress(BlockingIOError):
            if os.read(joined, 1 << 12):
                _report(joined=True)
        _report(ended=self.child.returncode)
        # Whatever the member has started goes with it, and so does this guard.
        os.killpg(0, signal.SIGKILL)

    def _command_lines(self):
        while b"\n" in self.buffer:
            line, _, self.buffer = self.buffer.partition(b"\n")
            word, _, number = line.partition(b" ")
            if word == b"kill":
                os.killpg(0, signal.SIGKILL)
            elif word == b"signal":
                self._signal(int(number))

    def _launcher_is_gone(self):
        if self.deadline is None:
            self.deadline = time.monotonic() + ORPHAN_GRACE
            if self.worker:  # it may save; the servers stay for that
                self._signal(signal.SIGTERM)
