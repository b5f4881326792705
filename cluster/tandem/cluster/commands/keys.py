"""Keys as they are pressed, and the terminal as it was before."""

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def pressed_keys(on_key: Callable[[str], None]) -> Iterator[None]:
    """Call ``on_key`` with each key until the block ends; needs a running event loop.

    Does nothing where standard input is no terminal. Keys are not shown meanwhile; Ctrl-C is still a signal.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    terminal, loop = sys.stdin.fileno(), asyncio.get_running_loop()

    def read() -> None:
        try:
            keys = os.read(terminal, 64)
        except OSError:
            keys = b""  # it has hung up
        if not keys:
            loop.remove_reader(terminal)
        for key in keys.decode("ascii", "replace"):
            on_key(key)

    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal, termios.TCSANOW)
    loop.add_reader(terminal, read)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
