"""`tandem top`: the cluster while it works, on a terminal; plain text once where there is none."""

import asyncio
from collections import deque
from contextlib import aclosing

from rich.console import Console
from rich.live import Live

from tandem.client import AsyncClient
from tandem.cluster.commands.connection import Connection
from tandem.cluster.commands.terminal import open_terminal
from tandem.cluster.commands.top_view import top_view
from tandem.core.environment import Environment, read_environment
from tandem.core.errors import Unavailable
from tandem.core.watching import ClusterSample

_TIMEOUT_S = 10.0
_MOST_SAMPLES = 600
_PLAIN_WIDTH = 120


def run_top(connection: Connection, *, once: bool, interval_s: float) -> None:
    """Show until interrupted; once when asked to, or when nobody watches. Raises TandemError."""
    environment = read_environment()
    terminal = open_terminal(environment)
    is_live = terminal.out.isatty() and not once
    console = Console(
        file=terminal.out, no_color=environment.no_color, width=None if terminal.out.isatty() else _PLAIN_WIDTH
    )
    asyncio.run(_show(connection, environment, console, interval_s, is_live=is_live))


async def _show(
    connection: Connection, environment: Environment, console: Console, interval_s: float, *, is_live: bool
) -> None:
    async with connection.internal_client(environment, timeout_s=_TIMEOUT_S) as client:
        if is_live:
            await _watch(client, console, interval_s)
            return
        async with asyncio.timeout(_TIMEOUT_S), aclosing(client.watch(interval_s)) as views:
            async for view in views:
                console.print(top_view(view.status, view.samples))
                return


async def _watch(client: AsyncClient, console: Console, interval_s: float) -> None:
    samples: deque[ClusterSample] = deque(maxlen=_MOST_SAMPLES)
    with Live(console=console, auto_refresh=False, screen=True) as live:
        async with aclosing(client.watch(interval_s)) as views:
            async for view in views:
                samples.extend(view.samples)
                live.update(top_view(view.status, list(samples)), refresh=True)
    raise Unavailable("the router ended the watch", reason="WATCH_ENDED")
