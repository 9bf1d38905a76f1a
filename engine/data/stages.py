"""Long work on a disk: whether there is room for it, and its progress."""
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


def watched(items, total, description, done=0, shown=True, size=lambda item: 1, file=None, **options):
    """The items, with their progress shown: a bar on a terminal; elsewhere a line after each tenth.

    total : None if it is not known. done : of the total, before the first item. size(item) : its share of the total.
    file : for the lines (default: standard output). options : of the bar.
    """
    began = time.monotonic()
    with progress_bar(total, description, done, shown, **options) as bar:
        for item in items:
            yield item
            before, done = done, done + size(item)
            bar.update(done - before)
            if shown and total and not sys.stderr.isatty() and done * 10 // total > before * 10 // total:
                print(f"{description}: {done:,} of {total:,}, {time.monotonic() - began:,.0f} s", file=file, flush=True)
