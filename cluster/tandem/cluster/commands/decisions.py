"""`tandem decisions` and `tandem explain`: why the cluster did what it did."""

import asyncio
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec

from tandem.cluster.commands.asking import Firsts, Silence, ask_all, found_nowhere
from tandem.cluster.commands.connection import Connection
from tandem.cluster.commands.decision_words import decision_line, life_lines, routers_of
from tandem.cluster.commands.following import follow_all
from tandem.cluster.commands.terminal import Terminal, open_terminal
from tandem.core.decisions import KINDS, Decision, DecisionFilter
from tandem.core.environment import read_environment
from tandem.core.errors import InvalidArgument, NotFound

_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_ID = re.compile(r"[0-9a-f]{32}")


def run_decisions(connections: Sequence[Connection], wanted: DecisionFilter, *, follow: bool, as_json: bool) -> None:
    """List what all these routers decided, by time, and with ``follow`` go on until interrupted. Raises TandemError."""
    environment = read_environment()
    terminal = open_terminal(environment)
    show = _json_line if as_json else decision_line
    if follow:
        asyncio.run(follow_all(connections, environment, wanted, _Printer(terminal, show)))
        return
    asked = asyncio.run(ask_all(connections, environment, lambda client: client.decisions(wanted)))
    if not asked.told:
        raise asked.silent[0].error
    _note_silent(terminal, asked.silent)
    for decision in asked.decisions[-wanted.limit :]:
        terminal.say(show(decision))
    num_unwritten = sum(told.page.num_unwritten for told in asked.told)
    if num_unwritten:
        terminal.note(f"the routers' files lack {num_unwritten} decisions that they could not take")


def run_explain(connections: Sequence[Connection], request_id: str, *, as_json: bool) -> None:
    """Tell the life of one request, whichever of these routers served it.

    Raises NotFound when none of them knows of it, Unavailable when one that might did not answer.
    """
    if not _ID.fullmatch(request_id):
        raise InvalidArgument(
            "request-id",
            f"is {request_id[:64]!r}",
            remedy="use the 32 hexadecimal digits that an answer, an error or `tandem decisions` shows",
        )
    environment = read_environment()
    terminal = open_terminal(environment)
    asked = asyncio.run(ask_all(connections, environment, lambda client: client.explain(request_id)))
    if not asked.told:
        raise found_nowhere(request_id, asked.silent)
    _note_silent(terminal, [one for one in asked.silent if not isinstance(one.error, NotFound)])
    if len(connections) > 1:
        terminal.note(f"known at {', '.join(told.address for told in asked.told)}")
    decisions = asked.decisions
    if as_json:
        life = {"request_id": request_id, "routers": routers_of(decisions), "decisions": decisions}
        terminal.say(msgspec.json.encode(life).decode())
        return
    for line in life_lines(decisions):
        terminal.say(line)


def _note_silent(terminal: Terminal, silent: Sequence[Silence]) -> None:
    for one in silent:
        terminal.note(f"{one.address} did not tell what it knows: {one.error.message}")


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


class _Printer:
    """Shows each decision once."""

    def __init__(self, terminal: Terminal, show: Callable[[Decision], str]) -> None:
        self._terminal = terminal
        self._show = show
        self._first = Firsts()

    def __call__(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            if self._first.is_new(decision):
                self._terminal.say(self._show(decision))
