"""Random numbers by key: each is a function of the seed and of its purpose, not of what was drawn before."""
import numpy as np

from support.errors import InputError


def random_stream(seed: int, *key: int) -> np.random.Generator:
    """The stream of one purpose, which the whole numbers of the key name: (purpose, epoch, step), say."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def check_seed(seed: int) -> None:
    """InputError for a seed that no generator takes."""
    if seed < 0:
        raise InputError(f"the seed {seed} is negative: give 0 or more")
