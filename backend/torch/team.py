"""The workers that train one net together: for now a team of one."""
import numpy as np

from support.errors import InputError


class Team:
    """One worker. Every method is called by all workers of a team, in the same order (backend.gluon.distributed)."""

    rank, size, local_rank = 0, 1, 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def total(self, values):
        """The sum over the workers of an array, as a float64 NumPy array of its shape."""
        return np.array(values, np.float64)

    def agreed(self, value):
        """Worker 0's value."""
        return value

    def any(self, flag):
        """Whether flag is true on any worker."""
        return bool(flag)


def join(kvstore):
    """The Team for --kvstore NAME. Raises InputError for a name that is MXNet's alone."""
    if kvstore not in ("device", "local"):
        raise InputError(f"--kvstore {kvstore} is MXNet's; leave it out with PyTorch")
    return Team()
