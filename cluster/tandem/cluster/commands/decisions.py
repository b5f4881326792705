"""`tandem decisions` and `tandem explain`: why the cluster did what it did."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime

import msgspec

from tandem.client import AsyncClient
from tandem.cluster.commands.connection import Connection
from tandem.cluster.commands.decision_words import decision_line, life_lines
from tandem.cluster.commands.terminal import Terminal, open_terminal
from tandem.core.decisions import KINDS, Decision, DecisionFilter, DecisionPage
from tandem.core.environment import Environment, read_environment
from tandem.core.errors import InvalidArgument

_TIMEOUT_S = 10.0
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_ID = re.compile(r"[0-9a-f]{32}")


def run_decisions(connection: Connection, wanted: DecisionFilter, *, follow: bool, as_json: bool) -> None:
    """List, and with ``follow`` go on until interrupted. Raises TandemError."""
    environment = read_environment()
    terminal = open_terminal(environment)
    show = _json_line if as_json else decision_line
    if follow:
        asyncio.run(_follow(connection, environment, wanted, terminal, show))
        return
    page = asyncio.run(_ask(connection, environment, lambda client: client.decisions(wanted)))
    for decision in page.decisions:
        terminal.say(show(decision))
    if page.num_unwritten:
        terminal.note(f"the router's file lacks {page.num_unwritten} decisions that it could not take")


def run_explain(connection: Connection, request_id: str, *, as_json: bool) -> None:
    """Tell the life of one request. Raises NotFound when nothing is known of it."""
    if not _ID.fullmatch(request_id):
        raise InvalidArgument(
            "request-id",
            f"is {request_id[:64]!r}",
            remedy="use the 32 hexadecimal digits that an answer, an error or `tandem decisions` shows",
        )
    environment = read_environment()
    terminal = open_terminal(environment)
    page = asyncio.run(_ask(connection, environment, lambda client: client.explain(request_id)))
    if as_json:
        terminal.say(msgspec.json.encode({"request_id": request_id, "decisions": page.decisions}).decode())
        return
    for line in life_lines(page.decisions):
        terminal.say(line)


def filter_of(*, kinds: list[str], request: str, tenant: str, since: str, limit: int) -> DecisionFilter:
    """Return the filter that was typed. Raises InvalidArgument."""
    for kind in kinds:
        if kind not in KINDS:
            raise InvalidArgument("--kind", f"is {kind!r}", remedy=f"use {', '.join(KINDS)}")
    return DecisionFilter(
        kinds=tuple(kinds), request_id=request, tenant=tenant, since_unix_s=_since(since), limit=limit
    )


def _since(text: str) -> float | None:
    """Seconds since 1970 of a time, or of so long ago."""
    if not text:
        return None
    now = datetime.now(UTC)
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return now.timestamp() - float(ago[1]) * _SECONDS[ago[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidArgument(
            "--since", f"is {text!r}", remedy="use 30s, 5m, 2h, 1d or a time such as 2026-11-23T14:00:00"
        ) from error
    return at.astimezone(UTC).timestamp()


def _json_line(decision: Decision) -> str:
    return msgspec.json.encode(decision).decode()


async def _ask(
    connection: Connection, environment: Environment, question: Callable[[AsyncClient], Awaitable[DecisionPage]]
) -> DecisionPage:
    async with connection.internal_client(environment, timeout_s=_TIMEOUT_S) as client:
        return await question(client)


async def _follow(
    connection: Connection,
    environment: Environment,
    wanted: DecisionFilter,
    terminal: Terminal,
    show: Callable[[Decision], str],
) -> None:
    async with (
        connection.internal_client(environment, timeout_s=_TIMEOUT_S) as client,
        aclosing(client.follow_decisions(wanted)) as pages,
    ):
        async for page in pages:
            for decision in page.decisions:
                terminal.say(show(decision))
