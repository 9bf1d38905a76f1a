"""Start a training's workers, servers and scheduler, here or over ssh, and end all of them when one dies.

    scripts/launch.sh -n 4 -H hosts -- train_imagenet.py --kvstore dist_sync_device ...

MXNet's parameter server waits for a dead member without end and without a word, so the launcher supervises from
outside. Servers and the scheduler run this module too (`--serve`). Every member runs below a small process, its guard
(`--member`), on its own machine:

- The guard reads a line of JSON (what to run), then commands from its standard input. The end of that input, as when
  the launcher is killed or the connection breaks, ends the member, so that nothing is left behind.
- The guard's standard output is the member's. On standard error it reports (a line of JSON behind MARK).
"""
import argparse
import collections
import contextlib
import ctypes
import dataclasses
import json
import os
import queue
import re
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from engine.cli import flags
from engine.cli.program import run_script
from support import ROOT, runtime
from support.errors import InputError
from support.files import content, regular

MARK = "@member "
LOOPBACK = "127.0.0.1"
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# Seconds. A guard that hears nothing for SILENCE over ssh takes its launcher for dead.
FAILURE_GRACE, ORPHAN_GRACE, SERVERS_GRACE, STRAGGLER_GRACE, HEARTBEAT, SILENCE = 3, 5, 3, 60, 10, 60
# ssh must ask for nothing, leave no shared connection behind, and notice within 45 s that a machine is gone.
SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ControlPath=none", "-o", "ConnectTimeout=20", "-o",
       "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3")
# What a program's speed and results depend on; the rest of the environment is the other machine's own.
CARRIED = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "GLIBC_TUNABLES")
CARRIED_PREFIXES = ("MXNET_", "OMP_", "KMP_", "MKL_", "DNNL_", "MALLOC_", "NCCL_", "PS_")


@dataclasses.dataclass(frozen=True)
class Host:
    """A machine: its name for ssh (None: this one), the address that its members listen on, workers it takes."""

    name: str = None
    address: str = LOOPBACK
    slots: int = 1


# ---- Hostfile and flags


def read_hosts(path):
    """A type for argparse: a hostfile as a list of Host. One `name [slots=N] [address=IPv4]` a line, # for remarks.

    A name that stands on several lines has the sum of their slots. Without an address its name is looked up.
    """
    try:
        lines = content(path).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {reason}") from None
    slots, addresses = {}, {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        name, given = words[0], {}
        for word in words[1:]:
            key, _, value = word.partition("=")
            right = {"slots": r"[1-9]\d{0,3}", "address": r"\d{1,3}(\.\d{1,3}){3}"}.get(key)
            if right is None or key in given or not re.fullmatch(right, value):
                raise argparse.ArgumentTypeError(
                    f"{path}, line {number}: {word!r} is neither slots=N nor address=N.N.N.N, once")
            given[key] = value
        if not re.fullmatch(r"(\w[\w.-]*@)?[A-Za-z0-9_][A-Za-z0-9_.-]*", name, re.ASCII):
            raise argparse.ArgumentTypeError(f"{path}, line {number}: {name!r} is not a host, or user@host")
        slots[name] = slots.get(name, 0) + int(given.get("slots", 1))
        if addresses.setdefault(name, given.get("address")) != given.get("address", addresses[name]):
            raise argparse.ArgumentTypeError(f"{path}, line {number}: {name} has two addresses")
    if not slots:
        raise argparse.ArgumentTypeError(f"{path} names no host")
    hosts = [Host(name, addresses[name] or _look_up(name, path), count) for name, count in slots.items()]
    local = [host.name for host in hosts if host.address.startswith("127.")]
    if local and len(local) < len(hosts):
        raise argparse.ArgumentTypeError(
            f"{path}: {local[0]} has an address that other machines cannot reach; write it as "
            f"'{local[0]} address=N.N.N.N'")
    return hosts


def _look_up(name, path):
    try:
        return socket.getaddrinfo(name.rpartition("@")[2], None, socket.AF_INET)[0][4][0]
    except (OSError, UnicodeError):
        raise argparse.ArgumentTypeError(
            f"{path}: no address is known for {name}; write it as '{name} address=N.N.N.N'") from None


def parse(arguments):
    """The launcher's flags, and the workers' command behind `--`."""
    parser = flags.Parser(prog="launch.sh", usage="%(prog)s -n WORKERS [flags] -- PROGRAM [its flags]",
                          description="Starts the workers of one training with MXNet's parameter server, supervises "
                          "them and ends all when one dies (docs/DISTRIBUTED.md).")
    parser.add_argument("-n", "--workers", type=flags.number(int, 1, 1000), required=True, metavar="N",
                        help="number of workers")
    parser.add_argument("-s", "--servers", type=flags.number(int, 1, 1000), metavar="N",
                        help="number of servers (default: one on each machine)")
    parser.add_argument("-H", "--hostfile", dest="hosts", type=read_hosts, metavar="FILE",
                        help="machines to reach over ssh, one 'name [slots=N] [address=N.N.N.N]' a line "
                        "(default: everything on this machine)")
    parser.add_argument("--timeout", type=flags.number(float, 1), default=300, metavar="SECONDS",
                        help="end the job unless all workers have joined by then (default 300)")
    parser.add_argument("--grace", type=flags.number(float, 1), default=60, metavar="SECONDS",
                        help="how long the workers may take to save and leave when asked to stop (default 60)")
    parser.add_argument("--log-dir", type=flags.words, metavar="DIR",
                        help="append every member's output to a file of its own, such as DIR/worker-0.log")
    own, command = arguments, []
    if "--" in arguments:
        own, command = arguments[:arguments.index("--")], arguments[arguments.index("--") + 1:]
    args, unknown = parser.parse_known_args(own)
    if unknown:
        parser.error(f"unknown: {' '.join(unknown)}; the program and its flags stand behind --")
    if not command:
        parser.error("no program is given: write it behind --, as in -n 2 -- train_imagenet.py ...")
    if any("\0" in word for word in command):
        parser.error("the command has a zero byte")
    args.command = _program(command, parser)
    hosts = args.hosts or [Host(slots=args.workers)]
    room = sum(host.slots for host in hosts)
    if args.workers > room:
        parser.error(f"-n {args.workers}: the hostfile has room for {room} (one a line, or slots=N)")
    args.places = [host for host in hosts for _ in range(host.slots)][:args.workers]
    args.used = [host for host in hosts if host in args.places]
    args.servers = args.servers or len(args.used)
    return args


def _program(command, parser):
    """A .py file is run by this Python; it is looked for here, then in the repository."""
    if not command[0].endswith(".py"):
        return command
    for folder in (Path.cwd(), ROOT):
        if (folder / command[0]).is_file():
            return [sys.executable, str(folder / command[0]), *command[1:]]
    parser.error(f"there is no program {command[0]} here or in {ROOT}")


# ---- The launcher


def _name(role, rank):
    return role if role == "scheduler" else f"{role} {rank}"


class Member:
    """A member as the launcher sees it: its guard, or the ssh that leads to it."""

    def __init__(self, role, rank, host, order):
        self.role, self.rank, self.host = role, rank, host
        self.name, self.log = _name(role, rank), ""
        self.where = f"{self.name} on {host.name or host.address}"
        self.joined, self.status, self.dead_since = False, None, None
        self.remarks = collections.deque(maxlen=3)  # of ssh and the remote shell
        command = [sys.executable, "-m", "backend.launch", "--member"]
        if host.name is not None:
            inner = f"cd {shlex.quote(os.getcwd())} && exec env " + " ".join(
                map(shlex.quote, [f"PYTHONPATH={order['environment']['PYTHONPATH']}", *command]))
            command = [*SSH, host.name, inner]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            start_new_session=True, env={**os.environ, "PYTHONPATH": order["environment"]["PYTHONPATH"]})
        self.tell(json.dumps(order))

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


def _status_text(status):
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def exit_status(status):
    """A status as shells give it: 128 and the signal's number."""
    return status if status >= 0 else 128 - status


class Job:
    """One training under supervision; run() returns the exit status."""

    def __init__(self, args):
        self.args = args
        self.members, self.readers = [], []
        self.events = queue.SimpleQueue()  # its put() may be called by a signal's handler
        self.output = threading.Lock()  # of standard output; never the main thread's, which must not be held up
        self.failed = None  # exit status of the first failure
        self.stopping, self.at_once = None, False  # the signal that asked to stop; asked twice
        self.deadline, self.late = None, None  # when to end what is left, and the sentence then

    def say(self, sentence):
        with contextlib.suppress(OSError):
            print(f"launch.sh: {sentence}", file=sys.stderr, flush=True)

    def run(self):
        before = {number: signal.signal(number, lambda number, _: self.events.put((None, {"signal": number})))
                  for number in STOPS}
        try:
            return self._supervise()
        finally:
            self._end_all()
            for number, handler in before.items():
                signal.signal(number, handler)

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
        file = None
        try:
            if self.args.log_dir is not None:
                file = open(Path(self.args.log_dir) / f"{_name(role, rank).replace(' ', '-')}.log", "ab",  # noqa: SIM115
                            opener=regular)
            member = Member(role, rank, host, order)
        except OSError as error:
            self._fail(f"{_name(role, rank)} on {host.name or host.address} cannot be started: {error}", 127)
            return
        self.members.append(member)
        if file is not None:
            member.log = f" (its output: {file.name})"
        for read in (lambda: self._read_output(member, file), lambda: self._read_reports(member)):
            self.readers.append(threading.Thread(target=read, daemon=True))
            self.readers[-1].start()

    def _read_output(self, member, file):
        """Pass a member's lines on, whole; of a progress bar, which goes over its line again and again, the last."""
        prefix = b"" if file else f"{member.name} | ".encode()
        broken = False
        with contextlib.ExitStack() as stack:
            if file:
                stack.enter_context(file)
            source = stack.enter_context(open(member.process.stdout.fileno(), "rb", closefd=False))
            for line in iter(lambda: source.readline(1 << 16), b""):
                line = line.rstrip(b"\r\n").rpartition(b"\r")[2]
                try:
                    with self.output:
                        if not broken:
                            (file or sys.stdout.buffer).write(prefix + line + b"\n")
                            (file or sys.stdout.buffer).flush()
                except OSError as error:  # go on reading, so that the member is not held up until it is ended
                    broken = True
                    self.events.put((None, {"unwritable": f"{file.name if file else 'the output'}: {error.strerror}"}))

    def _read_reports(self, member):
        for line in open(member.process.stderr.fileno(), encoding="utf-8", errors="replace", closefd=False):  # noqa: SIM115
            if line.startswith(MARK):
                self.events.put((member, json.loads(line[len(MARK):])))
            elif line.strip():
                member.remarks.append(line.strip())
                with contextlib.suppress(OSError):
                    print(f"{member.name} | {line.strip()}", file=sys.stderr, flush=True)
        self.events.put((member, {"gone": True}))

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
            if all(worker.joined for worker in self._workers(running=False)) and self.failed is None \
                    and self.stopping is None:
                self.say(f"all {self.args.workers} workers have joined")
                self.deadline = None
        elif "fault" in event:
            member.status = 127
            self._fail(f"{member.where} cannot be started: {event['fault']}", 127)
        elif "ended" in event:
            member.status = event["ended"]
            self._judge(member, _status_text(member.status))
        elif "gone" in event and member.status is None:  # without a word
            member.status = member.death()
            text = f"was lost: its guard {_status_text(member.status)}"
            if member.host.name is not None:
                text = f"was lost: ssh {_status_text(member.status)}"
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
                self._expect(STRAGGLER_GRACE, f"{member.where} has ended, but others were still at work "
                             f"{STRAGGLER_GRACE} s later: the job is ended")

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
        for reader in self.readers:
            reader.join(max(0, deadline - time.monotonic()))


# ---- The guard of one member


def _report(**event):
    with contextlib.suppress(OSError):
        os.write(2, f"{MARK}{json.dumps(event)}\n".encode())


def _die_with_guard(libc, guard):
    """For the child between fork and exec: SIGKILL when the guard dies, even by SIGKILL."""
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != guard:
        os._exit(1)


def _free_port(address):
    """A free port at an address of this machine; OSError where it is another's."""
    with socket.socket() as listener:
        listener.bind((address, 0))
        return listener.getsockname()[1]


def member_environment(order, environment):
    """The environment of a member: without stray DMLC_ variables and PORT, with the launcher's."""
    made = {name: value for name, value in environment.items() if not name.startswith("DMLC_") and name != "PORT"}
    made.update(order["environment"])
    made.setdefault("PYTHONUNBUFFERED", "1")  # lines come when they are written
    if not made.get("OMP_NUM_THREADS"):
        made["OMP_NUM_THREADS"] = str(max(1, runtime.usable_cores() // order["peers"]))
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
        libc, guard = ctypes.CDLL(None), os.getpid()
        woken, waker = os.pipe()
        for end in (woken, waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (*STOPS, signal.SIGCHLD):
            signal.signal(number, self._pass_on)
        self.worker = order["role"] == "worker"
        try:
            self.child = subprocess.Popen(
                order["command"], stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, env=environment,
                pass_fds=(to_join,), preexec_fn=lambda: _die_with_guard(libc, guard))
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
        if os.read(joined, 1 << 12) if self._readable(joined) else b"":
            _report(joined=True)
        _report(ended=self.child.returncode)
        # Whatever the member has started goes with it, and so does this guard.
        os.killpg(0, signal.SIGKILL)

    @staticmethod
    def _readable(source):
        with selectors.DefaultSelector() as selector:
            selector.register(source, selectors.EVENT_READ)
            return bool(selector.select(0))

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


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--member"]:
        return Guard().run()
    if arguments[:1] == ["--serve"] and arguments[1:] in (["server"], ["scheduler"]):
        runtime.prepare()  # so that a missing piece is a sentence
        from backend.gluon import distributed

        return distributed.serve(arguments[1])
    args = parse(arguments)
    if args.log_dir is not None:
        try:
            Path(args.log_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--log-dir {args.log_dir} cannot be made: {error.strerror}") from error
    return Job(args).run()


if __name__ == "__main__":
    run_script(main)
