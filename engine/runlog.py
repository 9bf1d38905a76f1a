"""What a run writes: args.json, metrics.jsonl, train.log, result.json."""
import contextlib
import json
import logging
import logging.handlers
import os
import platform
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

from support import ROOT, files, json_files, runtime, system
from support.errors import InputError
from support.files import regular, write_whole, writing
from support.json_files import COUNT, NUMBER, POSITIVE, SHARE
from support.words import counted

log = logging.getLogger(__name__)


# A line of metrics.jsonl must have these: they are plotted, summed up or put into the ledger.
METRICS = {"epoch": COUNT, "lr": POSITIVE, "train_loss": NUMBER, "train_accuracy": SHARE, "val_loss": NUMBER,
           "val_accuracy": SHARE, "val_top5": SHARE, "val_images": COUNT, "seconds": POSITIVE,
           "train_images_per_second": POSITIVE}


def environment(computed=None):
    """Versions, hardware and revision that a result depends on, as a dict for JSON.

    computed : the backend's part (Program.environment): its version, `contexts` and `gpus`.
    """
    import numpy

    return {
        "python": platform.python_version(), "numpy": numpy.__version__, "processor": system.processor(),
        "threads": os.environ.get("OMP_NUM_THREADS"), "git_revision": git_revision(),
        "process_settings": runtime.settings(), **(computed or {}),
    }


def gpu_names():
    """The kinds of GPU in this machine by the driver's names; [] if the driver does not answer."""
    try:
        answer = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True,
                                text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return sorted(set(filter(None, map(str.strip, answer.stdout.splitlines()))))


def git_revision():
    """Commit of the checkout, with '+changes' if files differ from it; None outside a git checkout."""
    def git(*words):
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=20, check=True)
    try:
        revision = git("rev-parse", "HEAD").stdout.strip()
        changed = git("status", "--porcelain", "--untracked-files=no").stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return revision + ("+changes" if changed else "")


class _BarHandler(logging.Handler):
    """Writes log lines above a running progress bar, to standard error as long as that can be written."""

    def emit(self, record):
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except OSError:  # the terminal, the reader or the space is gone: the training continues, train.log has it all
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class _LogFile(logging.StreamHandler):
    """Writes log lines to its own file. Raises InputError, once, if the file cannot be written."""

    def handleError(self, record):
        if self.stream.closed:
            return
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            return super().handleError(record)
        logging.getLogger().removeHandler(self)
        self.close()
        raise InputError(f"{self.stream.name} cannot be written: {error.strerror}; free space and resume, or choose "
                         "another place with --logging-file") from error

    def close(self):
        with contextlib.suppress(OSError):  # reported already
            super().close()
        with contextlib.suppress(OSError):  # closing writes the buffer
            self.stream.close()


def start_logging():
    """Send the log to standard error, and keep it for the file that log_to_file opens."""
    logger = logging.getLogger()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    console = _BarHandler(logging.INFO)
    kept = logging.handlers.MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    for handler in (console, kept):
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.getLogger("engine").setLevel(logging.DEBUG)  # the file gets the lines that a terminal shows as a bar


def log_to_file(path):
    """Append the log to a file: first the lines since start_logging, then all that follow."""
    with writing(path, "choose another folder"):  # names on the command line need not be UTF-8
        stream = open(path, "a", encoding="utf-8", errors="backslashreplace", opener=regular)  # noqa: SIM115
    file = _LogFile(stream)
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger()
    for handler in list(logger.handlers):
        if isinstance(handler, logging.handlers.MemoryHandler):
            logger.removeHandler(handler)
            handler.setTarget(file)
            handler.flush()
            handler.close()
    logger.addHandler(file)


class Metrics:
    """metrics.jsonl: one line of JSON for each epoch, in order."""

    def __init__(self, path, keep_epochs=None, first_epoch=0):
        """Open for appending.

        keep_epochs : drop the lines of this epoch and later ones, which a resumed run writes again. first_epoch : the
        epoch at which the run began.
        """
        self.path = Path(path)
        self.records = []
        if keep_epochs is not None and self.path.exists():
            self.records = [record for record in read_metrics(self.path) if record["epoch"] < keep_epochs]
        if keep_epochs is not None and len(self.records) < keep_epochs - first_epoch:
            log.warning("%s has only %d of the %s before the checkpoint: the history will lack the others", self.path,
                        len(self.records), counted(keep_epochs - first_epoch, "epoch"))
        write_whole(self.path, "".join(_line(record) for record in self.records))

    def append(self, record):
        self.records.append(record)
        with writing(self.path, "free space and resume"), \
                open(self.path, "a", encoding="utf-8", opener=regular) as file:
            file.write(_line(record))


def _line(record):
    return json.dumps(record, sort_keys=True) + "\n"


def read_metrics(path):
    """The records of a metrics.jsonl, by epoch; a last line that was cut off is left out.

    Raises InputError for any other line that is not a record of a later epoch than the line before.
    """
    try:
        lines = files.content(path).split(b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; restore it") from error
    cut = lines.pop() if not lines[-1] else lines[-1]  # a whole file ends with a newline
    records, before = [], -1
    for number, line in enumerate(lines, 1):
        try:
            record = json_files.loads(line)
            wrong = json_files.problem(record, METRICS)
            if wrong is None and record["epoch"] <= before:
                wrong = f"epoch {record['epoch']} follows epoch {before}"
        except ValueError as error:
            wrong = str(error)
        if wrong is None:
            records.append(record)
            before = record["epoch"]
        elif not (cut and number == len(lines)):
            raise InputError(f"{path}: line {number} is damaged ({wrong}); mend it, or move the file away to resume "
                             "without the history")
    return records
