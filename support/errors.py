"""The errors that the scripts show as a sentence instead of a traceback."""
import errno

# What Python, the loader, MXNet, the C++ library and CUDA say when memory, or a thread, is refused.
_REFUSED = ("can't start new thread", "resource temporarily unavailable", "bad_alloc", "failed to allocate",
            "cannot allocate memory", "out of memory", "failed to map segment")


class InputError(ValueError):
    """Something the user gave cannot be used: one sentence that says what, where and what to do."""


class OutOfMemory(InputError):
    """Memory, or a thread, was refused. MXNet may have lost a step by it, and would wait for that for ever."""


def out_of_memory(error):
    """The sentence for an exception that says that memory, or a thread, was refused; None for any other."""
    reason = "none is left"
    if isinstance(error, OSError):
        if error.errno != errno.ENOMEM:
            return None
    elif not isinstance(error, MemoryError):
        lines = [] if isinstance(error, InputError) else str(error).splitlines()
        reason = next((line.strip()[:200] for line in lines if any(words in line.lower() for words in _REFUSED)), None)
        if reason is None:
            return None
    return (f"there is not enough memory ({reason}): end other programs, raise the limit (ulimit -v), or take a "
            "smaller --batch-size")
