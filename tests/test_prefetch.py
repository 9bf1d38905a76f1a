"""Reading ahead in a thread: order, errors and an early end."""
import threading
import time

import pytest

from engine.data.prefetch import ahead, prefetch


def background_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_prefetch_keeps_order_and_bound():
    produced = []

    def source():
        for item in range(50):
            produced.append(item)
            yield item

    stream = prefetch(source(), depth=3)
    assert next(stream) == 0
    time.sleep(0.05)
    assert len(produced) <= 5
    assert list(stream) == list(range(1, 50))
    assert not background_threads()


def test_prefetch_raises_in_its_turn():
    def source():
        yield 1
        yield 2
        raise KeyError("lost")

    stream = prefetch(source())
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(KeyError, match="lost"):
        next(stream)
    assert not background_threads()


def test_early_stop_leaves_no_thread():
    closed = []

    def source():
        try:
            yield from range(1000)
        finally:
            closed.append(True)

    stream = prefetch(source())
    next(stream)
    stream.close()
    assert closed and not background_threads()


def test_early_stop_does_not_compute_what_was_ahead():
    produced = []

    def source():
        for item in range(1000):
            time.sleep(0.02)
            produced.append(item)
            yield item

    stream = prefetch(source(), depth=20)
    next(stream)
    stream.close()
    assert len(produced) < 10


def test_several_workers_keep_the_order():
    def slow_when_even(item):
        time.sleep(.01 if item % 2 == 0 else 0)
        return item

    assert list(ahead((lambda item=item: slow_when_even(item) for item in range(20)), 4, 8)) == list(range(20))
