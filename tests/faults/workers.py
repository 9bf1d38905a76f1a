"""A member of a two-worker training is killed, then the same command goes on with the run."""
import os
import random
import re
import signal
import time

from .suite import FAULT, Case, Round, Theme

import imagenet_files  # isort: skip - found by this package
from launched import Launched  # isort: skip
from support import params_file  # isort: skip

PROGRAM = "train_imagenet.py"
# What tells the command line of a member; the launcher's own has the program too.
VICTIMS = {"a worker": rf"^\S+ \S*{re.escape(PROGRAM)}", "a server": "--serve server",
           "the scheduler": "--serve scheduler", "the launcher": "backend.launch -n"}
PROMISED = 60  # seconds in which the job ends
SENTENCES = {"a worker": "worker", "a server": "server", "the scheduler": "scheduler"}


class Jobs:
    """Two workers with a server on this machine, on a few images."""

    def __init__(self, folder):
        self.folder = folder
        for split, counts in (("train", (8, 8, 8)), ("val", (2, 2, 2))):
            imagenet_files.folder(folder / "data" / split, counts, seed=len(split))
        self.expected = self.finish("undisturbed", "--save-dir", "undisturbed")

    def start(self, *arguments):
        return Launched("-n", 2, "--", PROGRAM, "--kvstore", "dist_sync_device", "--gpus", "", "--data-dir",
                        self.folder / "data", "--recipe", "paper", "--lr", ".001", "--input-size", "64", "--batch-size",
                        "4", "--num-epochs", "2", "--save-interval", "1", "--log-interval", "1", *arguments,
                        folder=self.folder)

    def finish(self, run, *arguments):
        """Train to the end; returns the weights. RuntimeError where that fails."""
        job = self.start(*arguments)
        try:
            if job.end(300):
                raise RuntimeError(job.text()[-1000:])
        finally:
            job.clear()
        return {name: array.tobytes() for name, array in params_file.read(self.folder / run / "last.params")[0].items()}

    def round(self, victim, rng, number):
        """Kill a victim at some instant after the first steps, look at the end, and go on."""
        run = f"run-{number}"
        job = self.start("--save-dir", run)
        try:
            job.until(lambda: (self.folder / run / "last.params").exists(), 120)
            time.sleep(rng.uniform(0, 3))
            found = job.processes(VICTIMS[victim])
            if not found:
                return Round(victim, "it was through before")
            os.kill(rng.choice(found), signal.SIGKILL)
            killed = time.monotonic()
            status = job.end(PROMISED)
            if not job.nothing_is_left(PROMISED - (time.monotonic() - killed)):
                return Round(victim, FAULT, f"processes are left: {job.text()[-500:]}")
            if victim in SENTENCES and (status == 0 or SENTENCES[victim] not in job.sentence()):
                return Round(victim, FAULT, f"status {status}: {job.text()[-500:]}")
        finally:
            job.clear()
        try:
            weights = self.finish(run, "--resume", run)
        except RuntimeError as error:
            return Round(victim, FAULT, f"it does not go on: {error}")
        return Round(victim, "ended; went on to the same bits" if weights == self.expected else FAULT,
                     "other weights than those of the run that nobody disturbed")


def run(rounds, seed, folder):
    rng, jobs, victims = random.Random(seed), Jobs(folder), list(VICTIMS)
    for number in range(rounds):
        yield jobs.round(victims[number % len(victims)], rng, number)


ENDS = f"the whole job ends within {PROMISED} s, with a sentence that names who died, and no process is left; " \
    "`--resume` gives the weights of an undisturbed run, to the bit"
THEME = Theme("workers", "Several workers, one of which is killed", 40, (
    Case("a worker", ENDS, "the steps since the newest checkpoint, which are trained again"),
    Case("a server", ENDS, "the same"),
    Case("the scheduler", ENDS, "the same"),
    Case("the launcher", "the members end by themselves within 60 s; `--resume` as above", "a sentence, because no "
         "process is left to print it")), run)
