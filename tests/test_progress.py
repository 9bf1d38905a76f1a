"""The progress bar, on pseudo-terminals, and the log lines beside it."""
import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import tiny

from engine import progress
from engine.data import in_memory
from engine.folders import LAST

ROOT = Path(__file__).resolve().parent.parent
# A run of 2 epochs of 8 steps, each of which takes longer than the pause between two redraws.
RUN = f"""
import signal, sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from support import runtime
runtime.prepare()
import tiny
from pathlib import Path
from engine import run, runlog
from engine.data import in_memory


class Slow(in_memory.TrainBatches):
    def epoch(self, *place):
        for batch in super().epoch(*place):
            time.sleep(.12)
            yield batch


runlog.start_logging()
folder = Path(sys.argv[1])
job = tiny.job(folder, batches=Slow(tiny.split(128), 16, 0), log_interval=3)
runlog.log_to_file(folder / "train.log")
try:
    run.train(job)
except run.Stopped as stop:
    runlog.log.warning("%s", stop)
    sys.exit(stop.status)
"""
BAR = re.compile(r"epoch (\d)/2 \|[^|]*\| (\d)/8([^\r]*)")


class Terminal:
    """A command on a terminal of its own. text : all that it wrote so far."""

    def __init__(self, *command, columns=100, ignored=None):
        self.text, (self.process, self.end) = "", pty.fork()
        if not self.process:
            for number in (signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL)
            os.execv(command[0], command)
        self.resize(columns)

    def resize(self, columns):
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read(self, pattern=None):
        """Read on until the text has the pattern, or to the end."""
        while pattern is None or not re.search(pattern, self.text):
            try:
                got = os.read(self.end, 1 << 16)
            except OSError:  # the end
                got = b""
            if not got:
                assert pattern is None, self.text
                break
            self.text += got.decode()
        return self

    def status(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


def screen(text):
    """The lines that a wide terminal shows at the end."""
    lines, column = [[]], 0
    for sign in text:
        assert sign != "\x1b"
        if sign == "\n":
            lines.append([])
        elif sign == "\r":
            column = 0
        else:
            lines[-1][column:column + 1] = [sign]
            column += 1
    return [shown for shown in ("".join(line).rstrip() for line in lines) if shown]


def logged(folder, beside_a_bar=False):
    """The lines of train.log without their times; those that a terminal shows, too, if it has a bar."""
    lines = [line.split(" ", 2)[2] for line in (folder / "train.log").read_text().splitlines()]
    return lines if not beside_a_bar else [line for line in lines if not line.startswith("Epoch[")]


# A run on a terminal and elsewhere.

def test_a_terminal_shows_a_bar_and_whole_log_lines_at_any_width(tmp_path):
    terminal = Terminal(sys.executable, "-c", RUN, str(tmp_path)).read(r"epoch 1/2 .* 4/8")
    wide = terminal.text
    terminal.resize(60)
    assert terminal.read().status() == 0
    lines = screen(terminal.text)
    assert lines == logged(tmp_path, beside_a_bar=True)
    assert [line for line in lines if line.startswith("[Epoch 1] validation: err-top1=")]
    bars = BAR.findall(terminal.text)
    assert {epoch for epoch, *_ in bars} == {"1", "2"} and {step for _, step, _ in bars} >= {"4", "5", "6"}
    words = BAR.findall(wide)[-1][2]
    assert re.fullmatch(r", loss \d\.\d{3}, acc 0\.\d{3}, \d+ s left, [\d,]+ img/s, lr 0\.1 *", words)
    later = [match[0] for match in BAR.finditer(terminal.text[len(wide):])][2:]  # two may be on their way
    assert later and max(map(len, later)) <= 60 and "loss" in later[-1]


def test_a_pipe_gets_plain_lines_at_the_interval(tmp_path):
    done = subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert "\r" not in done.stderr and lines == logged(tmp_path)
    steps = [re.fullmatch(r"Epoch\[(\d)\] Batch \[(\d)\]\tSpeed: \d+\.\d{6} samples/sec\taccuracy=[01]\.\d{6}\t"
                          r"lr=(0\.\d{6})", line) for line in lines if line.startswith("Epoch[")]
    assert [match.groups() for match in steps] == [(epoch, step, rate) for epoch, rate in (
        ("0", "0.100000"), ("1", "0.010000")) for step in ("3", "6")]
    assert len([line for line in lines if re.fullmatch(
        r"\[Epoch \d\] validation: err-top1=[01]\.\d{6} err-top5=[01]\.\d{6}", line)]) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_a_clean_terminal(tmp_path, number):
    terminal = Terminal(sys.executable, "-c", RUN, str(tmp_path)).read(r"epoch 1/2 .* 3/8")
    if number == signal.SIGINT:
        os.write(terminal.end, b"\x03")  # Ctrl-C, whose echo the terminal adds
    else:
        os.kill(terminal.process, number)
    assert terminal.read().status() == 128 + number
    lines = screen(terminal.text.replace("^C", ""))
    assert lines == logged(tmp_path, beside_a_bar=True)
    assert lines[-1].startswith(f"stopped by {number.name} in epoch 0 after step ") and (tmp_path / LAST).exists()


def test_a_terminal_that_goes_away_under_the_bar_does_not_end_a_run_that_ignores_it(tmp_path):
    terminal = Terminal(sys.executable, "-c", RUN, str(tmp_path), ignored=signal.SIGHUP).read(r"epoch 1/2 .* 2/8")
    os.close(terminal.end)
    assert terminal.status() == 0 and (tmp_path / "result.json").exists()
    assert logged(tmp_path)[-1].startswith("[Epoch 1] validation: ")


# The bar itself.

def test_the_bar_is_silent_where_there_is_no_terminal(capsys):
    with progress.progress_bar(3, "epoch 1/2") as bar:
        bar.update()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("size", [(80, 24), (0, 0)])
@pytest.mark.parametrize("shown", [True, False])
def test_the_bar_shows_itself_on_a_terminal_of_the_worker_that_speaks(monkeypatch, size, shown):
    terminal = io.StringIO()
    terminal.isatty, terminal.fileno = lambda: True, lambda: 2
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size(size))
    with progress.progress_bar(3, "epoch 1/2", initial=1, shown=shown) as bar:
        bar.update()
        bar.refresh()
    assert ("epoch 1/2" in terminal.getvalue() and "2/3" in terminal.getvalue()) == shown
    assert bool(terminal.getvalue()) == shown


@pytest.mark.parametrize("pause, seen", [(1.2, True), (0, False)])
def test_scoring_shows_a_bar_if_it_takes_long(pause, seen):
    code = (f"import sys, time; sys.path.insert(0, {str(ROOT)!r}); from engine import progress\n"
            f"with progress.scoring_bar(range(4), 'scoring') as bar:\n    time.sleep({pause})\n    bar.update()")
    terminal = Terminal(sys.executable, "-c", code).read()
    assert terminal.status() == 0 and ("1/4" in terminal.text) == seen and not screen(terminal.text)


@pytest.mark.parametrize("backend", ["gluon", "torch"])
def test_a_score_tells_of_each_batch(tmp_path, backend):
    program = tiny.job(tmp_path).program
    if backend == "torch":
        torch = pytest.importorskip("torch")
        from backend.torch.program import scorer
        program, _ = scorer(program.net, [torch.device("cpu")], None)
    told = []
    scores = program.score(in_memory.EvalBatches(tiny.split(25, 9), 10), 10, lambda: told.append(1))
    assert scores.images == 25 and len(told) == 3
