"""The workers that train one net together: alone, over MXNet's parameter server, or over Horovod.

`join` gives a Team, which knows this worker's number and does what the workers do together. A team of one has the same
methods and does not communicate, so a run has one path. scripts/launch.sh starts the workers, the servers and the
scheduler of a parameter server (docs/DISTRIBUTED.md).
"""
import ctypes
import json
import os
import sys

import mxnet as mx
import numpy as np
from mxnet import gluon

from support.errors import InputError

from .state import restore_layout

ALONE = ("device", "local", "nccl")
SERVED = ("dist_sync_device", "dist_device_sync", "dist_sync")
NAMES = (*ALONE, *SERVED, "horovod")

# Variables that backend.launch sets for its workers: the file descriptor to write a line to once the worker has joined,
# and the worker's number on its machine.
JOINED, LOCAL_RANK = "ATAC_JOINED", "ATAC_LOCAL_RANK"

# The server keeps an array for every key ever used, so sums travel in blocks of few lengths. Their keys stand above the
# Trainer's, which count from 0, and below 215,000: MXNet multiplies keys by 9973 in 32 bits.
FIRST_KEY, SMALLEST_BLOCK, LARGEST_BLOCK = 100_000, 16, 1 << 19


class Team:
    """One worker or several with equal nets. All workers call every method, in the same order.

    rank : this worker's number, from 0; worker 0 writes logs and checkpoints.
    size : number of workers.
    local_rank : this worker's number on its machine; it chooses the GPU.
    kvstore : name or KVStore for gluon.Trainer.
    """

    rank, size, local_rank = 0, 1, 0

    def __init__(self, kvstore):
        self.kvstore = kvstore

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None:  # a worker that failed must not wait: the others may never come to this point
            self.leave()

    def trainer(self, parameters, optimizer):
        """The gluon.Trainer of this worker: step(n) takes the mean gradient over the whole team.

        n is the number of images in this worker's share, equal on all workers.
        """
        optimizer.rescale_grad /= self.size  # the parameter server gives the sum of the workers' gradients
        return gluon.Trainer(parameters, optimizer, kvstore=self.kvstore, update_on_kvstore=False)

    def broadcast(self, net):
        """Set net's initialized parameters to worker 0's values; call it before trainer().

        Raises InputError if the workers' nets differ.
        """

    def total(self, values):
        """The sum of an array over the workers, as a float64 NumPy array of the same shape.

        It is added in the order of the ranks: exact for counts, and the same on every worker to the bit.
        """
        return self.each(np.array(values, np.float64)).sum(axis=0)

    def each(self, values):
        """The arrays of all workers, to the bit, as (size, *shape). Shape and type (2 bytes or more) must be equal."""
        return np.array(values)[None]

    def agreed(self, value):
        """Worker 0's value, anything that JSON can hold; the other workers' values are ignored."""
        return json.loads(json.dumps(value))

    def any(self, flag):
        """Whether flag is true on any worker."""
        return bool(flag)

    def barrier(self):
        """Wait until all workers are here."""

    def leave(self):
        """Wait for the others and leave the team; the last call. A worker that fails ends without it."""


class _Many(Team):
    """A team of several. All methods use one operation: _add(values) sums float32 arrays (n,) over the workers."""

    def each(self, values):
        values = np.ascontiguousarray(values)
        # The servers add in float32, which holds halfwords exactly, whatever the type.
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
        restore_layout(net)  # inference leaves the weights in oneDNN's layout, which the server refuses

    def agreed(self, value):
        text = json.dumps(value).encode() if self.rank == 0 else b""
        length = int(self.total([len(text)])[0])
        content = np.zeros(length, np.float32)
        if self.rank == 0:
            content[:] = np.frombuffer(text, np.uint8)
        return json.loads(self._add(content).astype(np.uint8).tobytes())

    def any(self, flag):
        return bool(self._add(np.array([bool(flag)], np.float32))[0])

    def barrier(self):
        self.any(False)


class _Served(_Many):
    """Workers with a parameter server. Only sums pass through it: every worker updates its own weights.

    So the server needs no optimizer, which MXNet would send as a pickle; `serve` refuses one.
    """

    def __init__(self, name):
        super().__init__(mx.kv.create(name))  # waits for all members
        self.size = self.kvstore.num_workers
        # MXNet numbers workers by address and port; the user sees the launcher's numbers.
        self.rank = int(os.environ.get("DMLC_TASK_ID", self.kvstore.rank))
        self.local_rank = int(os.environ.get(LOCAL_RANK, 0))
        self._keys = {}
        self._wait_at_exit(False)
        numbers = np.zeros(self.size, np.float32)
        if self.rank < self.size:
            numbers[self.rank] = 1
        if (self._add(numbers) != 1).any():
            raise InputError("DMLC_TASK_ID must number the workers from 0, or be absent for all of them")

    def _add(self, values):
        total = np.empty_like(values)
        for start in range(0, len(values), LARGEST_BLOCK):
            part = values[start:start + LARGEST_BLOCK]
            length = max(SMALLEST_BLOCK, 1 << (len(part) - 1).bit_length())
            if length not in self._keys:
                self._keys[length] = FIRST_KEY + len(self._keys)
                self.kvstore.init(self._keys[length], mx.nd.zeros(length))
            padded = np.zeros(length, np.float32)
            padded[:len(part)] = part
            array = mx.nd.array(padded)  # a new one each time, because pull writes into it
            self.kvstore.push(self._keys[length], array)
            self.kvstore.pull(self._keys[length], out=array)
            total[start:start + len(part)] = array.asnumpy()[:len(part)]
        return total

    def _wait_at_exit(self, wanted):
        # A worker that fails must not wait for the others at its exit: nobody would notice the failure.
        mx.base.check_call(mx.base._LIB.MXKVStoreSetBarrierBeforeExit(self.kvstore.handle, ctypes.c_int(wanted)))

    def leave(self):
        self.barrier()
        self._wait_at_exit(True)  # after that worker 0 ends the servers


class _Horovod(_Many):
    """Workers started by horovodrun, one process for each device."""

    def __init__(self, horovod):
        super().__init__(None)
        self._horovod, self._sums = horovod, 0
        self.rank, self.size, self.local_rank = horovod.rank(), horovod.size(), horovod.local_rank()

    def trainer(self, parameters, optimizer):
        if any(len(parameter.list_ctx()) > 1 for parameter in parameters.values()):
            raise InputError("--kvstore horovod runs one process for each device: give each worker one device, and "
                             "horovodrun -np the number of all devices")
        return self._horovod.DistributedTrainer(parameters, optimizer)  # Horovod takes the mean itself

    def _add(self, values):
        if not len(values):
            return values
        self._sums += 1
        return self._horovod.allreduce(mx.nd.array(values), average=False, name=f"team.{self._sums}").asnumpy()

    def leave(self):
        self.barrier()
        self._horovod.shutdown()


def join(name):
    """The Team for --kvstore NAME, one of NAMES; waits until all workers are there.

    device, local and nccl are a team of one. The dist_ names use MXNet's parameter server, with the DMLC_* variables
    that scripts/launch.sh sets. Raises InputError for a name or an environment that cannot work.
    """
    if name not in NAMES:
        reason = "the server would need the optimizer as a pickle" if "async" in name else "unknown"
        raise InputError(f"--kvstore {name}: {reason}; the names are {', '.join(NAMES)}")
    launched = JOINED in os.environ
    several = launched and os.environ.get("DMLC_NUM_WORKER") != "1"
    if name in SERVED:
        _check_environment(name)
        os.environ.pop("PORT", None)  # MXNet's parameter server would listen on it
        team = _Served(name)
    elif name == "horovod":
        team = _Horovod(_start_horovod(several))
    else:
        if several:
            raise InputError(f"--kvstore {name} is for one worker; with scripts/launch.sh give --kvstore {SERVED[0]}")
        if name == "nccl" and not (mx.runtime.Features().is_enabled("NCCL") and mx.context.num_gpus()):
            raise InputError("--kvstore nccl needs GPUs and MXNet's GPU build; --kvstore device works everywhere")
        team = Team(name)
    if launched:
        os.write(int(os.environ[JOINED]), b"joined\n")
    return team


def _check_environment(name):
    start = "start it with scripts/launch.sh"
    needed = ("DMLC_PS_ROOT_URI", "DMLC_PS_ROOT_PORT", "DMLC_NUM_WORKER", "DMLC_NUM_SERVER")
    missing = [variable for variable in needed if not os.environ.get(variable)]
    if missing:
        raise InputError(f"--kvstore {name}: {', '.join(missing)} not set; {start}")
    for variable in (*needed[1:], "DMLC_TASK_ID", LOCAL_RANK):
        if not os.environ.get(variable, "0").isdigit():
            raise InputError(f"--kvstore {name}: {variable} is {os.environ[variable]!r}, not a number; {start}")
    if os.environ.get("DMLC_ROLE") != "worker":
        raise InputError(f"--kvstore {name}: DMLC_ROLE is {os.environ.get('DMLC_ROLE')!r}, not 'worker'; {start}")


def _start_horovod(several):
    try:
        import horovod.mxnet as horovod
    except ImportError as error:
        raise InputError(f"--kvstore horovod: Horovod is not installed for MXNet ({error}); requirements-horovod.txt "
                         "says how to build it") from error
    horovod.init()
    if several and horovod.size() == 1:
        raise InputError("--kvstore horovod has a launcher of its own: start the workers with horovodrun -np N")
    return horovod


def serve(role):
    """Be the 'server' or the 'scheduler' that the DMLC_* variables describe, until the workers are done.

    With DMLC_ROLE set, importing MXNet would start a server that unpickles, and so runs, what a worker sends as an
    optimizer. So DMLC_ROLE is set after the import, and an optimizer ends the server with a sentence.
    """
    os.environ["DMLC_ROLE"] = role
    os.environ.pop("PORT", None)
    store = mx.kv.create(SERVED[0])

    def refuse(command, content, _):
        print(f"{role}: refused command {command}, which would unpickle what a worker has sent", file=sys.stderr,
              flush=True)
        os._exit(1)  # MXNet would lose an exception, and without the optimizer the weights would be wrong

    controller = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(refuse)
    mx.base.check_call(mx.base._LIB.MXKVStoreRunServer(store.handle, controller, None))
