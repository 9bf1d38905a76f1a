"""Disks that fill up at a random place: small file systems in memory, or, where none can be mounted, a limit on files.

A training, the ledger, its report and downloads run out of space; afterwards there is room again, and the same command
has to come to what it comes to on a large disk.
"""
import contextlib
import hashlib
import random
import shutil
import subprocess
import sys
from pathlib import Path

from . import killed, small_runs, starter
from .suite import FAULT, Case, Round, Theme

import http_files  # isort: skip - found by this package
from reproduce import ledger, report  # isort: skip
from support.errors import InputError  # isort: skip

TRAINING, LIMITED, LOG, LEDGER, DOWNLOAD = (
    "a training on a disk that fills up", "a training whose files may not grow", "a log on a disk that fills up",
    "the ledger and its report on a disk that fills up", "a download on a disk that fills up")
PAGE = 4096
CONTENT = 600_000  # bytes of a download


class Disk:
    """A folder of limited size: a file system in memory, or (`mounted` is False) an ordinary folder."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True)
        self.mounted = not self.mount("size=64k")

    def mount(self, options):
        """Whether it failed."""
        try:
            return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder],
                                  stdin=subprocess.DEVNULL, capture_output=True).returncode
        except OSError:
            return 1

    def resize(self, size):
        """Give the file system so many bytes in all."""
        self.mount(f"remount,size={size}")

    def empty(self):
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self):
        if self.mounted:
            subprocess.run(["umount", "--lazy", self.folder], check=True)


class Trials:
    """What is tried on a disk."""

    def __init__(self, folder, seed, disk, epochs):
        self.folder, self.seed, self.disk = folder, seed, disk
        self.setting = small_runs.Setting(folder / "setting", epochs)
        self.need = sum(path.stat().st_size for path in self.run_folder.iterdir()) + 2 * PAGE
        self.largest = (self.run_folder / "last.params").stat().st_size
        self.content = random.Random(seed).getrandbits(8 * CONTENT).to_bytes(CONTENT, "little")

    @property
    def run_folder(self):
        self.setting.expected  # noqa: B018 - makes it
        return self.setting.folder / "undisturbed" / "run"

    def place(self, name):
        """An empty folder, on the disk where there is one."""
        place = (self.disk.folder if self.disk.mounted else self.folder) / name
        if self.disk.mounted:
            self.disk.resize("64m")
            self.disk.empty()
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        return place

    def limit(self, rng, need, largest, mounted=True):
        """(keyword arguments of a start, words): room for a part of what is needed."""
        if self.disk.mounted and mounted:
            size = rng.randrange(PAGE, need + need // 8)
            self.disk.resize(size)
            return {}, f"{size:,} of {need:,} bytes"
        size = rng.randrange(1, largest + largest // 8)
        return {"file_size": size}, f"files up to {size:,} of {largest:,} bytes"

    def room_again(self):
        if self.disk.mounted:
            self.disk.resize("64m")

    def start(self, call, *arguments, **how):
        """(status, output) of a process that has to end by itself."""
        output = self.folder / "output"
        output.unlink(missing_ok=True)
        status = starter.shared().run(call, *arguments, output=output, **how)
        return status, output.read_text(errors="replace")

    def training(self, rng, number, case):
        place = self.place("training")
        how, said = self.limit(rng, self.need + self.largest, self.largest, mounted=case == TRAINING)
        more = ("--save-interval", str(rng.choice((0, 2))), "--save-period", str(rng.choice((0, 0, 1))))
        if rng.random() < .5 and not how:  # it fills up in the middle, and not from the start
            used = self.start("train_cifar:main", *self.setting.command("--num-epochs", "1"), folder=place)
            said += f", in the {'second' if used[0] == 0 else 'first'} of two goes"
        status, text = self.start("train_cifar:main", *self.setting.command(*more), folder=place, **how)
        return self.went_on(case, f"round {number}, {said}, {' '.join(more)}", place, status, text)

    def log(self, rng, number, case):
        place = self.place("training")
        elsewhere = place if self.disk.mounted else Path("/dev")
        size = rng.randrange(1, PAGE)
        if self.disk.mounted:
            log = elsewhere / "log"
            self.disk.resize(PAGE)
            with contextlib.suppress(OSError):
                log.write_bytes(b"\n" * size)
            place = self.folder / "logged"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
        else:
            log = elsewhere / "full"
        status, text = self.start("train_cifar:main", *self.setting.command("--logging-file", str(log)), folder=place)
        self.room_again()
        return self.went_on(case, f"round {number}, {log.name}, {size:,} bytes before", place, status, text)

    def went_on(self, case, said, place, status, text):
        """The Round of a training: its end where space ran out, and what the same command makes of it with more."""
        wrong, last = small_runs.wrong_in(place / "run"), small_runs.last_line(text)
        if "Traceback" in text or "Logging error" in text:
            wrong = f"a traceback: {last}"
        elif status not in (0, 1):
            wrong = f"it ended with {status}: {last}"
        elif status == 1 and not ("cannot be written" in last or "cannot be made" in last):
            wrong = f"not a sentence about the disk: {last}"
        elif small_runs.parts_in(place / "run"):
            wrong = f"temporary files are left: {small_runs.parts_in(place / 'run')}"
        if wrong:
            return Round(case, FAULT, f"{said}: {wrong}")
        outcome = "there was room enough" if status == 0 else "a sentence; then on with more room, the same to the bit"
        self.room_again()
        again, text = self.start("train_cifar:main", *self.setting.command(), folder=place)
        if again:
            return Round(case, FAULT, f"{said}: after {last!r} the same command says {small_runs.last_line(text)!r}")
        wrong = small_runs.difference(place / "run", self.setting.expected)
        if wrong:
            return Round(case, FAULT, f"{said}: it came to something else: {wrong}")
        return Round(case, outcome, said)

    def ledger(self, rng, number, case):
        place, source = self.place("ledger"), self.folder / "source"
        for index in range(3):
            killed.copy_of_run(self.run_folder, source / str(index), index)
        runs = [str(source / str(index)) for index in range(3)]
        how, said = self.limit(rng, 40_000, 8_000)
        call = f"{__package__}.disk:add_and_render", runs, str(place / "results")
        status, text = self.start(*call, **how)
        said = f"round {number}, {said}"
        last = small_runs.last_line(text)
        if status and not (status == 1 and "cannot be written" in last and "Traceback" not in text):
            return Round(case, FAULT, f"{said}: it ended with {status}: {last}")
        try:
            ledger.read(place / "results")
        except InputError as error:
            return Round(case, FAULT, f"{said}: {error}")
        self.room_again()
        again, text = self.start(*call)
        found = killed.files_in(place / "results")
        if again or len(ledger.read(place / "results")) != 3 or [name for name in found if name.endswith(".part")]:
            return Round(case, FAULT, f"{said}: with more room: {again} {small_runs.last_line(text)}")
        return Round(case, "a sentence; then whole with more room" if status else "there was room enough", said)

    def download(self, rng, number, case):
        place = self.place("download")
        how, said = self.limit(rng, CONTENT + PAGE, CONTENT)
        said = f"round {number}, {said}"
        with http_files.serve(self.content) as site:
            call = (f"{__package__}.killed:fetch", site.url, str(place / "file"),
                    hashlib.sha256(self.content).hexdigest())
            status, text = self.start(*call, **how)
            last = small_runs.last_line(text)
            if status and not (status == 1 and "cannot" in last and len(text.splitlines()) == 1):
                return Round(case, FAULT, f"{said}: it ended with {status}: {text[-300:]!r}")
            if status and (place / "file").exists():
                return Round(case, FAULT, f"{said}: a file is in place")
            self.room_again()
            again, text = self.start(*call)
        if again or (place / "file").read_bytes() != self.content or len(list(place.iterdir())) > 1:
            return Round(case, FAULT, f"{said}: with more room: {again} {small_runs.last_line(text)}")
        outcome = "a sentence; then the right bytes with more room" if status else "there was room enough"
        return Round(case, outcome, said)


def add_and_render(folders, results):
    """In a process of its own: put finished runs into a ledger and render its report."""
    try:
        for folder in folders:
            ledger.add(Path(folder), Path(results))
        report.update(Path(results))
    except InputError as error:
        sys.exit(f"add: {error}")


def run(rounds, seed, folder, epochs=2):
    disk = Disk(folder / "disk")
    try:
        trials = Trials(folder, seed, disk, epochs)
        kinds = [(TRAINING, trials.training), (LEDGER, trials.ledger), (DOWNLOAD, trials.download),
                 (LIMITED, trials.training), (LOG, trials.log)]
        for number in range(rounds):
            case, tried = kinds[number % len(kinds)]
            yield tried(random.Random(f"{seed}/disk/{number}"), number, LIMITED if case == TRAINING and not disk.mounted
                        else case)
    finally:
        disk.close()


THEME = Theme("disk", "Full disks", 250, (
    Case(TRAINING, "the run ends with a sentence and exit status 1; the newest checkpoint stays, and no temporary file "
         "is left; with more room the same command gives the same bits as on a large disk", "log lines that the disk "
         "refused"),
    Case(LIMITED, "the same if a quota refuses (here the system's limit on the size of a file)"),
    Case(LOG, "the run ends with a sentence; it does not continue without its log", "steps since the newest "
         "checkpoint"),
    Case(LEDGER, "it ends with a sentence; the ledger only holds whole records"),
    Case(DOWNLOAD, "it ends with a sentence; with more room the part is continued"),
), run)
