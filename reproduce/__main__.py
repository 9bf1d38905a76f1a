"""python -m reproduce publish RUN --name NAME ... | python -m reproduce report"""
import argparse
import sys

from engine import flags


def labelled(text):
    """A type for argparse: LABEL=VALUE as a pair."""
    label, mark, value = text.partition("=")
    if not (mark and label.strip() and value.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form LABEL=DIR")
    return label, value


def parse(argv=None):
    parser = flags.Parser(prog="reproduce", description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True, metavar="publish | report")
    publish = tasks.add_parser("publish", help="put a finished run's weights into params/ and its record into results/")
    publish.add_argument("run", type=flags.words, help="folder of the run")
    publish.add_argument("--name", type=flags.words, required=True, help="name of the entry in params/manifest.json")
    publish.add_argument("--data-dir", type=flags.words, required=True, help="the data that the run was trained on")
    publish.add_argument("--also", type=labelled, action="append", default=[], metavar="LABEL=DIR",
                         help="evaluate on the test images in DIR too; the tables call them LABEL")
    publish.add_argument("--remark", type=flags.words, help="what the tables call the run's data, if not their variant")
    tasks.add_parser("report", help="render the tables in README.md anew")
    return parser.parse_args(argv)


def main():
    args = parse()
    if args.task == "publish":
        from .publish import publish
        print(publish(args.run, args.name, args.data_dir, args.also, args.remark))
    from .report import update_readme
    print("README.md: " + ("its tables were rendered anew" if update_readme() else "its tables were up to date"))
    return 0


if __name__ == "__main__":
    sys.argv[0] = "reproduce"
    flags.run_script(main)
