"""What test_torch_workers.py runs as a worker under torchrun: torch_team_program.py FOLDER."""
import sys
from pathlib import Path

import numpy as np
import tiny

from backend import torch as backend
from engine.cli.program import run_script
from engine.data import in_memory
from engine.steps import Meter, Steps
from support.errors import InputError

IMAGES, TESTS, BATCH = 64, 25, 16  # of all workers together


def trained(team, batch_norm, seed=0, **changes):
    """The arrays, the sums and the score of a tiny net after an epoch, on this worker's share of every batch."""
    recipe = tiny.recipe(batch_size=BATCH // team.size, **changes)
    experiment = tiny.experiment(recipe=recipe, seed=seed, devices=team.size)
    part = team.rank, team.size
    program = backend.prepare(tiny.net(batch_norm), experiment, backend.devices([])[0], team)
    batches, meter = in_memory.TrainBatches(tiny.split(IMAGES), BATCH, 0, part=part), Meter()
    assert len(list(program.steps(Steps(batches, recipe, 0, 0), meter))) == IMAGES // BATCH
    arrays = program.arrays()
    assert {name: (array.shape, array.dtype) for name, array in arrays.items()} == program.forms()
    score = program.score(in_memory.EvalBatches(tiny.split(TESTS, 9), 10, part), 10)
    again = backend.prepare(tiny.net(batch_norm), experiment, backend.devices([])[0], team)
    again.restore(arrays)
    for name, array in again.arrays().items():
        assert (array == arrays[name]).all(), name
    own = {name: tensor.numpy() for name, tensor in again.net.state_dict().items() if "running" in name}
    sums = team.total([meter.images, meter.loss_sum, meter.correct])
    return {**arrays, **{f"own/{name}": value for name, value in own.items()}, "sums": sums,
            "score": np.array([score.images, score.loss, score.top1])}


def refusal(make):
    """What a call says that has to be refused."""
    try:
        make()
    except InputError as error:
        return str(error)
    return ""


def gloo_threads():
    """How many threads of this process serve gloo. One that drops a tensor while Python ends aborts the process."""
    return sum("gloo" in (task / "comm").read_text() for task in Path("/proc/self/task").iterdir())


def main():
    folder = Path(sys.argv[1])
    with backend.join("device") as team:
        rank = team.rank
        found = {
            "agreed": team.agreed(f"å{rank}" * (1 + 5 * rank)), "any": [team.any(rank == 1), team.any(False)],
            "each": team.each(np.array([rank, np.pi], np.float32)), "scalar": team.total(rank + 1.),
            "total": team.total([1e9 + 1 + rank, 1e-300, -.1]),
            "refused": refusal(lambda: backend.prepare(tiny.net(units=4 + rank), tiny.experiment(),
                                                       backend.devices([])[0], team))}
        for name, arguments in (("plain", {"batch_norm": False, "seed": rank}), ("norm", {"batch_norm": True}),
                                ("parts", {"batch_norm": False, "accumulate": 2})):
            found.update({f"{name}/{key}": value for key, value in trained(team, **arguments).items()})
    np.savez(folder / f"{rank}.npz", threads=gloo_threads(), **found)


if __name__ == "__main__":
    run_script(main)
