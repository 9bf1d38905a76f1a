"""The workers that train one net together in PyTorch: alone, or started by torchrun."""
import os

import numpy as np
import torch
from torch import distributed

from backend import team
from support.errors import InputError, out_of_memory


class Team(team.Team):
    """One worker."""

    def broadcast(self, net):
        """Give net the numbers that it has on worker 0. Raises InputError if the workers' nets differ."""

    def add(self, tensors):
        """Replace tensors, on the net's device, by their sums over the workers, the same on each to the bit."""


class _Several(Team):
    """Workers that torchrun has started, one a device.

    NumPy arrays travel over gloo, from CPU to CPU, so that no GPU is waited for; tensors over gloo or, on GPUs, NCCL.
    Nothing that is received is unpickled.
    """

    def __init__(self):
        import torch._dynamo  # an optimizer's first step does; after the next line it would hold on to the group, whose
        #                       threads end the process by SIGABRT if they drop a tensor while Python ends
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self.local_rank = int(os.environ["LOCAL_RANK"])

    def each(self, values):
        values = np.array(values, order="C")
        own = torch.from_numpy(values.reshape(-1).view(np.uint8))
        found = torch.empty((self.size, own.numel()), dtype=torch.uint8)
        _exchange(distributed.all_gather, list(found), own)
        return found.numpy().view(values.dtype).reshape((self.size, *values.shape))

    def broadcast(self, net):
        tensors = net.state_dict()
        forms = [[name, list(tensor.shape)] for name, tensor in tensors.items()]
        if self.any(self.agreed(forms) != forms):
            raise InputError("the workers have different nets: start all of them with the same flags and the same code")
        for tensor in tensors.values():
            _exchange(distributed.broadcast, tensor, 0)

    def add(self, tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])  # in one piece: what counts is the latency
        _exchange(distributed.all_reduce, flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(tensors, [part.view(tensor.shape) for part, tensor in zip(parts, tensors)])

    def __exit__(self, kind, error, traceback):
        if kind is None or not torch.cuda.is_available():  # after an error NCCL might wait for ever
            distributed.destroy_process_group()


def _exchange(operation, *arguments):
    """An operation of torch.distributed. Raises InputError if another worker is gone."""
    try:
        operation(*arguments)
    except RuntimeError as error:
        if out_of_memory(error) is not None:
            raise
        reason = str(error).splitlines()[0].split("] ", 1)[-1].split(". ")[0]  # without gloo's file, line and advice
        raise InputError(f"another worker has died or cannot be reached ({reason}); start all of them again, with "
                         "--resume") from error


def join(kvstore):
    """The Team of this process: several if torchrun has started it. It waits until all workers are there.

    Raises InputError for a --kvstore that is MXNet's alone and for an environment that cannot work.
    """
    if kvstore not in ("device", "local"):
        raise InputError(f"--kvstore {kvstore} is MXNet's; leave it out with PyTorch")
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return Team()
    missing = [name for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(f"RANK and WORLD_SIZE are in the environment and {', '.join(missing)} not: start the workers "
                         "with torchrun, or unset RANK")
    try:
        return _Several()
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the workers do not find each other: {str(error).splitlines()[0]}") from error
