"""What is prepared while the device works: batches, in a thread, and its own next results."""

import queue
import threading

END = object()


def prefetch(batches, ahead):
    """Yield what `batches` yields, in order, with up to `ahead` items made in advance.

    Memory: at most `ahead` + 1 batches are held here. The thread ends with the generator, also
    when the consumer stops early; an error in `batches` is raised where the item was due.
    """
    if not ahead:
        yield from batches
        return
    ready = queue.Queue(ahead)
    stopped = threading.Event()

    def put(item):
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work():
        try:
            for batch in batches:
                put((batch, None))
                if stopped.is_set():
                    return
            put((END, None))
        except BaseException as error:
            put((END, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            batch, error = ready.get()
            if error is not None:
                raise error
            if batch is END:
                return
            yield batch
    finally:
        stopped.set()


def one_ahead(results):
    """Yield each item of an iterator after the next one was asked for.

    Where a device computes the items while Python goes on, it never waits for their consumer.
    """
    results = iter(results)
    for current in results:
        for following in results:
            yield current
            current = following
        yield current
