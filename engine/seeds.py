"""Random numbers by key: each depends on the seed and its purpose, not on earlier draws."""
import numpy as np


def random_stream(seed: int, *key: int) -> np.random.Generator:
    """The random stream of a key of whole numbers, such as (purpose, epoch, step)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
