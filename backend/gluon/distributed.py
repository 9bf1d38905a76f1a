"""The workers that train one net together in MXNet: alone, or over Horovod.

`join` gives a Team, which knows this worker's number and does what the workers do together.
"""
import os

import mxnet as mx
import numpy as np
from mxnet import gluon

from backend import team
from support.errors import InputError

from .placement import restore_layout


class Team(team.Team):
    """One worker. kvstore : name for gluon.Trainer, by which several devices add their gradients."""

    def __init__(self, kvstore):
        self.kvstore = kvstore

    def trainer(self, parameters, optimizer):
        """The gluon.Trainer of this worker: step(n) takes the mean gradient over the whole team.

        n is the number of images of this worker's share, equal on all workers.
        """
        return gluon.Trainer(parameters, optimizer, kvstore=self.kvstore, update_on_kvstore=False)

    def broadcast(self, net):
        """Give net's parameters, initialized, the values that they have on worker 0; to be called before trainer().

        Raises InputError when the workers' nets differ.
        """


class _Many(Team):
    """A team of several, made of one operation: _add(values) sums float32 arrays (n,) over the workers."""

    def each(self, values):
        values = np.ascontiguousarray(values).reshape(np.shape(values))
        # Halfwords are exact in float32, in which they are added, whatever the type.
        halfwords = values.reshape(-1).view(np.uint16)
        slots = np.zeros((self.size, halfwords.size), np.float32)
        slots[self.rank] = halfwords
        return self._add(slots.ravel()).astype(np.uint16).view(values.dtype).reshape((self.size, *values.shape))

    def broadcast(self, net):
        parameters = list(net.collect_params().values())
        shapes = "\n".join(f"{parameter.shape} {parameter.grad_req}" for parameter in parameters)
        if self.any(self.agreed(shapes) != shapes):
            raise InputError("the workers have different nets: start all of them with the same flags and the same code")
        values = [parameter.data(parameter.list_ctx()[0]).asnumpy().astype(np.float32) for parameter in parameters]
        flat = np.concatenate([value.ravel() for value in values])
        flat = self._add(flat if self.rank == 0 else np.zeros_like(flat))
        for parameter, value in zip(parameters, values):
            first, flat = flat[:value.size], flat[value.size:]
            parameter.set_data(mx.nd.array(first.reshape(value.shape), dtype=parameter.dtype))
        restore_layout(net)  # inference leaves the weights in oneDNN's, which others cannot read


class _Horovod(_Many):
    """Workers started by horovodrun; one process a device."""

    def __init__(self, horovod):
        super().__init__(None)
        self._horovod, self._sums = horovod, 0
        self.rank, self.size, self.local_rank = horovod.rank(), horovod.size(), horovod.local_rank()

    def trainer(self, parameters, optimizer):
        if any(len(parameter.list_ctx()) > 1 for parameter in parameters.values()):
            raise InputError("--kvstore horovod runs one process a device: give each worker one, and horovodrun -np "
                             "the number of all devices")
        return self._horovod.DistributedTrainer(parameters, optimizer)  # it takes the mean itself

    def _add(self, values):
        if not len(values):
            return values
        self._sums += 1
        return self._horovod.allreduce(mx.nd.array(values), average=False, name=f"team.{self._sums}").asnumpy()

    def leave(self):
        self.barrier()
        self._horovod.shutdown()


def join(kvstore):
    """The Team for --kvstore NAME, one of engine.cli.flags.KVSTORES; it waits until all workers are there.

    device, local and nccl are a team of one. Raises InputError for an environment that cannot work.
    """
    if kvstore == "horovod":
        return _Horovod(_start_horovod())
    workers = os.environ.get("WORLD_SIZE", "1")
    if "RANK" in os.environ and workers != "1":
        raise InputError(f"torchrun has started {workers} workers, and with MXNet each would train alone: give "
                         "--backend torch, or start them with horovodrun and give --kvstore horovod")
    if kvstore == "nccl" and not (mx.runtime.Features().is_enabled("NCCL") and mx.context.num_gpus()):
        raise InputError("--kvstore nccl needs GPUs and MXNet's GPU build; --kvstore device works everywhere")
    return Team(kvstore)


def _start_horovod():
    try:
        import horovod.mxnet as horovod
    except ImportError as error:
        raise InputError(f"--kvstore horovod: Horovod is not installed for MXNet ({error}); requirements-horovod.txt "
                         "says how to build it") from error
    horovod.init()
    return horovod
