"""Compute ahead in threads; the results come in order."""
import functools
import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Iterable, Iterator

from support.threads import usable_cores


def prefetch(items: Iterable, depth: int = 2) -> Iterator:
    """Iterate in one background thread, at most `depth` items ahead.

    An exception in `items` is raised here, in its turn. The thread ends when this generator is closed or exhausted.
    """
    end = object()
    iterator = iter(items)
    try:
        with closing(ahead(itertools.repeat(functools.partial(next, iterator, end)), 1, depth)) as results:
            for item in results:
                if item is end:
                    return
                yield item
    finally:
        if hasattr(iterator, "close"):
            iterator.close()


def by_workers(calls: Iterable, workers: int, more: int = 0) -> Iterator:
    """`ahead` by the workers of a data set: at most one thread for each core; 0 for none.

    more : calls that are computed ahead beside two for each worker.
    """
    if workers < 1:
        return (call() for call in calls)
    workers = min(workers, usable_cores())
    return ahead(calls, workers, 2 * workers + more)


def ahead(calls: Iterable, workers: int, depth: int) -> Iterator:
    """The results of `calls` in their order, computed by threads, at most `depth` of them ahead."""
    calls = iter(calls)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    pending = deque()
    try:
        pending.extend(pool.submit(call) for call in itertools.islice(calls, depth))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(call) for call in itertools.islice(calls, 1))
            yield result
    finally:
        for future in pending:
            future.cancel()
        pool.shutdown()
