"""The devices that a net runs on: choosing them, setting them up, and giving each its share of a batch."""
import ctypes

import mxnet as mx
import numpy as np

from support.errors import InputError


def present():
    """The number of GPUs that this process can use."""
    return mx.context.num_gpus()


def devices(gpus):
    """Contexts for GPU numbers, and a sentence about the choice.

    On a machine without GPUs, as many CPU contexts take their place, so that the global batch stays what the command
    says. Raises InputError for a number that the machine does not have.
    """
    wanted = list(gpus)
    if len(set(wanted)) != len(wanted) or any(number < 0 for number in wanted):
        raise InputError(f"--gpus takes different numbers of at least 0, got {','.join(map(str, wanted))}")
    if not wanted:
        return [mx.cpu()], "running on the CPU, as asked"
    count = present()
    if not count:
        number = "the CPU" if len(wanted) == 1 else f"{len(wanted)} CPU contexts in place of {len(wanted)} GPUs"
        return [mx.cpu(index) for index in range(len(wanted))], f"no GPU is present: running on {number}"
    if max(wanted) >= count:
        raise InputError(f"--gpus {','.join(map(str, wanted))}: this machine has {count} GPU(s), "
                         f"numbered from 0 to {count - 1}")
    return [mx.gpu(number) for number in wanted], f"running on GPU {', '.join(map(str, wanted))}"


def initialize(net, seed, contexts):
    """He et al.'s initialization with the authors' arguments: Gaussian, average of the fans, PReLU slope 0.25."""
    mx.random.seed(seed)
    net.initialize(mx.init.MSRAPrelu(), ctx=contexts)


def set_mode(net, mode):
    """'hybrid' compiles the net with static memory; 'imperative' runs it operator by operator."""
    if mode == "hybrid":
        net.hybridize(static_alloc=True, static_shape=True)


def training_type(wanted, contexts):
    """The type to train in on these contexts, and a sentence about it if float16 was asked for, else None."""
    if wanted in ("bfloat16", "tf32"):
        raise InputError(f"--dtype {wanted} is for --backend torch: MXNet has float32 and float16")
    if wanted == "float16" and kind(contexts) == "cpu":
        return "float32", "float16 is for GPUs (MXNet's dense layers do not run in it on a CPU): float32 is used"
    return wanted, "float16 with float32 master weights; checkpoints are float32" if wanted == "float16" else None


def input_type(net):
    """The type of images that net takes: float16 if any of its parameters has it (a BatchNorm's never do)."""
    return "float16" if any(np.dtype(parameter.dtype) == np.float16 for parameter in net.collect_params().values()) \
        else "float32"


def kind(contexts):
    """'cpu' or 'gpu'."""
    return contexts[0].device_type


def array(values, context, dtype="float32"):
    """A NumPy array in the context's memory; for a GPU in page-locked memory, which the GPU copies by itself."""
    return mx.nd.array(values, mx.cpu_pinned(context.device_id) if context.device_type == "gpu" else context, dtype)


def shares(images, labels, contexts, dtype):
    """A batch divided among the contexts: [(context, images, labels)] with array()s; the last takes the rest."""
    count = min(len(contexts), len(images))
    size = len(images) // count
    edges = [size * index for index in range(count)] + [len(images)]
    return [(context, array(images[start:end], context, dtype), array(labels[start:end], context))
            for context, start, end in zip(contexts, edges, edges[1:])]


def restore_layout(net):
    """Bring the weights back to MXNet's plain layout after inference.

    On a CPU, inference converts each convolution's weights in place to oneDNN's blocked layout. A training step that
    meets such a weight may pick another kernel, depending on the threads' timing, and the run would no longer be
    repeatable to the bit. Asking for an array's address converts it back.
    """
    mx.nd.waitall()
    for parameter in net.collect_params().values():
        for array in parameter.list_data():
            if array.context.device_type == "cpu":
                mx.base.check_call(mx.base._LIB.MXNDArrayGetData(array.handle, ctypes.byref(ctypes.c_void_p())))
