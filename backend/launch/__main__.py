"""The launcher's command line."""
import sys
from pathlib import Path

from engine.cli import flags
from engine.cli.program import run_script
from support import ROOT, runtime
from support.errors import InputError

from .guard import Guard
from .hosts import Host, read_hosts
from .job import Job


def parse(arguments):
    """The launcher's flags, and the workers' command behind `--`."""
    parser = flags.Parser(prog="launch.sh", usage="%(prog)s -n WORKERS [flags] -- PROGRAM [its flags]",
                          description="Starts the workers of one training with MXNet's parameter server, supervises "
                          "them and ends all when one dies (docs/DISTRIBUTED.md).")
    parser.add_argument("-n", "--workers", type=flags.number(int, 1, 1000), required=True, metavar="N",
                        help="number of workers")
    parser.add_argument("-s", "--servers", type=flags.number(int, 1, 1000), metavar="N",
                        help="number of servers (default: one on each machine)")
    parser.add_argument("-H", "--hostfile", dest="hosts", type=read_hosts, metavar="FILE",
                        help="machines to reach over ssh, one 'name [slots=N] [address=N.N.N.N]' a line "
                        "(default: everything on this machine)")
    parser.add_argument("--timeout", type=flags.number(float, 1), default=300, metavar="SECONDS",
                        help="end the job unless all workers have joined by then (default 300)")
    parser.add_argument("--grace", type=flags.number(float, 1), default=60, metavar="SECONDS",
                        help="how long the workers may take to save and leave when asked to stop (default 60)")
    parser.add_argument("--log-dir", type=flags.words, metavar="DIR",
                        help="append every member's output to a file of its own, such as DIR/worker-0.log")
    own, command = arguments, []
    if "--" in arguments:
        own, command = arguments[:arguments.index("--")], arguments[arguments.index("--") + 1:]
    args, unknown = parser.parse_known_args(own)
    if unknown:
        parser.error(f"unknown: {' '.join(unknown)}; the program and its flags stand behind --")
    if not command:
        parser.error("no program is given: write it behind --, as in -n 2 -- train_imagenet.py ...")
    if any("\0" in word for word in command):
        parser.error("the command has a zero byte")
    args.command = _program(command, parser)
    hosts = args.hosts or [Host(slots=args.workers)]
    room = sum(host.slots for host in hosts)
    if args.workers > room:
        parser.error(f"-n {args.workers}: the hostfile has room for {room} (one a line, or slots=N)")
    args.places = [host for host in hosts for _ in range(host.slots)][:args.workers]
    args.used = [host for host in hosts if host in args.places]
    args.servers = args.servers or len(args.used)
    return args


def _program(command, parser):
    """A .py file is run by this Python; it is looked for here, then in the repository."""
    if not command[0].endswith(".py"):
        return command
    for folder in (Path.cwd(), ROOT):
        if (folder / command[0]).is_file():
            return [sys.executable, str(folder / command[0]), *command[1:]]
    parser.error(f"there is no program {command[0]} here or in {ROOT}")


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--member"]:
        return Guard().run()
    if arguments[:1] == ["--serve"] and arguments[1:] in (["server"], ["scheduler"]):
        runtime.prepare()  # so that a missing piece is a sentence
        from backend.gluon import distributed

        return distributed.serve(arguments[1])
    args = parse(arguments)
    if args.log_dir is not None:
        try:
            Path(args.log_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--log-dir {args.log_dir} cannot be made: {error.strerror}") from error
    return Job(args).run()


if __name__ == "__main__":
    sys.argv[0] = "launch.sh"
    run_script(main)
