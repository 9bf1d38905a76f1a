"""The workers that train one net together, and what they do at once. A team of one does it without communication."""
import json

import numpy as np


class Team:
    """One worker or several with equal nets. Every method is called by all of them, in the same order.

    rank : this worker's number, from 0; worker 0 writes logs and checkpoints.
    size : number of workers.
    local_rank : this worker's number among those on its machine, to choose a GPU by.
    """

    rank, size, local_rank = 0, 1, 0

    @property
    def writes(self):
        """Whether this process writes the run's files."""
        return self.rank == 0

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None:  # otherwise this worker leaves at once: the others may never come to the same point
            self.leave()

    def each(self, values):
        """The arrays of all workers, of equal shape and type (of 2 bytes or more), as (size, *shape), to the bit."""
        return np.array(values)[None]

    def total(self, values):
        """The sum over the workers of an array of equal shape, as a float64 NumPy array of that shape.

        It is added in the order of the ranks, so that it is exact for counts and the same on every worker to the bit.
        """
        return self.each(np.array(values, np.float64)).sum(axis=0)

    def any(self, flag):
        """Whether flag is true on any worker."""
        return bool(self.each(np.array(bool(flag), np.int16)).any())

    def agreed(self, value):
        """Worker 0's value, of anything that JSON can hold; the others' is ignored."""
        text = json.dumps(value).encode()
        letters = np.zeros(int(self.each(np.array(len(text), np.int64)).max()), np.int16)
        letters[:len(text)] = np.frombuffer(text, np.uint8)
        return json.loads(self.each(letters)[0].astype(np.uint8).tobytes().rstrip(b"\0"))

    def barrier(self):
        """Wait until all workers are here."""
        self.any(False)

    def leave(self):
        """Wait for the others and part in good order; the last call. A worker that fails ends without it."""
