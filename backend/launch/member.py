"""A member as the launcher sees it: its guard, or the ssh that leads to it."""
import collections
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

from support.files import regular

from .guard import MARK

# ssh must ask for nothing, leave no shared connection behind, and notice within 45 s that a machine is gone.
SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ControlPath=none", "-o", "ConnectTimeout=20", "-o",
       "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3")

OUTPUT = threading.Lock()  # of standard output; never the main thread's, which must not be held up


def place(role, rank, host):
    """Which member on which machine, for a sentence."""
    return f"{_name(role, rank)} on {host.name or host.address}"


def _name(role, rank):
    return role if role == "scheduler" else f"{role} {rank}"


class Member:
    """Starts a member's guard; from then on its reports come to the queue `events` as (member, {what: value}).

    order: what the guard is to run. log_dir: the folder of a file for its output; None for standard output, each line
    with the member's name. OSError if it cannot be started.
    """

    def __init__(self, role, rank, host, order, log_dir, events):
        self.role, self.host, self.events = role, host, events
        self.name, self.where = _name(role, rank), place(role, rank, host)
        self.joined, self.status, self.dead_since = False, None, None
        self.remarks = collections.deque(maxlen=3)  # of ssh and the remote shell
        self.file = None
        if log_dir is not None:
            self.file = open(Path(log_dir) / f"{self.name.replace(' ', '-')}.log", "ab", opener=regular)  # noqa: SIM115
        self.log = f" (its output: {self.file.name})" if self.file else ""
        path = order["environment"]["PYTHONPATH"]
        command = [sys.executable, "-m", "backend.launch", "--member"]
        if host.name is not None:
            inner = f"cd {shlex.quote(os.getcwd())} && exec env " + " ".join(
                map(shlex.quote, [f"PYTHONPATH={path}", *command]))
            command = [*SSH, host.name, inner]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            start_new_session=True, env={**os.environ, "PYTHONPATH": path})
        self.tell(json.dumps(order))
        self.readers = [threading.Thread(target=read, daemon=True) for read in (self._read_output, self._read_reports)]
        for reader in self.readers:
            reader.start()

    def tell(self, line):
        with contextlib.suppress(OSError):  # it is gone, which its reader reports
            self.process.stdin.write(line.encode() + b"\n")

    def death(self, wait=0):
        """How the guard or ssh itself ended: exit status, or minus the signal; None while it runs.

        Leaves it unreaped, so that its id stays its own.
        """
        end = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | wait)
        if end is None:
            return None
        return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status

    def ending(self):
        """How the member ended, in words."""
        if self.status >= 0:
            return f"ended with exit status {self.status}"
        try:
            return f"was killed by {signal.Signals(-self.status).name}"
        except ValueError:
            return f"was killed by signal {-self.status}"

    def _read_output(self):
        """Pass the lines on, whole; of a progress bar, which goes over its line again and again, the last."""
        prefix = b"" if self.file else f"{self.name} | ".encode()
        target, broken = self.file or sys.stdout.buffer, False
        with contextlib.ExitStack() as stack:
            if self.file:
                stack.enter_context(self.file)
            source = stack.enter_context(open(self.process.stdout.fileno(), "rb", closefd=False))
            for line in iter(lambda: source.readline(1 << 16), b""):
                line = line.rstrip(b"\r\n").rpartition(b"\r")[2]
                if broken:  # read on, so that the member is not held up until it is ended
                    continue
                try:
                    with OUTPUT:
                        target.write(prefix + line + b"\n")
                        target.flush()
                except OSError as error:
                    broken = True
                    name = self.file.name if self.file else "the output"
                    self.events.put((None, {"unwritable": f"{name}: {error.strerror}"}))

    def _read_reports(self):
        for line in open(self.process.stderr.fileno(), encoding="utf-8", errors="replace", closefd=False):  # noqa: SIM115
            if line.startswith(MARK):
                self.events.put((self, json.loads(line[len(MARK):])))
            elif line.strip():
                self.remarks.append(line.strip())
                with contextlib.suppress(OSError):
                    print(f"{self.name} | {line.strip()}", file=sys.stderr, flush=True)
        self.events.put((self, {"gone": True}))
