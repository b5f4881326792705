"""The child's side: read the configuration, report status, notice that the parent is gone or wants us to end."""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any


def read_config_line() -> str:
    """Return the configuration: the first line on stdin."""
    return sys.stdin.readline()


def report(event: str, **facts: Any) -> None:
    """Tell the parent something: one JSON object on stdout. A parent that is gone is no error."""
    try:
        sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        return


def watch_lifeline(
    on_end: Callable[[], None], *, last_resort_s: float = 90.0, on_line: Callable[[str], None] = lambda _: None
) -> threading.Thread:
    """Call ``on_end`` from a daemon thread once stdin closes; ``last_resort_s`` later the process ends, come what may.

    ``on_line`` gets each further line that the parent writes, from the same thread.

    The parent may have been killed, and then nobody is left to end a child that hangs.
    """

    descriptor = sys.stdin.fileno()

    def run() -> None:
        # The raw descriptor: a thread that sleeps inside the buffered reader makes the interpreter abort at its end.
        left = b""
        while data := os.read(descriptor, 4096):
            *lines, left = (left + data).split(b"\n")
            for line in lines:
                on_line(line.decode("utf-8", errors="replace"))
        on_end()
        threading.Event().wait(last_resort_s)
        os._exit(1)

    thread = threading.Thread(target=run, name="lifeline", daemon=True)
    thread.start()
    return thread


def stop_event_on_lifeline(
    loop: asyncio.AbstractEventLoop, *, last_resort_s: float = 90.0, has_begun: Callable[[], bool] = lambda: True
) -> asyncio.Event:
    """Return an event of ``loop`` that is set when the lifeline ends; see `watch_lifeline`.

    While ``has_begun`` says no there is nothing to drain, and what the start waits for may never come: then the end of
    the lifeline ends the process at once.
    """
    event = asyncio.Event()

    def set_event() -> None:
        if not has_begun():
            os._exit(1)
        try:
            loop.call_soon_threadsafe(event.set)
        except RuntimeError:
            return  # the loop has closed: we are ending anyway

    watch_lifeline(set_event, last_resort_s=last_resort_s)
    return event


def stop_on_sigterm(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Let the first SIGTERM set ``stop``, as the end of the lifeline does; a later one ends the process at once.

    Main thread only.
    """

    def on_sigterm() -> None:
        loop.remove_signal_handler(signal.SIGTERM)
        if stop.is_set():  # it was leaving already, and whoever sent this has lost patience
            signal.raise_signal(signal.SIGTERM)
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, on_sigterm)
