"""Prepares the process before any test module imports MXNet, as the scripts do: equal threads here and in them."""
import gc

import pytest

from support import garbage, runtime

runtime.prepare()


@pytest.fixture(scope="module", autouse=True)
def memory_given_back():
    """What a module's tests leave behind is gone before the next one starts."""
    yield
    gc.collect()
    garbage.trim()


@pytest.fixture(scope="session")
def fused_operators():
    """The fused operators, loaded into MXNet; compiled first where they are not and a compiler is there."""
    from ops import build, loader
    from support.errors import InputError

    if not build.sound(build.library()) and build.compiler() is None:
        pytest.skip("the fused operators are not built and there is no C++ compiler to build them")
    try:
        build.build()
    except InputError as error:  # a compiler that is too old, say; it is a fault wherever the setup has built them
        pytest.fail(str(error))
    loader.load()
