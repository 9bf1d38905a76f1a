"""What the tests of backend.launch run as a worker: team_program.py TASK FOLDER [KVSTORE]."""
import os
import signal
import sys
import time
from pathlib import Path

import mxnet as mx
import numpy as np
import tiny

from backend.gluon import distributed, loop, optimizer
from engine.cli import flags
from engine.cli.program import run_script
from engine.steps import Meter

BATCH, STEPS = 12, 5  # of all workers together


def batch(step):
    random = np.random.RandomState(step)
    return random.normal(0, 1, (BATCH, 3, 32, 32)).astype("float32"), random.randint(0, 10, BATCH)


def train(team, seed, contexts=tiny.CPU):
    """A few steps on this worker's share of every batch; returns the net and the meter."""
    net, meter = tiny.ready(tiny.net(False, units=16), seed, contexts), Meter()
    for context in contexts:  # inference leaves weights in oneDNN's layout, which the servers do not take
        net(mx.nd.zeros((1, 3, 32, 32), context)).wait_to_read()
    team.broadcast(net)
    trainer = optimizer.make_trainer(net, tiny.recipe(), team=team)
    share = slice(team.rank * BATCH // team.size, (team.rank + 1) * BATCH // team.size)
    batches = ((.1, *(part[share] for part in batch(step))) for step in range(STEPS))
    for _ in loop.train_steps(net, trainer, batches, contexts, meter):
        pass
    return net, meter


def task_train(team, folder):
    net, meter = train(team, seed=team.rank)  # unequal before the broadcast
    images, loss_sum = team.total([meter.images, meter.loss_sum])
    np.savez(folder / f"{team.rank}.npz", images=images, loss_sum=loss_sum, agreed=team.agreed(f"å{team.rank}"),
             each=team.each(np.array([team.rank, np.pi], np.float32)),
             total=team.total([1e9 + 1 + team.rank, 1e-300, -.1]), any=[team.any(team.rank == 1), team.any(False)],
             **{f"net.{name}": value for name, value in tiny.numbers_of(net).items()})
    team.barrier()
    print(f"{team.rank} of {team.size}, {sorted(name for name in os.environ if name in ('PORT', 'DMLC_LOCAL'))}")


def task_work(team, folder):
    """Train until asked to stop, then take a second to save."""
    asked = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    net = tiny.ready(tiny.net(False))
    team.broadcast(net)
    trainer = optimizer.make_trainer(net, tiny.recipe(), team=team)
    print("at work")

    def batches():
        while not team.any(bool(asked)):
            time.sleep(.02)
            yield (.1, *batch(0))

    for _ in loop.train_steps(net, trainer, batches(), tiny.CPU, Meter()):
        pass
    if team.rank == 0:
        time.sleep(1)
        (folder / "saved").touch()
    sys.exit(128 + signal.SIGTERM)


def task_optimizer(team, folder):
    """What a worker with update_on_kvstore=True does."""
    if team.rank == 0:
        team.kvstore.set_optimizer(mx.optimizer.SGD())
    team.barrier()
    (folder / "went on").touch()


def task_fail(team, folder):
    if team.rank == 1:
        raise flags.InputError("the second worker has a fault")
    team.barrier()


def task_leave(team, folder):
    if team.rank == 1:
        os._exit(0)
    team.barrier()


def task_lines(team, folder):
    for number in range(200):
        print(f"line {number} " + 500 * "x")
    sys.stdout.write("bar 1\rbar 2\rbar 3\n")
    print("of standard error", file=sys.stderr)


def main():
    task, folder = sys.argv[1], Path(sys.argv[2])
    with distributed.join(sys.argv[3] if len(sys.argv) > 3 else "dist_sync_device") as team:
        globals()[f"task_{task}"](team, folder)


if __name__ == "__main__":
    run_script(main)
