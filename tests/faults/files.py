"""Damaged, foreign and crafted files of every format that is read, each read in a process that may die of it."""
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time

from . import ROOT
from .suite import FAULT, Case, Round, Theme

PATIENCE = 60  # seconds for a file of some kB


class Child:
    """A process of tests.faults.child."""

    def __init__(self, folder):
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.child", str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors, cwd=ROOT / "tests" if "." not in __package__ else ROOT,
            env={**os.environ, "MXNET_HOME": str(folder / "no data"),
                 "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))})
        self.pending = b""
        self.formats = self.line(PATIENCE)

    def line(self, patience):
        """The next answer; None where there is none in time or the process is gone."""
        give_up = time.monotonic() + patience
        while b"\n" not in self.pending:
            left = give_up - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return None
            part = os.read(self.process.stdout.fileno(), 1 << 16)
            if not part:
                return None
            self.pending += part
        line, _, self.pending = self.pending.partition(b"\n")
        return json.loads(line)

    def ask(self, *question):
        """(outcome, detail) of a file; the process is gone afterwards where the file was too much for it."""
        try:
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return FAULT, f"{question}: the process was gone before it ({self.last_words()})"
        answer = self.line(PATIENCE)
        if answer is not None:
            return answer
        hung = False
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            hung = True
        self.end()
        return FAULT, f"{question}: " + (f"no answer in {PATIENCE} s" if hung else
                                         f"the process died ({self.process.returncode}): {self.last_words()}")

    def last_words(self):
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "without a word"

    @property
    def gone(self):
        return self.process.poll() is not None

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def run(rounds, seed, folder, only=None):
    """Read `rounds` files, the formats in turn; only: some of the formats' names."""
    child = Child(folder)
    if child.formats is None:
        words = child.last_words()
        child.end()
        raise RuntimeError(f"the process that reads files did not start: {words}")
    formats = [name for name in child.formats if only is None or name in only]
    try:
        for number in range(rounds):
            if child.gone:
                child.end()
                child = Child(folder)
            name = formats[number % len(formats)]
            yield Round(name, *child.ask(name, seed, number // len(formats)))
    finally:
        child.end()


def cases():
    from . import formats

    return tuple(Case(kind.name, kind.promised, kind.not_promised) for kind in formats.all_formats().values())


THEME = Theme("files", "Damaged, foreign and crafted files", 4000, cases(), run)
