"""`tandem top`: the cluster while it works, on a terminal; plain text once where there is none."""

import asyncio
import signal
from collections import deque
from contextlib import aclosing, suppress

from rich.console import Console
from rich.live import Live

from tandem.client import AsyncClient
from tandem.cluster.commands.connection import Connection
from tandem.cluster.commands.keys import pressed_keys
from tandem.cluster.commands.terminal import open_terminal
from tandem.cluster.commands.top_view import top_view
from tandem.core.environment import Environment, read_environment
from tandem.core.errors import Unavailable
from tandem.core.watching import ClusterSample

_TIMEOUT_S = 10.0
_MOST_SAMPLES = 600
_PLAIN_WIDTH = 120
_LEAVE = "qQ"


def run_top(connection: Connection, *, once: bool, interval_s: float) -> None:
    """Show until ``q`` or Ctrl-C; once when asked to, or when nobody watches. Raises TandemError."""
    environment = read_environment()
    terminal = open_terminal(environment)
    is_live = terminal.out.isatty() and not once
    console = Console(
        file=terminal.out, no_color=environment.no_color, width=None if terminal.out.isatty() else _PLAIN_WIDTH
    )
    if not is_live:
        asyncio.run(_show_once(connection, environment, console, interval_s))
        return
    with suppress(KeyboardInterrupt):  # that is how one leaves; by now the terminal is what it was
        asyncio.run(_show_live(connection, environment, console, interval_s))


async def _show_once(connection: Connection, environment: Environment, console: Console, interval_s: float) -> None:
    async with (
        connection.internal_client(environment, timeout_s=_TIMEOUT_S) as client,
        asyncio.timeout(_TIMEOUT_S),
        aclosing(client.watch(interval_s)) as views,
    ):
        async for view in views:
            console.print(top_view(view.status, view.samples))
            return


async def _show_live(connection: Connection, environment: Environment, console: Console, interval_s: float) -> None:
    left = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, left.set)  # else it would leave its screen behind
    async with connection.internal_client(environment, timeout_s=_TIMEOUT_S) as client:
        with (
            pressed_keys(lambda key: left.set() if key in _LEAVE else None),
            Live(console=console, auto_refresh=False, screen=True) as live,
        ):
            loop.add_signal_handler(signal.SIGWINCH, live.refresh)
            watching = asyncio.create_task(_watch(client, live, interval_s), name="watch the cluster")
            watching.add_done_callback(lambda _: left.set())
            try:
                await left.wait()
            finally:
                loop.remove_signal_handler(signal.SIGWINCH)  # nothing is drawn on the screen that comes back
                watching.cancel()
                with suppress(asyncio.CancelledError):
                    await watching


async def _watch(client: AsyncClient, live: Live, interval_s: float) -> None:
    samples: deque[ClusterSample] = deque(maxlen=_MOST_SAMPLES)
    async with aclosing(client.watch(interval_s)) as views:
        async for view in views:
            samples.extend(view.samples)
            live.update(top_view(view.status, list(samples)), refresh=True)
    raise Unavailable("the router ended the watch", reason="WATCH_ENDED")
