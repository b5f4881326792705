"""Follows the decisions of several routers at once: what there is by time, then what comes as it comes."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import TypeVar

from tandem.cluster.commands.asking import ASK_S, merged
from tandem.cluster.commands.connection import Connection
from tandem.core.decisions import Decision, DecisionFilter, DecisionPage
from tandem.core.environment import Environment
from tandem.core.errors import Unavailable

Out = TypeVar("Out")
Show = Callable[[Sequence[Decision]], None]


async def follow_all(
    connections: Sequence[Connection], environment: Environment, wanted: DecisionFilter, show: Show
) -> None:
    """Show until interrupted. Raises TandemError when one of them fails or ends it: its decisions would be missing."""
    async with AsyncExitStack() as open_streams:
        streams = []
        for connection in connections:
            client = await open_streams.enter_async_context(connection.internal_client(environment, timeout_s=ASK_S))
            streams.append(await open_streams.enter_async_context(aclosing(client.follow_decisions(wanted))))
        first = await _together([_first(stream) for stream in streams])
        show(merged(page.decisions for page in first)[-wanted.limit :])
        await _together([_go_on(stream, show) for stream in streams])


async def _together(steps: Sequence[Coroutine[None, None, Out]]) -> list[Out]:
    """Do all of them. Raises what the first failed with once the others have ended: a stream in use can't be closed."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(step) for step in steps]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def _first(stream: AsyncGenerator[DecisionPage, None]) -> DecisionPage:
    try:
        async with asyncio.timeout(ASK_S):
            return await anext(stream)
    except (TimeoutError, StopAsyncIteration) as error:
        raise Unavailable("a router did not begin to tell its decisions", reason="WATCH_ENDED") from error


async def _go_on(stream: AsyncGenerator[DecisionPage, None], show: Show) -> None:
    async for page in stream:
        show(page.decisions)
    raise Unavailable("a router ended the stream of its decisions", reason="WATCH_ENDED")
