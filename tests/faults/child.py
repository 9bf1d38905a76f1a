"""The process that reads damaged files: python -m tests.faults.child FOLDER

A line of standard input is a format's name, a seed and a number, as JSON; a line of standard output is what came of
that file. When this process dies, hangs or grows, the one that asked knows of which file.
"""
import contextlib
import json
import os
import random
import resource
import shutil
import sys
import traceback
from pathlib import Path

from . import suite  # isort: skip - finds the project
from support import runtime

runtime.prepare()

from support.errors import InputError  # noqa: E402

from . import formats, mutate  # noqa: E402

ROOM = 3 << 30  # bytes of addresses beyond those of a process that has loaded everything
GROWTH = 400 << 10  # KiB of memory that one damaged file of some kB may make a reader take
CRAFTED = .4  # share of the files that are wrong by design, not by damage


def resident():
    """Peak resident memory in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Reader:
    """Damages and reads files of one format."""

    def __init__(self, kind, folder):
        self.kind, self.folder = kind, folder
        self.expected, self.contents = {}, {}

    def round(self, seed, number):
        """(outcome, detail) of file `number`."""
        rng = random.Random(f"{seed}/{self.kind.name}/{number}")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.kind.sound(self.folder)
        if not self.expected:
            self.expected["value"] = self.kind.read(self.folder)  # sound files are accepted
            shutil.rmtree(self.folder)
            self.folder.mkdir()
            self.kind.sound(self.folder)
        target = self.folder / (rng.choice(self.kind.targets) if getattr(self.kind, "targets", ())
                                else self.kind.target)
        content = target.read_bytes()
        if self.kind.craft is not None and rng.random() < CRAFTED:
            new, said = self.kind.craft(rng, content)
        else:
            new, said = mutate.damaged(content, rng, FOREIGN)
        target.write_bytes(new)
        said = f"file {number} of seed {seed} ({target.name}: {said})"
        before = resident()
        try:
            value = self.kind.read(self.folder)
        except InputError as error:
            outcome, why = self.sentence(str(error))
        except BaseException as error:  # whatever it is, it is a fault and not the end
            where = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in where
                   if "/tests/" not in frame.filename and "site-packages" not in frame.filename]
            frame = (own or where)[-1]
            outcome = suite.FAULT
            why = f"{type(error).__name__}: {str(error)[:150]} at {Path(frame.filename).name}:{frame.lineno}"
        else:
            outcome, why = self.accepted(value)
        grown = resident() - before
        if grown > GROWTH:
            outcome, why = suite.FAULT, f"{grown >> 10} MiB more memory, and then: {outcome} {why}"
        return outcome, f"{said}: {why}"

    def sentence(self, text):
        if "\n" in text or not text.strip() or len(text) > 3000:
            return suite.FAULT, f"not one sentence: {text[:300]!r}"
        return "refused", text

    def accepted(self, value):
        if value == self.expected["value"]:
            return "read alike", ""
        if self.kind.may_differ(self.expected["value"], value, self.folder):
            return "nothing tells", ""
        return suite.FAULT, "read as something else without a word"


FOREIGN = {
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(60), "ELF": b"\x7fELF\x02\x01\x01" + bytes(200), "text": b"no weights\n" * 40,
    "JSON": b'{"models": []}', "HTML": b"<html><body>404 Not Found</body></html>", "gzip": b"\x1f\x8b\x08" + bytes(40),
    "ZIP": b"PK\x05\x06" + bytes(18), "pickle": b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
    "zeros": bytes(9000),
    "MXNet, old": b"\x12\x01\0\0\0\0\0\0" + bytes(64), "git-lfs": b"version https://git-lfs.github.com/spec/v1\noid "
                                                                  b"x\n",
    "record": b"\x0a\x23\xd7\xce\x04\0\0\0abcd", "NumPy": b"\x93NUMPY\x01\0v\0" + bytes(118), "tar": bytes(10240),
}


def main():
    folder = Path(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the project prints is not an answer
    kinds, readers = formats.all_formats(), {}
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limited = False
    print(json.dumps(list(kinds)), file=answers, flush=True)
    for line in sys.stdin:
        name, seed, number = json.loads(line)
        if name not in readers:
            readers[name] = Reader(kinds[name](), folder / str(len(readers)) / "files")
        with contextlib.redirect_stdout(sys.stderr):
            if not limited:
                size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
                resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, resource.RLIM_INFINITY))
                limited = True
            outcome = readers[name].round(seed, number)
        print(json.dumps(outcome), file=answers, flush=True)


if __name__ == "__main__":
    main()
