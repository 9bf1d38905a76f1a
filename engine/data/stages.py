"""Long work on a disk: whether there is room for it, and its progress."""
import contextlib
import shutil
import sys
import time

from engine.progress import progress_bar
from support.errors import InputError


def check_space(folder, needed, what):
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{what} takes {needed / 1e9:,.1f} GB and {folder} has {free / 1e9:,.1f} GB left: make room "
                         "or choose another --data-dir")


@contextlib.contextmanager
def advancing(total, description, tell, done=0, shown=True, **options):
    """Yields advance(count), for a bar on a terminal; elsewhere tell(done) is called after each tenth.

    total : None if it is not known. done : of the total, before the block. options : of the bar.
    """
    with progress_bar(total, description, done, shown, **options) as bar:
        def advance(count):
            nonlocal done
            before, done = done, done + count
            bar.update(count)
            if shown and total and not sys.stderr.isatty() and done * 10 // total > before * 10 // total:
                tell(done)

        yield advance


def watched(items, total, description):
    """The items, with their progress shown."""
    began = time.monotonic()

    def tell(done):
        print(f"{description}: {done:,} of {total:,}, {time.monotonic() - began:,.0f} s", flush=True)

    with advancing(total, description, tell) as advance:
        for item in items:
            yield item
            advance(1)
