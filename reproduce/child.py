"""Runs a command that gets SIGTERM, once, when this process's parent dies, however that dies.

    python -m reproduce.child PARENT COMMAND ...      (PARENT: the parent's process id)

SIGTERM lets a training save itself, and a second one kills it. Linux can signal a process at its parent's death, but a
parent with threads dies a thread at a time and may send the signal several times; this process, which has no threads,
takes them and passes one on. A SIGTERM to itself it passes on every time. Its exit status is the command's.
"""
import contextlib
import os
import signal
import subprocess
import sys

from support.processes import at_parents_death, exit_status


def main():
    parent, *command = sys.argv[1:]
    told = []

    def pass_on(number, frame):
        if number == signal.SIGHUP and signal.SIGHUP in told:
            return
        told.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)

    at_parents_death(signal.SIGHUP, int(parent))
    own = os.getpid()
    # close_fds: the descriptor of the folder's lock goes on to the command.
    process = subprocess.Popen(command, close_fds=False, preexec_fn=lambda: at_parents_death(signal.SIGTERM, own))
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, pass_on)
    return exit_status(process.wait())


if __name__ == "__main__":
    sys.exit(main())
