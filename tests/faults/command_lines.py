"""Every flag of every command with values that are absent, empty, negative, huge, of other types and of other scripts.

What is legal is asked of the parsers themselves: a flag's type and choices. Values are parsed in this process by the
thousand; of the commands, as their users start them, a sample.
"""
import argparse
import contextlib
import importlib
import io
import os
import random
import resource
import subprocess
import sys
import time
from unittest import mock

from . import ROOT
from .suite import FAULT, Case, Round, Theme

PARSED, REAL, EXTREME, TOGETHER = ("flags with odd values, parsed", "flags with wrong values, the command as it is run",
                                   "flags with extreme values that are legal", "flags that exclude each other")
LONGEST = 6.0  # seconds for the answer to a wrong flag, on a machine that is busy
PATIENCE = 90.0  # seconds for a whole small run
ROOM = 8 << 30  # bytes of addresses for a command

VALUES = ("", " ", "-1", "-0.5", "0", "1", "2", "1.5", "nan", "inf", "-inf", "1e400", "1e-400", "9" * 30,
          "-" + "9" * 30, "9" * 5000,
          "x", "ü", "\udcff", "\u0661", "a\nb", "\t", "0x10", "1_000", "1,", ",", ",,", "1,2,x", "--", "-", "-x",
          "None", "True",
          "%s", "%", "{}", "[]", "$(x)", "*", "a" * 5000, "../..", "/", "/dev/null", "/dev/full", "\u202e", "~",
          "~nobody/x",
          "2147483648", "4294967296", "9223372036854775808", "1e308", "-0", "+1", "1 2", "on", "off", "all",
          "cifar10", "auto", "relu")
EXTREMES = ("1", "64", "1000000000", "2147483647", "2147483648", "1000000000000000000", "9" * 30, "9" * 400, "0",
            "1e300", "1e-300",
            "0.999999", "3e38", "1e38")


class Program:
    """A command: its module, how it is started, and small legal words for a whole run (with a place for the data)."""

    def __init__(self, name, module, start, words=()):
        self.name, self.module, self.start, self.words = name, module, start, words

    def parsers(self):
        """[(words in front, parser)]: the command's own parser, or those of its tasks."""
        caught = []

        def catch(parser, *_, **__):
            caught.append(parser)
            raise _Caught

        module = importlib.import_module(self.module)
        with mock.patch.object(argparse.ArgumentParser, "parse_known_args", catch), contextlib.suppress(_Caught):
            (getattr(module, "parse", None) or module.main)([])
        tasks = [action for action in caught[0]._actions if isinstance(action, argparse._SubParsersAction)]
        if not tasks:
            return [((), caught[0])]
        return [((name,), parser) for name, parser in tasks[0].choices.items()]

    def parse(self, words):
        """What the command itself says to a command line: checks between flags too, where they have a function."""
        module = importlib.import_module(self.module)
        if hasattr(module, "parse"):
            return module.parse(words)
        return self.parsers()[0][1].parse_args(words)


class _Caught(Exception):
    pass


PYTHON = sys.executable
PROGRAMS = (
    Program("train_cifar.py", "train_cifar", ["train_cifar.py"],
            ["--model", "resnet20_v2", "--blocks", "1", "--num-epochs", "1", "--batch-size", "16", "--gpus", "",
             "--data-dir", "{data}", "--save-dir", "{out}"]),
    Program("train_imagenet.py", "train_imagenet", ["train_imagenet.py"]),
    Program("evaluate.py", "evaluate", ["evaluate.py"],
            ["--params", "{params}", "--gpus", "", "--data-dir", "{data}"]),
    Program("visualize.py", "visualize", ["visualize.py"]),
    Program("reproduce", "reproduce.__main__", ["-m", "reproduce"], ["run", "table3", "--dry-run", "--data-dir",
                                                                     "{data}"]),
    Program("benchmarks", "benchmarks.__main__", ["-m", "benchmarks"], ["--list"]),
    Program("engine.data", "engine.data.__main__", ["-m", "engine.data"],
            ["--data-dir", "{data}", "--seconds", "0.1"]),
    Program("engine.data.prepare_imagenet", "engine.data.prepare_imagenet", ["-m", "engine.data.prepare_imagenet"]),
    Program("ops.build", "ops.build", ["-m", "ops.build"]),
    Program("support.runtime", "support.runtime", ["-m", "support.runtime"]),
    Program("tests.faults", f"{__package__}.__main__", ["-m", "tests.faults"]),
)


def flags_of(program):
    """[(words in front, action, spelling)] of all that may be given to a command; positionals have no spelling."""
    found = []
    for front, parser in program.parsers():
        needed = [_any_of(action) for action in parser._actions if not action.option_strings
                  and action.nargs not in ("?", "*", argparse.REMAINDER)]
        for action in parser._actions:
            if isinstance(action, argparse._HelpAction):
                continue
            if action.option_strings:
                found += [((*front, *needed), action, spelling) for spelling in action.option_strings]
            elif action.nargs != argparse.REMAINDER:
                found.append((front, action, None))
    return found


def _any_of(action):
    """A legal word for a positional argument."""
    return str(next(iter(action.choices))) if action.choices else "x"


def legal(action, value):
    """Whether a flag's type and choices take a value."""
    try:
        made = action.type(value) if action.type else value
    except (argparse.ArgumentTypeError, TypeError, ValueError, MemoryError):
        return False
    return action.choices is None or made in action.choices


def takes_a_value(action):
    return action.nargs != 0


def parsed(program, front, action, spelling, value):
    """(outcome, detail) of parsing one value in this process."""
    if value is None:  # left out
        words = [*front, spelling]
        fits = not takes_a_value(action) or action.nargs in ("?", "*")
    else:
        words = [*front, spelling, value] if spelling else [*front, value]
        fits = takes_a_value(action) and legal(action, value)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            program.parse(words)
    except SystemExit as end:
        text = err.getvalue()
        if end.code != 2:
            return FAULT, f"exit status {end.code}"
        return one_sentence(text, len(value or ""))
    except Exception as error:  # a traceback for the user
        return FAULT, f"{type(error).__name__}: {str(error)[:100]}"
    # A word behind a flag that takes none is the next positional argument.
    if value is not None and not fits and takes_a_value(action) and not value.startswith("-"):
        return FAULT, "accepted, but neither type nor choices take it"
    return "taken", ""


def one_sentence(text, longest=0):
    """(outcome, detail) of what a refused command line has on standard error; longest: letters of the user's own."""
    lines = text.strip().splitlines()
    if len(lines) != 1 or "Traceback" in text:
        return FAULT, f"{len(lines)} lines in place of one: {text[:200]!r}"
    if len(lines[0]) > 1000 + longest:
        return FAULT, f"a sentence of {len(lines[0]):,} letters"
    return "refused", lines[0]


def started(program, words, places, folder, patience):
    """(exit status, stderr, seconds) of a command as users start it; None where it did not end in time."""
    words = [word.format(**places) if word in ("{data}", "{params}", "{out}") else word for word in words]
    environment = {**os.environ, "MXNET_HOME": str(folder / "no data"), "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    process = subprocess.Popen(
        [PYTHON, *_rooted(program.start), *words], cwd=folder, env={**environment, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM)))
    try:
        _, err = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None
    return process.returncode, err.decode(errors="replace"), time.monotonic() - began


def _rooted(start):
    return [str(ROOT / start[0])] if start[0].endswith(".py") else start


def given(program, action, spelling, value):
    """A whole command line with one more flag; of a task, only if the small words have it."""
    return [*program.words, spelling, value] if spelling else [*program.words]


@contextlib.contextmanager
def bounded():
    """No more addresses than 2 GiB beyond those of this process: a flag must not make it grow."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (2 << 30), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def run(rounds, seed, folder):
    sys_argv = sys.argv
    programs = list(PROGRAMS)
    flags = [(program, *flag) for program in programs for flag in flags_of(program)]
    places = None
    try:
        for number in range(rounds):
            rng = random.Random(f"{seed}/flags/{number}")
            if number % 50 == 48:
                yield together(rng, programs)
            elif number % 100 == 49:
                program, front, action, spelling = rng.choice(flags)
                with bounded():
                    wrong = [value for value in VALUES if not legal(action, value) and value not in ("", "\udcff")]
                if not wrong or not takes_a_value(action):
                    program, front, action, spelling, wrong = programs[0], (), None, "--nonsense", ["x"]
                yield real(rng, program, front, spelling, rng.choice(wrong), folder)
            elif number % 100 == 99:
                places = places or prepared(folder)
                yield extreme(rng, flags, places, folder, number)
            else:
                program, front, action, spelling = flags[(number * 7919 + seed) % len(flags)]
                value = rng.choice((None, *VALUES)) if spelling else rng.choice(VALUES)
                with bounded():
                    outcome, detail = parsed(program, front, action, spelling, value)
                yield Round(PARSED, outcome, f"{program.name} {' '.join(front)} {spelling} {value!r:.60}: {detail}")
    finally:
        sys.argv = sys_argv


def together(rng, programs):
    """Two flags of a group that excludes them, if there is one."""
    groups = [(program, front, group) for program in programs for front, parser in program.parsers()
              for group in parser._mutually_exclusive_groups]
    program, front, group = rng.choice(groups)
    first, second = rng.sample(group._group_actions, 2)
    words = list(front)
    for action in (first, second):
        words.append(action.option_strings[0])
        if takes_a_value(action):
            words.append(next(value for value in ("1", "0", "x", "on") if legal(action, value)))
    try:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            program.parse(words)
    except SystemExit:
        outcome, detail = one_sentence(err.getvalue())
    else:
        outcome, detail = FAULT, "accepted"
    return Round(TOGETHER, outcome, f"{program.name} {' '.join(words)}: {detail}")


def real(rng, program, front, spelling, value, folder):
    """A wrong value in a real command: exit status 2 and one line, soon."""
    words = [*front, spelling, value] if spelling else [*front, value]
    said = f"{program.name} {' '.join(words)!r:.100}"
    if "\0" in value:
        return Round(REAL, "refused", said)
    answer = started(program, words, {}, folder, PATIENCE)
    if answer is None:
        return Round(REAL, FAULT, f"{said}: no answer in {PATIENCE:g} s")
    status, err, seconds = answer
    outcome, detail = one_sentence(err, len(value))
    if status != 2 and outcome != FAULT:
        outcome, detail = FAULT, f"exit status {status}: {detail}"
    if seconds > LONGEST:
        outcome, detail = FAULT, f"answered after {seconds:.1f} s: {detail}"
    return Round(REAL, outcome, f"{said}: {detail}")


def prepared(folder):
    """The data, the weights and the folder of a small real run."""
    import tiny

    import model

    net = tiny.ready(model.get_model("resnet20_v2", blocks=1), 3, mode="imperative")
    params = folder / "net.params"
    tiny.save(params, net, tiny.saved())
    return {"data": tiny.cifar10(folder / "data", 32, 20), "params": str(params), "out": str(folder / "out")}


def extreme(rng, flags, places, folder, number):
    """A legal value at the end of its range in a whole small run: it runs, or ends with a sentence."""
    able = [flag for flag in flags if flag[0].words and flag[3] and takes_a_value(flag[2]) and flag[2].type is not None
            and flag[2].dest not in ("epochs", "repeats", "seconds") and any(legal(flag[2],
                                                                                   value) for value in EXTREMES)
            and (len(flag[1]) == 0 or flag[1][0] == flag[0].words[0])]
    program, _, action, spelling = rng.choice(able)
    value = rng.choice([value for value in EXTREMES if legal(action, value)])
    places = {**places, "out": str(folder / f"out-{number}")}
    answer = started(program, [*program.words, spelling, value], places, folder, PATIENCE)
    said = f"{program.name} {spelling} {value[:40]}"
    if answer is None:
        return Round(EXTREME, FAULT, f"{said}: no end in {PATIENCE:g} s")
    status, err, seconds = answer
    if status == 0:
        return Round(EXTREME, "taken", said)
    lines = err.strip().splitlines() or [""]
    if status not in (1, 2) or "Traceback" in err or not lines[-1].strip():
        return Round(EXTREME, FAULT, f"{said}: exit status {status}: {lines[-1][:200]}")
    return Round(EXTREME, "refused", f"{said}: {lines[-1][:200]}")


THEME = Theme("command_lines", "Command lines", 6000, (
    Case(PARSED, "values outside the flag's type and choices are refused: one sentence that names the flag, exit "
                 "status 2", "that a flag given twice is refused: the last value counts, as in argparse"),
    Case(REAL, f"the same from the command itself, before MXNet or data are loaded, within {LONGEST:g} seconds on a "
               f"busy core"),
    Case(EXTREME, "the command runs or is refused: no abort, no traceback, no endless allocation"),
    Case(TOGETHER, "refused, not ignored"),
), run)
