"""The supervision of one job: start the members, pass on what they say, end all when one dies."""
import contextlib
import os
import queue
import signal
import subprocess
import sys
import time

from support import ROOT
from support.processes import exit_status, handling

from .guard import STOPS
from .member import Member, place

# Seconds: for workers to leave after a failure; for servers after the last worker; for workers after the first has
# ended; between two signs of life to a guard behind ssh.
FAILURE_GRACE, SERVERS_GRACE, STRAGGLER_GRACE, HEARTBEAT = 3, 3, 60, 10
# What a program's speed and results depend on; the rest of the environment is the other machine's own.
CARRIED = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "GLIBC_TUNABLES")
CARRIED_PREFIXES = ("MXNET_", "OMP_", "KMP_", "MKL_", "DNNL_", "MALLOC_", "NCCL_", "PS_")


class Job:
    """One training under supervision; run() returns the exit status."""

    def __init__(self, args):
        self.args = args
        self.members = []
        self.events = queue.SimpleQueue()  # its put() may be called by a signal's handler
        self.failed = None  # exit status of the first failure
        self.stopping, self.at_once = None, False  # the signal that asked to stop; asked twice
        self.deadline, self.late = None, None  # when to end what is left, and the sentence then

    def say(self, sentence):
        with contextlib.suppress(OSError):
            print(f"launch.sh: {sentence}", file=sys.stderr, flush=True)

    def run(self):
        with handling(STOPS, lambda number, _: self.events.put((None, {"signal": number}))):
            try:
                return self._supervise()
            finally:
                self._end_all()

    # Starting.

    def _start(self, role, rank, host, port=None):
        environment = {name: value for name, value in os.environ.items() if host.name is not None and
                       (name in CARRIED or name.startswith(CARRIED_PREFIXES))}
        paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment.update(
            PYTHONPATH=os.pathsep.join(dict.fromkeys(paths)), DMLC_NODE_HOST=host.address,
            DMLC_PS_ROOT_URI=self.args.used[0].address, DMLC_NUM_WORKER=str(self.args.workers),
            DMLC_NUM_SERVER=str(self.args.servers))
        # DMLC_ROLE of the others is set by backend.gluon.distributed.serve, once MXNet is loaded.
        command = [sys.executable, "-m", "backend.launch", "--serve", role]
        if port is not None:
            environment["DMLC_PS_ROOT_PORT"] = str(port)
        if role == "worker":
            environment.update(DMLC_ROLE="worker", DMLC_TASK_ID=str(rank),
                               ATAC_LOCAL_RANK=str(self.args.places[:rank].count(host)))
            command = self.args.command
        order = {"role": role, "environment": environment, "address": host.address, "remote": host.name is not None,
                 "command": command, "peers": self.args.places.count(host)}
        try:
            self.members.append(Member(role, rank, host, order, self.args.log_dir, self.events))
        except OSError as error:
            self._fail(f"{place(role, rank, host)} cannot be started: {error}", 127)

    # Supervision.

    def _workers(self, running=True):
        return [member for member in self.members
                if member.role == "worker" and (member.status is None or not running)]

    def _done(self):
        """Whether there were workers and all have ended."""
        return bool(self._workers(running=False)) and not self._workers()

    def _supervise(self):
        started, heartbeat = time.monotonic(), 0.
        self._start("scheduler", 0, self.args.used[0])
        self._expect(self.args.timeout, None)
        while True:
            now = time.monotonic()
            if now - heartbeat > HEARTBEAT:
                heartbeat = now
                for member in self.members:
                    if member.host.name is not None:
                        member.tell("alive")
            if self.deadline is not None and now > self.deadline:
                return self._too_late(now - started)
            with contextlib.suppress(queue.Empty):
                self._handle(*self.events.get(timeout=.2))
            for member in self.members:
                # Most often it is the end of its reports that tells; but something else may hold them open.
                if member.status is None and member.death(os.WNOHANG) is not None:
                    member.dead_since = member.dead_since or now
                    if now - member.dead_since > 1:
                        self._handle(member, {"gone": True})
            if self.at_once or not self._workers():
                if self.failed is not None:
                    return self.failed
                if self.stopping is not None:
                    self.say("ended at once" if self.at_once else "all workers have left")
                    return 128 + self.stopping
                if len(self.members) > 1 and all(member.status is not None for member in self.members):
                    return 0

    def _expect(self, seconds, late):
        """End the job after so many seconds, with this sentence (None: that not all have joined)."""
        self.deadline, self.late = time.monotonic() + seconds, late

    def _too_late(self, seconds):
        workers = self._workers(running=False)
        if self.failed is None and self.stopping is None:
            if self._done():
                return 0  # servers that do not end by themselves are nobody's loss
            missing = [member.where for member in workers if not member.joined]
            self.say(self.late or f"after {seconds:.0f} s {len(workers) - len(missing)} of {self.args.workers} workers "
                     f"have joined{' (not yet: ' + ', '.join(missing) + ')' if missing else ''}: the job is ended; a "
                     "larger --timeout gives them longer")
            return 1
        if self.failed is None:
            self.say(f"{', '.join(member.where for member in self._workers())} did not leave in time and "
                     f"{'is' if len(self._workers()) == 1 else 'are'} killed; --grace gives longer")
            return 128 + self.stopping
        return self.failed

    def _handle(self, member, event):
        if "signal" in event:
            self._stop(event["signal"])
        elif "unwritable" in event:
            self._fail(f"{event['unwritable']}; the job is ended", 1)
        elif "port" in event and self.failed is None and self.stopping is None:
            self._start_others(event["port"])
        elif "joined" in event:
            member.joined = True
            workers = self._workers(running=False)
            if all(worker.joined for worker in workers) and self.failed is None and self.stopping is None:
                self.say(f"all {self.args.workers} workers have joined")
                self.deadline = None
                for worker in workers:
                    if worker.status is not None:  # it has ended before the last one joined
                        self._wait_for_others(worker)
        elif "fault" in event:
            member.status = 127
            self._fail(f"{member.where} cannot be started: {event['fault']}", 127)
        elif "ended" in event:
            member.status = event["ended"]
            self._judge(member, member.ending())
        elif "gone" in event and member.status is None:  # without a word
            member.status = member.death()
            text = f"was lost: its guard {member.ending()}"
            if member.host.name is not None:
                text = f"was lost: ssh {member.ending()}"
                if member.remarks:
                    text += f" ({'; '.join(member.remarks).rstrip('.')})"
            if member.status == 0:
                member.status = 1
            self._judge(member, text)

    def _start_others(self, port):
        self.say(f"{self.args.workers} worker(s) and {self.args.servers} server(s) on "
                 f"{', '.join(host.name or host.address for host in self.args.used)}; the scheduler listens on "
                 f"{self.args.used[0].address}:{port}")
        for rank in range(self.args.servers):
            self._start("server", rank, self.args.used[rank % len(self.args.used)], port)
        for rank, host in enumerate(self.args.places):
            self._start("worker", rank, host, port)

    def _judge(self, member, text):
        """A member has ended; text says how."""
        if self.failed is not None or (member.role != "worker" and self._done()):
            return
        stopped = member.role == "worker" and (member.status in [128 + number for number in STOPS] or
                                               self.stopping is not None and member.status == -signal.SIGTERM)
        if member.status != 0 and not stopped:
            self._fail(f"{member.where} {text}: the job is ended{member.log}", exit_status(member.status))
        elif stopped and self.stopping is None:  # it was asked by somebody else
            self.say(f"{member.where} was asked to stop and {text}: the others follow")
            self._stop(member.status - 128, said=True)
        elif member.role == "worker" and self.stopping is None:
            if not self._workers():
                self._expect(SERVERS_GRACE, None)
            elif self.deadline is None:
                self._wait_for_others(member)

    def _wait_for_others(self, member):
        self._expect(STRAGGLER_GRACE, f"{member.where} has ended, but others were still at work {STRAGGLER_GRACE} s "
                     "later: the job is ended")

    def _fail(self, sentence, status):
        if self.failed is None:
            self.failed = status
            self.say(sentence)
            for member in self._workers():
                member.tell(f"signal {signal.SIGTERM:d}")
            self._expect(FAILURE_GRACE, None)

    def _stop(self, number, said=False):
        if self.stopping is not None or self.failed is not None:
            self.at_once = True
            return
        self.stopping = number
        if not said:
            self.say(f"{signal.Signals(number).name}: the workers are asked to save and leave (again: at once)")
        for member in self._workers():
            member.tell(f"signal {signal.SIGTERM:d}")
        self._expect(self.args.grace, None)

    def _end_all(self):
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)
        for member in self.members:
            if member.host.name is not None:
                member.tell("kill")
                with contextlib.suppress(OSError):
                    member.process.stdin.close()
        deadline = time.monotonic() + FAILURE_GRACE
        for member in self.members:
            if member.host.name is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    member.process.wait(max(0, deadline - time.monotonic()))
                    continue
            # A local member's whole group: its id is taken as long as the guard is not waited for.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(member.process.pid, signal.SIGKILL)
            member.process.wait()
        deadline = time.monotonic() + FAILURE_GRACE
        for member in self.members:
            for reader in member.readers:
                reader.join(max(0, deadline - time.monotonic()))
