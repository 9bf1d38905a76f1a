"""What the tests of Horovod run as a worker: team_program.py TASK FOLDER."""
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import tiny

from backend.gluon import distributed
from engine.cli import flags
from engine.cli.program import run_script

BATCH, STEPS = 12, 5  # of all workers together


def batch(step):
    random = np.random.RandomState(step)
    return random.normal(0, 1, (BATCH, 3, 32, 32)).astype("float32"), random.randint(0, 10, BATCH)


def train(team, seed, contexts=tiny.CPU):
    """A few steps on this worker's share of every batch; returns the net and the meter."""
    net = tiny.ready(tiny.net(False, units=16), seed, contexts)
    for context in contexts:  # inference leaves weights in oneDNN's layout, which broadcast undoes
        net(mx.nd.zeros((1, 3, 32, 32), context)).wait_to_read()
    program = tiny.program(net, contexts, team=team)
    share = slice(team.rank * BATCH // team.size, (team.rank + 1) * BATCH // team.size)
    batches = ((.1, *(part[share] for part in batch(step))) for step in range(STEPS))
    return net, tiny.train(program, batches)


def task_train(team, folder):
    net, meter = train(team, seed=team.rank)  # unequal before the broadcast
    images, loss_sum = team.total([meter.images, meter.loss_sum])
    np.savez(folder / f"{team.rank}.npz", images=images, loss_sum=loss_sum, agreed=team.agreed(f"å{team.rank}"),
             each=team.each(np.array([team.rank, np.pi], np.float32)),
             total=team.total([1e9 + 1 + team.rank, 1e-300, -.1]), any=[team.any(team.rank == 1), team.any(False)],
             **{f"net.{name}": value for name, value in tiny.numbers_of(net).items()})
    team.barrier()


def task_fail(team, folder):
    if team.rank == 1:
        raise flags.InputError("the second worker has a fault")
    team.barrier()


def main():
    task, folder = sys.argv[1], Path(sys.argv[2])
    with distributed.join("horovod") as team:
        globals()[f"task_{task}"](team, folder)


if __name__ == "__main__":
    run_script(main)
