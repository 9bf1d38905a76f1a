"""The device that a net runs on, and the way there and back that no step has to wait for."""
import numpy as np
import torch

from support.errors import InputError

LAYOUT = torch.channels_last  # of the arrays of a net and of its images on the device


def present():
    """The number of GPUs that this process can use."""
    return torch.cuda.device_count()


def devices(gpus):
    """The device for GPU numbers, in a list, and a sentence about the choice; the CPU if the machine has no GPU.

    Raises InputError for a number that the machine does not have, and for several: a process has one device.
    """
    wanted = list(gpus)
    if any(number < 0 for number in wanted):
        raise InputError(f"--gpus takes numbers of at least 0, got {','.join(map(str, wanted))}")
    if len(wanted) > 1:
        raise InputError(f"--gpus {','.join(map(str, wanted))}: PyTorch runs one process a GPU; give one "
                         f"number, and start {len(wanted)} with torchrun --nproc-per-node {len(wanted)}")
    if not wanted:
        return [torch.device("cpu")], "running on the CPU, as asked"
    count = present()
    if not count:
        return [torch.device("cpu")], "no GPU is present: running on the CPU"
    if wanted[0] >= count:
        raise InputError(f"--gpus {wanted[0]}: this machine has {count} GPU(s), numbered from 0 to {count - 1}")
    return [torch.device("cuda", wanted[0])], f"running on GPU {wanted[0]}"


def kind(devices):
    """'cpu' or 'gpu'."""
    return "cpu" if devices[0].type == "cpu" else "gpu"


def training_type(wanted, devices):
    """The type to train in on these devices, and a sentence about it if it is not float32; else None."""
    if wanted in ("float16", "tf32") and kind(devices) == "cpu":
        return "float32", f"{wanted} is for GPUs: float32 is used"
    return wanted, f"{wanted} products with float32 weights; checkpoints are float32" if wanted != "float32" else None


def array(values, device, dtype=None):
    """A NumPy array as a tensor that the device can take: for a GPU in page-locked memory, which it copies itself."""
    tensor = torch.from_numpy(np.array(values, dtype))
    return tensor.pin_memory() if device.type == "cuda" else tensor


def moved(images, device):
    """A batch of images on the device; nothing waits for it."""
    return images.to(device, non_blocking=True, memory_format=LAYOUT)


class Later:
    """A tensor on its way to the host: numpy() waits for it, and not for what the device was given afterwards."""

    def __init__(self, tensor):
        self._host, self._done = tensor, None
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record()

    def numpy(self):
        if self._done is not None:
            self._done.synchronize()
        return self._host.numpy()
