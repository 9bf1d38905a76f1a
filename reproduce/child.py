"""Runs a command, and sends it one SIGTERM when this process's parent dies in any way.

    python -m reproduce.child PARENT COMMAND ...      (PARENT: the parent's process id)

The first SIGTERM lets a training save itself, a second one kills it. Linux can signal a process at its parent's death,
but a parent with threads dies thread by thread and may send the signal several times. This process has no threads,
takes these signals and passes one on. It passes on every SIGTERM that it gets itself. Its exit status is the command's.
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
    # close_fds=False: the command inherits the descriptor of the folder's lock.
    process = subprocess.Popen(command, close_fds=False, preexec_fn=lambda: at_parents_death(signal.SIGTERM, own))
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, pass_on)
    return exit_status(process.wait())


if __name__ == "__main__":
    sys.exit(main())
