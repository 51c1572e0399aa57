"""Prefetching: everything in order, never too far ahead, no thread or error lost."""

import threading
import time

import pytest

from src.prefetch import one_ahead, prefetch


def threads_end(count, seconds=5):
    """Return whether the number of threads falls back to `count`."""
    deadline = time.monotonic() + seconds
    while threading.active_count() > count and time.monotonic() < deadline:
        time.sleep(0.01)
    return threading.active_count() <= count


@pytest.mark.parametrize("ahead", [0, 1, 3, 100])
def test_gives_everything_in_order(ahead):
    before = threading.active_count()
    assert list(prefetch(iter(range(20)), ahead)) == list(range(20))
    assert list(prefetch(iter([]), ahead)) == []
    assert list(prefetch([None, (None, None), 0, ""], ahead)) == [None, (None, None), 0, ""]
    assert threads_end(before)


@pytest.mark.parametrize("ahead", [0, 2])
def test_never_more_than_so_many_in_advance(ahead):
    made, taken = [], []

    def batches():
        for i in range(10):
            made.append(i)
            yield i

    for item in prefetch(batches(), ahead):
        time.sleep(0.02)
        taken.append(item)
        # Those that wait, the one in the thread's hand, and the one just taken.
        assert len(made) - len(taken) <= (ahead + 1 if ahead else 0)
    assert made == taken == list(range(10))


def test_batches_are_made_while_the_consumer_works():
    made = threading.Event()

    def batches():
        yield 0
        made.set()
        yield 1

    stream = prefetch(batches(), 1)
    assert next(stream) == 0
    assert made.wait(5)
    assert list(stream) == [1]


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_an_error_is_raised_where_the_item_was_due(ahead):
    def batches():
        yield 0
        yield 1
        raise OSError("disk gone")

    before, stream = threading.active_count(), prefetch(batches(), ahead)
    assert (next(stream), next(stream)) == (0, 1)
    with pytest.raises(OSError, match="disk gone"):
        next(stream)
    assert threads_end(before)


@pytest.mark.parametrize("ahead", [1, 4])
def test_the_thread_ends_when_the_consumer_stops_early(ahead):
    before, stream = threading.active_count(), prefetch(iter(range(10**9)), ahead)
    assert next(stream) == 0
    stream.close()
    assert threads_end(before)


def test_the_batches_are_closed_when_the_consumer_stops_early():
    closed = threading.Event()

    def batches():
        try:
            yield from range(10**9)
        finally:
            closed.set()

    stream = prefetch(batches(), 1)
    next(stream)
    stream.close()
    assert closed.wait(5)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_one_ahead_asks_for_the_next_one_first(count):
    asked = []

    def results():
        for i in range(count):
            asked.append(i)
            yield i

    taken = []
    for item in one_ahead(results()):
        taken.append(item)
        assert asked == list(range(min(item + 2, count)))
    assert taken == list(range(count))
