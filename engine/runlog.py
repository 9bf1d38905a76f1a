"""What a run leaves behind: args.json, metrics.jsonl, train.log, result.json, history.png; and its progress bar."""
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

from support import ROOT, files, json_files, runtime
from support.errors import InputError
from support.files import regular, replacing
from support.json_files import COUNT, NUMBER, POSITIVE, SHARE
from support.words import counted

from . import figures

log = logging.getLogger(__name__)


# What a line of metrics.jsonl must have: all that is plotted, summed up or put into the ledger.
METRICS = {"epoch": COUNT, "lr": POSITIVE, "train_loss": NUMBER, "train_accuracy": SHARE, "val_loss": NUMBER,
           "val_accuracy": SHARE, "val_top5": SHARE, "val_images": COUNT, "seconds": POSITIVE,
           "train_images_per_second": POSITIVE}


def write_json(path, record):
    """Write a JSON file atomically."""
    write_text(path, json.dumps(record, indent=1, sort_keys=True) + "\n")


def write_text(path, text):
    """Write a text file atomically; InputError when the disk refuses."""
    try:
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; free space or choose another folder") from error


def environment(computed=None):
    """Versions, hardware and revision that a result depends on, as a JSON-able dict.

    computed : what the backend adds (Program.environment): its version, `contexts` and `gpus`.
    """
    import numpy

    return {
        "python": platform.python_version(), "numpy": numpy.__version__, "processor": processor(),
        "threads": os.environ.get("OMP_NUM_THREADS"), "git_revision": git_revision(),
        "process_settings": runtime.settings(), **(computed or {}),
    }


def gpu_names():
    """The kinds of GPU in this machine, as the driver names them; empty where it does not say."""
    try:
        answer = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True,
                                text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return sorted(set(filter(None, map(str.strip, answer.stdout.splitlines()))))


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def git_revision():
    """Commit of the checkout, with '+changes' where files differ from it; None outside a git checkout."""
    def git(*words):
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=20, check=True)
    try:
        revision = git("rev-parse", "HEAD").stdout.strip()
        changed = git("status", "--porcelain", "--untracked-files=no").stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return revision + ("+changes" if changed else "")


class _BarHandler(logging.Handler):
    """Writes log lines above a running progress bar, to standard error for as long as it can be written."""

    def emit(self, record):
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except OSError:  # its terminal, reader or room is gone: no reason to end a training, the log file has it all
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class _LogFile(logging.StreamHandler):
    """Writes log lines to a file that is its own; InputError when the disk refuses, once."""

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
        with contextlib.suppress(OSError):  # said already
            super().close()
        with contextlib.suppress(OSError):  # what it still holds
            self.stream.close()


def start_logging():
    """Send the log to standard error, and keep it for the file that log_to_file may open."""
    logger = logging.getLogger()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    console = _BarHandler(logging.INFO)
    kept = logging.handlers.MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    for handler in (console, kept):
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.getLogger("engine").setLevel(logging.DEBUG)  # lines that a terminal shows as a bar are for the file


def log_to_file(path):
    """Append the log to a file from now on, what was said since start_logging first."""
    try:
        # Names on the command line need not be UTF-8.
        stream = open(path, "a", encoding="utf-8", errors="backslashreplace", opener=regular)  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; choose another folder") from error
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


def progress_bar(total, description, initial=0):
    """A bar over steps on a terminal; in a file or pipe it stays silent, the log has plain lines there."""
    terminal = sys.stderr.isatty()
    size = {"dynamic_ncols": True}
    if terminal and 0 in os.get_terminal_size(sys.stderr.fileno()):  # of unknown size: tqdm would hide the bar
        size = {"ncols": 100, "nrows": 24}
    return tqdm(total=total, desc=description, initial=initial, unit="step", leave=False, disable=not terminal, **size)


def duration(seconds):
    """Seconds in words: '45 s', '12 min', '3 h 10 min', '2 days 5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if not hours:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} days {hours} h"


class Metrics:
    """metrics.jsonl: one JSON object a line and epoch, in the order of the epochs."""

    def __init__(self, path, keep_epochs=None, first_epoch=0):
        """Open for appending. keep_epochs drops the lines of that epoch and of later ones, which a resumed run will
        write again; first_epoch is where the run began."""
        self.path = Path(path)
        self.records = []
        if keep_epochs is not None and self.path.exists():
            self.records = [record for record in read_metrics(self.path) if record["epoch"] < keep_epochs]
        if keep_epochs is not None and len(self.records) < keep_epochs - first_epoch:
            log.warning("%s has only %d of the %s before the checkpoint: the history will lack the others", self.path,
                        len(self.records), counted(keep_epochs - first_epoch, "epoch"))
        write_text(self.path, "".join(_line(record) for record in self.records))

    def append(self, record):
        self.records.append(record)
        try:
            with open(self.path, "a", encoding="utf-8", opener=regular) as file:
                file.write(_line(record))
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}; free space and resume") from error


def _line(record):
    return json.dumps(record, sort_keys=True) + "\n"


def read_metrics(path):
    """The records of a metrics.jsonl, by epoch; a last line that was cut off is left out.

    InputError for any other line that is not the record of an epoch after that of the line before.
    """
    try:
        lines = files.content(path).split(b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; put it back") from error
    cut = lines.pop() if not lines[-1] else lines[-1]  # a whole file ends with a line's end
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
            raise InputError(f"{path}: line {number} is damaged ({wrong}); mend it, or move the file away to go on "
                             "without the history")
    return records


def plot_history(records, path, title, scored_on):
    """Draw error (percent) and loss over the epochs, with the learning rate, as a PNG.

    records as in metrics.jsonl; scored_on names the images behind val_accuracy ('test' or 'held-out').
    """
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    epochs = [record["epoch"] + 1 for record in records]
    figure, (error_axes, loss_axes) = pyplot.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    curves = [("train", "training (augmented)", "tab:gray"), ("val", scored_on, "tab:blue")]
    for key, label, color in curves:
        errors = [100 * (1 - record[f"{key}_accuracy"]) for record in records]
        error_axes.plot(epochs, errors, color=color, label=label, marker="." if len(epochs) < 40 else None)
        loss_axes.plot(epochs, [record[f"{key}_loss"] for record in records], color=color, label=label,
                       marker="." if len(epochs) < 40 else None)
    last = 100 * (1 - records[-1]["val_accuracy"])
    error_axes.annotate(f"{last:.2f}%", (epochs[-1], last), textcoords="offset points", xytext=(-4, 8), ha="right",
                        color="tab:blue")
    error_axes.set(xlabel="epoch", ylabel="top-1 error (%)", ylim=(0, None), title="error")
    loss_axes.set(xlabel="epoch", ylabel="cross entropy (nats)", ylim=(0, None), title="loss and learning rate")
    rate_axes = loss_axes.twinx()
    rate_axes.step(epochs, [record["lr"] for record in records], where="mid", color="tab:orange", linewidth=1,
                   alpha=.7, label="learning rate")
    rate_axes.set(ylabel="learning rate", ylim=(0, None))
    for axes in (error_axes, loss_axes):
        axes.grid(alpha=.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    error_axes.legend(frameon=False)
    handles = [axes.get_legend_handles_labels() for axes in (loss_axes, rate_axes)]
    loss_axes.legend(*(sum(parts, []) for parts in zip(*handles)), frameon=False)
    with figures.words(title, longest=100) as (title,):
        figure.suptitle(title, fontsize=11)
        figures.save(figure, path)
