"""scripts/launch.sh under way, for the tests and the faults of several workers."""
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = "ATAC_TEST"


class Launched:
    """scripts/launch.sh under way: its output as it comes, and every process that descends from it."""

    def __init__(self, *arguments, environment=(), folder=None):
        self.mark = uuid.uuid4().hex
        made = {**os.environ, MARK: self.mark, "OMP_NUM_THREADS": "1", **dict(environment)}
        made["PATH"] = os.pathsep.join([made.pop("FIRST", ""), str(Path(sys.executable).parent), made["PATH"]])
        self.process = subprocess.Popen(
            ["bash", str(ROOT / "scripts" / "launch.sh"), *map(str, arguments)], stdout=subprocess.PIPE, text=True,
            stderr=subprocess.PIPE, env=made, cwd=folder, start_new_session=True)
        self.out, self.err = [], []
        self.reading = threading.Event()  # until it is cleared, what comes is read
        self.reading.set()
        self.readers = [threading.Thread(target=self._read, args=(source, lines), daemon=True)
                        for source, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err))]
        for reader in self.readers:
            reader.start()

    def _read(self, source, lines):
        for line in source:
            lines.append(line)
            if source is self.process.stdout and not self.reading.is_set():
                source.close()
                return

    def processes(self, command=""):
        """Process ids of everything that has the mark in its environment and a command line like this."""
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes() \
                        and re.search(command, (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()):
                    found.append(int(folder.name))
        return found

    def until(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end and self.process.poll() is None, self.text()
            time.sleep(.05)

    def until_at_work(self):
        self.until(lambda: sum(line.endswith("at work\n") for line in self.out) == 2)

    def end(self, seconds=60):
        """Wait for the end; returns the exit status."""
        status = self.process.wait(seconds)
        for reader in self.readers:
            reader.join(5)
        return status

    def text(self):
        return "".join(self.out + self.err)

    def sentence(self):
        return [line for line in self.err if line.startswith("launch.sh: ")][-1].strip()

    def nothing_is_left(self, seconds=0):
        end = time.monotonic() + seconds
        while self.processes() and time.monotonic() < end:
            time.sleep(.05)
        return not self.processes()

    def clear(self):
        """Kill whatever is left."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait(10)
