"""A program as a process: its standard streams, Ctrl-C, and its last sentence and exit status."""
import contextlib
import errno
import os
import signal
import sys
import threading

from support.errors import InputError, OutOfMemory, out_of_memory

from .flags import program


def _discard_output():
    """Discard what is left of standard output, so that Python can flush it at its end without an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _open_streams():
    """Point closed standard streams (`2>&-`) to the null device.

    Otherwise the next file opened, such as a checkpoint, takes the stream's number and receives what libraries print.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)  # to the process that tune() starts
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - open until the process ends


def clean_up_at_interrupt():
    """Let Ctrl-C raise KeyboardInterrupt from here on, for a script that must remove folders or end processes.

    Call it neither while modules are imported nor beside MXNet: both swallow exceptions, and the script would run on.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def _ended_by_interrupts():
    """Within the block Ctrl-C ends the process at once, unless it is ignored or has another handler."""
    ends = threading.current_thread() is threading.main_thread() \
        and signal.getsignal(signal.SIGINT) == signal.default_int_handler
    if ends:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if ends:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave_at_once(sentence):
    """Print a sentence and end the process with status 1, without its exit handlers: MXNet would wait in them."""
    print(sentence, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(1)


def run_script(main):
    """Run a script's main() and end the process with its status.

    An InputError becomes one sentence on standard error and exit status 1; so does a lack of memory. Ctrl-C ends the
    process at once (status 130 in a shell) until main handles it (clean_up_at_interrupt).
    """
    name = sys.argv[0].rpartition("/")[2]
    if name == "__main__.py":  # of a package
        name = program(f"python -m {sys.modules['__main__'].__spec__.parent}")
    _open_streams()
    if hasattr(sys.stdout, "reconfigure"):  # a path may hold bytes that cannot be printed
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _ended_by_interrupts():
            status = main()
        if sys.stdout is not None:
            sys.stdout.flush()
    except OutOfMemory as error:
        _leave_at_once(f"{name}: {error}")
    except InputError as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # the reader of our output has ended, as `| head` does
        _discard_output()
        status = 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _discard_output()
            sys.exit(f"{name}: the output cannot be written: {error.strerror}")
        sentence = out_of_memory(error)
        if sentence is None:
            raise
        _leave_at_once(f"{name}: {sentence}")
    sys.exit(status)
