"""One question to several routers at once, and their answers as one.

A request is served by whichever router its caller reached, and each router keeps its own decisions. One that does not
answer hides its part and no more: what the others know is shown, and its silence is told.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tandem.client import AsyncClient
from tandem.cluster.commands.connection import Connection
from tandem.core.decisions import Decision, DecisionPage
from tandem.core.environment import Environment
from tandem.core.errors import InvalidArgument, NotFound, TandemError, Unavailable

ASK_S: Final = 10.0

Question = Callable[[AsyncClient], Awaitable[DecisionPage]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """A router that did not answer, or not with what was asked for."""

    address: str
    error: TandemError


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one router answered."""

    address: str
    page: DecisionPage


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What became of a question, in the order of the routers."""

    told: tuple[Told, ...]
    silent: tuple[Silence, ...]

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """All that was told, by time."""
        return merged(told.page.decisions for told in self.told)


def connections_to(connection: Connection, addresses: Sequence[str]) -> tuple[Connection, ...]:
    """Return one connection per address, each router once; without any that of the cluster of this machine.

    Raises InvalidArgument for an empty address.
    """
    if any(not address.strip() for address in addresses):
        raise InvalidArgument("--address", "is empty", remedy="give host:port of a router")
    different = tuple(dict.fromkeys(addresses))
    return tuple(replace(connection, address=address) for address in different) or (connection,)


async def ask_all(connections: Sequence[Connection], environment: Environment, question: Question) -> Asked:
    """Ask them all at once. With a single router its error is raised; with several, see ``silent``."""
    answers = await asyncio.gather(*(_ask(connection, environment, question) for connection in connections))
    silent = tuple(answer for answer in answers if isinstance(answer, Silence))
    if silent and len(connections) == 1:
        raise silent[0].error
    return Asked(told=tuple(answer for answer in answers if isinstance(answer, Told)), silent=silent)


async def _ask(connection: Connection, environment: Environment, question: Question) -> Told | Silence:
    address = connection.address or "the cluster of this machine"
    try:
        async with connection.internal_client(environment, timeout_s=ASK_S) as client:
            return Told(address=address, page=await question(client))
    except TandemError as error:
        return Silence(address=address, error=error)


def found_nowhere(request_id: str, silent: Sequence[Silence]) -> TandemError:
    """Return what to say when no router told of a request: unknown if all have looked, else that it can't be known."""
    away = [one for one in silent if not isinstance(one.error, NotFound)]
    if away:
        words = "; ".join(f"{one.address}: {one.error.message}" for one in away)
        rest = f"{len(silent) - len(away)} of {len(silent)} routers know nothing of request {request_id}, the others"
        who = rest if len(away) < len(silent) else f"all {len(silent)} routers"
        return Unavailable(
            f"{who} did not answer ({words})",
            reason="ROUTERS_SILENT",
        )
    words = "; ".join(f"{one.address}: {one.error.message}" for one in silent)
    return NotFound(
        f"none of {len(silent)} routers knows a decision about request {request_id} ({words})",
        reason="REQUEST_NOT_KNOWN",
    )


def merged(pages: Iterable[Sequence[Decision]]) -> tuple[Decision, ...]:
    """All decisions by time; a controller tells its rounds to every router, and each is here once."""
    lists = list(pages)
    if len(lists) == 1:
        return tuple(lists[0])  # in the order in which they were made, whatever the clock did
    first = Firsts()
    return tuple(sorted((one for each in lists for one in each if first.is_new(one)), key=lambda one: one.unix_s))


class Firsts:
    """Tells whether a decision has been here before, among the last few thousand rounds of controllers."""

    def __init__(self, *, most: int = 4096) -> None:
        self._most = most
        self._seen: dict[tuple[str, float], None] = {}

    def is_new(self, decision: Decision) -> bool:
        """Whether it comes for the first time; what a router decided itself always does."""
        if decision.kind != "controller":
            return True
        key = (decision.source, decision.unix_s)
        if key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > self._most:
            del self._seen[next(iter(self._seen))]
        return True
