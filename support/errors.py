"""The errors that the scripts show as a sentence instead of a traceback."""
import errno

# The words of Python, the loader, MXNet, the C++ library and CUDA if memory, or a thread, is refused.
_REFUSED = ("can't start new thread", "resource temporarily unavailable", "bad_alloc", "failed to allocate",
            "cannot allocate memory", "out of memory", "failed to map segment")


class InputError(ValueError):
    """The user's input cannot be used. One sentence says what is wrong, where, and what to do."""


class OutOfMemory(InputError):
    """Memory, or a thread, was refused. MXNet may have lost a step and would wait for it for ever."""


def out_of_memory(error):
    """The message for an exception that means that memory, or a thread, was refused; None for any other."""
    reason = "none is left"
    if isinstance(error, OSError):
        if error.errno != errno.ENOMEM:
            return None
    elif not isinstance(error, MemoryError):
        lines = [] if isinstance(error, InputError) else str(error).splitlines()
        reason = next((line.strip()[:200] for line in lines if any(words in line.lower() for words in _REFUSED)), None)
        if reason is None:
            return None
    return (f"there is not enough memory ({reason}): end other programs, raise the limit (ulimit -v), or use a "
            "smaller --batch-size")
