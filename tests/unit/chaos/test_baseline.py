"""How the chaos layer counts the threads of a process."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tandem.chaos.cluster.baseline import measure


@contextmanager
def _thread(name: str) -> Iterator[None]:
    stop, named = threading.Event(), threading.Event()

    def run() -> None:
        with open("/proc/thread-self/comm", "w", encoding="ascii") as comm:
            comm.write(name)
        named.set()
        stop.wait(30.0)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert named.wait(10.0)
        yield
    finally:
        stop.set()
        thread.join(10.0)


def test_a_thread_more_is_seen_unless_it_is_of_grpcs_own_pool() -> None:
    before = measure(os.getpid(), num_tasks=0).num_threads
    with _thread("event_engine"):
        assert measure(os.getpid(), num_tasks=0).num_threads == before
    with _thread("python"):
        assert measure(os.getpid(), num_tasks=0).num_threads == before + 1
