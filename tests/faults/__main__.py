"""python -m tests.faults [--only THEME] [--rounds N] [--seed S] [--json FILE]"""
import sys
import tempfile

from . import suite  # isort: skip - finds the project
from engine.cli import flags
from engine.cli.program import clean_up_at_interrupt, run_script
from support import runtime


def parse(argv=None):
    parser = flags.Parser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", choices=suite.MODULES, metavar="THEME", action="append",
                        help=f"one of {', '.join(suite.MODULES)}; may be given several times (default: all)")
    parser.add_argument("--rounds", type=flags.number(int, 1), metavar="N", help="of each theme (default: its own "
                        "number)")
    parser.add_argument("--seed", type=flags.number(int, 0), default=0, metavar="S", help="of the faults (default 0)")
    parser.add_argument("--json", type=flags.words, metavar="FILE", help="merge the tally into FILE")
    return parser.parse_args(argv)


def main():
    args = parse()
    runtime.prepare()
    if args.json:
        suite.read_records(args.json)  # a wrong file is noticed before the work
    faults, terminal, themes = 0, sys.stderr.isatty(), suite.themes()
    clean_up_at_interrupt()
    for name, theme in themes.items():
        if args.only and name not in args.only:
            continue
        done = 0

        def told(round_, name=name):
            nonlocal done
            done += 1
            if round_.outcome == suite.FAULT:
                print(f"{name} {round_.case}: {round_.detail}", file=sys.stderr, flush=True)
            elif terminal and done % 10 == 0:
                print(f"{name} {done}", end="\r", file=sys.stderr, flush=True)

        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            record = suite.tally(theme, args.rounds or theme.rounds, args.seed, folder, told)
        print(suite.as_text(name, record), flush=True)
        faults += len(record["faults"])
        if args.json:  # what is done stays when a later theme is interrupted
            suite.keep(args.json, {name: record})
    return 1 if faults else 0


if __name__ == "__main__":
    sys.argv[0] = "faults"
    run_script(main)
