"""The machine's best speeds: memory copies and matrix products, without a framework."""
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .contender import Contender


class MemoryCopy(Contender):
    """Copies an array in one part per thread. bytes: read plus written."""

    def __init__(self, mib):
        threads = int(os.environ["OMP_NUM_THREADS"])
        source = np.ones(mib << 18, np.float32)
        target = np.empty_like(source)
        target[:] = 0  # so that its pages exist
        self.parts = list(zip(np.array_split(target, threads), np.array_split(source, threads)))
        self.bytes = 2 * source.nbytes
        self.pool = ThreadPoolExecutor(threads)

    def unit(self):
        for part in [self.pool.submit(np.copyto, *part) for part in self.parts]:
            part.result()


class Gemm(Contender):
    """Product of two square float32 matrices by NumPy's BLAS."""

    def __init__(self, size):
        random = np.random.default_rng(0)
        self.factors = [random.random((size, size), np.float32) for _ in range(2)]
        self.product = np.empty((size, size), np.float32)
        self.macs = size**3

    def unit(self):
        np.matmul(*self.factors, out=self.product)
