"""Train the runs of the paper's tables and figures, publish their weights, check them, and render the report."""
import argparse
import logging
import sys
from pathlib import Path

from engine.cli import flags
from engine.cli.program import clean_up_at_interrupt, run_script
from engine.recipe import CIFAR_PAPER
from support import runtime
from support.files import expanded, writing
from support.words import counted

from . import grid

PROGRAM = "reproduce"

log = logging.getLogger("engine.reproduce")


def filters(text):
    """A type for argparse: filters between commas."""
    found = tuple(part.strip() for part in text.split(",") if part.strip(" /"))
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a filter such as cifar10/atac/b1")
    return found


def name():
    """The name of the called program: a script of scripts/, or this module."""
    return flags.program(PROGRAM)


def parse(argv=None):
    parser = flags.Parser(prog=name(), description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK", help="(TASK --help lists its options)")

    run = tasks.add_parser("run", help="train the missing runs of a table or figure, then render and print it")
    run.add_argument("exhibit", choices=tuple(grid.EXHIBITS))
    run.add_argument("--dry-run", action="store_true", help="only print what would run, with estimated times")
    run.add_argument("--only", type=filters, action="append", default=[], metavar="WORD/WORD",
                     help="only the runs that have all these words, such as cifar10/atac/b1, or stagewise/b1 for fig6; "
                     "several filters, between commas or as several flags, add up")
    run.add_argument("--extras", action="store_true", help="also the runs that the paper's exhibit does not show: the "
                     "100 fine labels of CIFAR-100; GELU and PReLU (footnote 2) in fig7")
    run.add_argument("--epochs", type=flags.number(int, 1, CIFAR_PAPER.epochs), default=CIFAR_PAPER.epochs, metavar="N",
                     help="scale the schedule to N epochs; the report marks such results as short (default: the "
                     f"paper's {CIFAR_PAPER.epochs})")
    run.add_argument("--seeds", type=flags.number(int, 1), default=1, metavar="K", help="seeds 0 to K-1 (default 1)")
    run.add_argument("--gpus", type=flags.numbers, metavar="N,N", help="GPUs to use, one run on each; '' for the CPU "
                     "(default: all GPUs, or the CPU)")
    run.add_argument("--jobs", type=flags.number(int, 1), metavar="N", help="runs at a time (default: one on each GPU, "
                     "or one on each core of the CPU)")
    run.add_argument("-j", "--num-data-workers", type=flags.number(int, 0, flags.MOST_THREADS), default=1, metavar="N",
                     help="threads of each run that prepare batches ahead (default 1)")
    run.add_argument("--data-dir", type=flags.words, metavar="DIR", help="folder of the data, or a folder that holds "
                     "cifar10 and cifar100; default ~/.mxnet/datasets")
    run.add_argument("--mirror", type=flags.words, metavar="URL", help="folder to download missing data from")
    run.add_argument("--results", type=flags.words, metavar="DIR", help="another ledger than results/, for trials")
    run.add_argument("--runs", type=flags.words, metavar="DIR", help="folder of the runs' folders (default runs/grid); "
                     "unfinished runs in it are resumed")

    watch = tasks.add_parser("watch", help="show the runs of a grid under way: again every few seconds on a terminal, "
                             "until Ctrl-C, else once")
    watch.add_argument("--runs", type=flags.words, metavar="DIR",
                       help="folder of the runs' folders (default runs/grid)")
    watch.add_argument("--once", action="store_true", help="show them once")

    tasks.add_parser("table4", help="print Table IV: the published numbers and the counts of the nets")
    rehearse = tasks.add_parser("rehearse", help="run the ImageNet scripts from end to end on a sample and record it "
                                "in results/imagenet-sample and docs/IMAGENET.md")
    rehearse.add_argument("sample", type=flags.words, help="folder with one folder of images per class, at least 32")
    tasks.add_parser("graphs", help="write params/graphs.xz, the nets' graphs for machines without MXNet, again")
    tasks.add_parser("report", help="render results/README.md, its figures and the tables of README.md and docs/ again")

    publish = tasks.add_parser("publish", help="put a finished run into the ledger and its weights into params/")
    record = tasks.add_parser("record", help="put a finished run into the ledger, without its weights")
    for task in (publish, record):
        task.add_argument("run", type=flags.words, help="folder of the run, or its name in runs/grid/")
        task.add_argument("--data-dir", type=flags.words, help="the run's data (default: the folder that the run used)")
    publish.add_argument("--name", type=flags.words, help="name of the entry in params/manifest.json (default: from "
                         "net, b and data)")
    publish.add_argument("--replace", action="store_true", help="replace the weights that have this name")

    download = tasks.add_parser("download", help="fetch the weights that do not ship, with resume and checks")
    download.add_argument("name", nargs="?", default="all", help="a name of --list, or all (default)")
    download.add_argument("--list", action="store_true", help="list the weights and whether they are here")
    download.add_argument("--mirror", type=flags.words, metavar="PLACE", help="fetch from this address or path, of a "
                          "folder with the files or of the file")

    verify = tasks.add_parser("verify", help="check the checksum and the score of every file in params/")
    verify.add_argument("--data-dir", type=flags.words, help="the data to evaluate on (default: the usual place, or "
                        "the sample that ships)")
    statistics = tasks.add_parser("batch-statistics", help="score our weights with running statistics and with those "
                                  "of each batch, and record it in results/batch_statistics.json")
    statistics.add_argument("--data-dir", type=flags.words, help="the data to evaluate on (default: the usual place)")
    if parser.prog != PROGRAM:  # a script, whose name says the task
        for each in tasks.choices.values():
            each.prog = parser.prog
    return parser.parse_args(argv)


def run(args):
    """Train an exhibit's runs and print its tables; the exit status is 1 if a run failed."""
    from backend import choose
    from engine import runlog

    from . import ledger, plan, report, runner

    exhibit = grid.EXHIBITS[args.exhibit]
    entries = grid.select(exhibit, [text for texts in args.only for text in texts], args.extras)
    cells = dict.fromkeys(entry.cell for entry in entries)
    runs = [grid.run(cell, args.epochs, seed) for seed in range(args.seeds) for cell in cells]
    backend = choose(on_gpu=args.gpus != ())
    gpus = range(backend.present()) if args.gpus is None else [
        number for number in args.gpus if backend.kind(backend.devices([number])[0]) == "gpu"]
    options = plan.Options(
        gpus=tuple(gpus), jobs=args.jobs or plan.default_jobs(gpus, runs),
        data_dir=args.data_dir, mirror=args.mirror, workers=args.num_data_workers,
        results=Path(args.results).resolve() if args.results else ledger.RESULTS,
        work=Path(args.runs).resolve() if args.runs else grid.WORK)
    if args.dry_run:
        print(plan.text(runs, options))
        return 0

    runlog.start_logging()
    ledger.require_writable(options.results)
    with writing(options.work, "give another --runs"):
        options.work.mkdir(parents=True, exist_ok=True)
    runlog.log_to_file(options.work / f"{exhibit.name}.log")
    trainings = runner.Grid(runs, options)
    try:
        trainings.train()
    except runner.Stopped as stop:
        log.warning("%s", stop)
        return stop.status
    if trainings.done:
        render(options.results)
        print(report.own_text(exhibit, runs, trainings.data, options.results))
    for reason in dict.fromkeys(reason for _, reason in trainings.failures):
        failed = [run for run, why in trainings.failures if why == reason]
        others = f" and {counted(len(failed) - 1, 'other')}" if len(failed) > 1 else ""
        print(f"{name()}: {grid.key(failed[0])}, seed {failed[0].seed}{others} failed: {reason}", file=sys.stderr)
    return 1 if trainings.failures else 0


def render(results=None):
    """Render the report of a results folder; for the repository's own folder also README.md's tables."""
    from . import ledger, report

    results = results or ledger.RESULTS
    changed = report.update(results)
    if results == ledger.RESULTS:
        changed = report.update_pages() or changed
    print(f"{name()}: the report in {results} was " + ("rendered again" if changed else "up to date"), file=sys.stderr)


def main():
    args = parse()
    if args.task == "watch":  # needs no framework
        from .watch import watch
        watch(expanded(args.runs) if args.runs else grid.WORK, args.once)
        return 0
    runtime.prepare(torch=True)  # before NumPy and MXNet load, so that a missing package gives a clear message
    if args.task == "run":
        return run(args)
    if args.task == "table4":
        from .nets import table4
        print(f"{name()}: train_imagenet.py trains these nets, for days on several GPUs; this command only prints the "
              "published scores and the counts of the nets", file=sys.stderr)
        print(table4())
    elif args.task == "rehearse":
        from .rehearsal import rehearse
        clean_up_at_interrupt()
        rehearse(args.sample)
        render()
    elif args.task == "graphs":
        from model import graph_file

        from . import graphs
        graph_file.write(graphs.traced())
    elif args.task == "report":
        render()
    elif args.task == "publish":
        from .publish import publish
        print(publish(args.run, args.name, args.data_dir, args.replace))
        render()
    elif args.task == "record":
        from .publish import record
        print(record(args.run, args.data_dir))
        render()
    elif args.task == "download":
        from . import weights
        if args.list:
            print(weights.table())
        else:
            weights.download(args.name, args.mirror)
    elif args.task == "batch-statistics":
        from . import batch_statistics
        batch_statistics.measure(args.data_dir)
        render()
    elif args.task == "verify":
        from . import weights
        return 1 if weights.verify(args.data_dir) else 0
    return 0


if __name__ == "__main__":
    sys.argv[0] = name()
    run_script(main)
