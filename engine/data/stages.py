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


def watched(items, total, description):
    """The items; a progress bar on a terminal, a line for each tenth elsewhere."""
    tenth, began = 0, time.monotonic()
    with progress_bar(total, description) as bar:
        for done, item in enumerate(items, 1):
            yield item
            bar.update()
            if not sys.stderr.isatty() and done * 10 // total > tenth:
                tenth = done * 10 // total
                print(f"{description}: {done:,} of {total:,}, {time.monotonic() - began:,.0f} s", flush=True)
