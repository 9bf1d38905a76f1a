"""Measures this project and its peers, interleaved.

    python -m benchmarks                         everything, into results/benchmarks/measurements.json
    python -m benchmarks --only step/atac-b1     the groups with this text in their names (--list shows the names)
    python -m benchmarks --quick --only ceilings a test on tiny sizes; its numbers mean nothing

A run replaces the groups that it measures in the file and keeps the others, so you can measure in parts.
`python -m benchmarks.report` renders docs/PERFORMANCE.md from the file. PyTorch and ONNX Runtime are optional
(requirements-bench.txt). Nothing else should be running: each record says how busy the rest of the machine was.
"""
import dataclasses
import logging
import sys
import time

from engine.cli import flags
from engine.cli.program import clean_up_at_interrupt, run_script
from support import ROOT, python
from support.errors import InputError
from support.threads import usable_cores
from support.words import counted

log = logging.getLogger("benchmarks")

DEFAULT_OUT = ROOT / "results" / "benchmarks" / "measurements.json"


def parse(argv=None):
    parser = flags.Parser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes and two rounds; writes only with --out")
    parser.add_argument("--only", type=flags.words, metavar="TEXT", help="only the variants with TEXT in GROUP/VARIANT")
    parser.add_argument("--list", action="store_true", help="show every GROUP/VARIANT and measure nothing")
    parser.add_argument("--repeats", type=flags.number(int, 1), metavar="N", help="rounds (default 5; 2 with --quick)")
    parser.add_argument("--threads", type=flags.number(int, 1, flags.MOST_THREADS), metavar="N",
                        help="threads of every framework (default: cores)")
    parser.add_argument("--full", action="store_true", help="whole epochs of the data in --data-dir, not parts")
    parser.add_argument("--data-dir", type=flags.words, metavar="DIR", help="CIFAR-10 (default: the sample that ships)")
    parser.add_argument("--out", type=flags.words, metavar="FILE.json", help="merge the records into FILE.json")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    python.installed_build()  # without MXNet, one message here instead of the same one from each contender
    from . import groups, harness

    scale = dataclasses.replace(groups.QUICK if args.quick else groups.Scale(), workers=args.threads or usable_cores(),
                                **{"data_dir": args.data_dir} if args.data_dir else {},
                                **{"steps": None, "evaluated": None} if args.full else {})
    chosen = groups.chosen(scale, args.only or "")
    if not chosen:
        raise InputError(f"--only {args.only}: no name contains this; --list shows the names")
    if args.list:
        for group in chosen:
            print("\n".join(f"{group.name}/{variant.name}" for variant in group.variants))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    changes = {"repeats": 2, "seconds": 0, "quick": True} if args.quick else {}
    changes.update({name: getattr(args, name) for name in ("repeats", "threads") if getattr(args, name)})
    plan = harness.Plan(**changes)
    out = args.out or (None if args.quick else DEFAULT_OUT)
    if out is not None:
        harness.read_records(out)  # so that a wrong file is noticed before the work
    clean_up_at_interrupt()
    began = time.monotonic()
    for name, record in harness.run(chosen, plan, out):
        print(f"{name} ({record['took_seconds']:.0f} s)\n{harness.as_text(record)}".rstrip(), flush=True)
    log.info("%s in %.0f s%s", counted(len(chosen), "group"), time.monotonic() - began,
             f", written to {out}" if out else "")
    return 0


if __name__ == "__main__":
    sys.argv[0] = "benchmarks"
    run_script(main)
