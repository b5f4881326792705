"""What an operator asks of the decisions, and what a controller adds to them."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from tandem.core.decisions import Decision, DecisionFilter, DecisionPage
from tandem.core.errors import FailedPrecondition, InvalidArgument, NotFound
from tandem.core.ids import RequestId
from tandem.core.watching import ClusterView
from tandem.router.admin import ClusterFront
from tandem.router.decisions.log import MOST_FOLLOWED, DecisionLog
from tandem.router.samples import Samples
from tandem.rpc.context import CallContext

MAX_FOLLOWERS = 16
_POLL_S = 0.1
_SIGN_OF_LIFE_S = 5.0
_SHORTEST_S, _LONGEST_S, _USUAL_S = 0.2, 60.0, 2.0


class DecisionDesk:
    """Handler of DecisionService. Who follows reads from the ring at his own pace: he can hold up nobody."""

    def __init__(self, log: DecisionLog | None, *, samples: Samples, cluster: ClusterFront) -> None:
        """``log`` is None where none is kept."""
        self._log = log
        self._samples = samples
        self._cluster = cluster
        self._num_followers = 0

    async def list_decisions(self, wanted: DecisionFilter, call: CallContext) -> DecisionPage:
        """The latest that match."""
        return self._kept().page(wanted)

    async def follow_decisions(self, wanted: DecisionFilter, call: CallContext) -> AsyncIterator[DecisionPage]:
        """The same, then new ones as they come; an empty page now and then tells that nothing came."""
        log = self._kept()
        with _Seat(self):
            seen = log.last_sequence
            yield log.page(wanted)
            silent_s = 0.0
            while True:
                await asyncio.sleep(_POLL_S)
                now, page = log.last_sequence, log.page_after(seen, wanted)
                is_cut = len(page.decisions) == MOST_FOLLOWED
                seen = page.decisions[-1].sequence if is_cut else now
                silent_s = 0.0 if page.decisions else silent_s + _POLL_S
                if page.decisions or silent_s >= _SIGN_OF_LIFE_S:
                    silent_s = 0.0
                    yield page

    async def explain_request(self, request_id: RequestId, call: CallContext) -> DecisionPage:
        """All that is known of a request. Raises NotFound when nothing is."""
        log = self._kept()
        page = log.of_request(request_id)
        if not page.decisions:
            forgotten = f"; {page.num_forgotten} are forgotten" if page.num_forgotten else ""
            raise NotFound(
                f"this router knows no decision about request {request_id[:64]!r}; it keeps {log.kept}{forgotten}"
                " (router.decisions)",
                reason="REQUEST_NOT_KNOWN",
            )
        return page

    async def record_decisions(self, source: str, decisions: Sequence[Decision], call: CallContext) -> None:
        """Take a controller's rounds."""
        if not source.isprintable() or not 0 < len(source) <= 64:
            raise InvalidArgument("source", f"is {source[:64]!r}", remedy="use the controller's name")
        self._kept().take(source, decisions)

    async def watch_cluster(self, interval_s: float, call: CallContext) -> AsyncIterator[ClusterView]:
        """The cluster as it was lately and is, then again and again."""
        if interval_s and not _SHORTEST_S <= interval_s <= _LONGEST_S:
            raise InvalidArgument(
                "interval_s", f"is {interval_s:g}", remedy=f"use {_SHORTEST_S:g} to {_LONGEST_S:g} seconds"
            )
        with _Seat(self):
            seen_s = 0.0
            while True:
                samples = self._samples.after(seen_s)
                seen_s = samples[-1].unix_s if samples else seen_s
                yield ClusterView(status=await self._cluster.get_status(call), samples=tuple(samples))
                await asyncio.sleep(interval_s or _USUAL_S)

    def _kept(self) -> DecisionLog:
        if self._log is None:
            raise FailedPrecondition(
                "this router keeps no decisions; set router.decisions.max_records above 0", reason="NO_DECISION_LOG"
            )
        return self._log


class _Seat:
    """One of those who follow or watch. Raises FailedPrecondition when there are too many already."""

    def __init__(self, desk: DecisionDesk) -> None:
        self._desk = desk

    def __enter__(self) -> None:
        if self._desk._num_followers >= MAX_FOLLOWERS:
            raise FailedPrecondition(f"{MAX_FOLLOWERS} callers follow this router already", reason="TOO_MANY_FOLLOWERS")
        self._desk._num_followers += 1

    def __exit__(self, *_: object) -> None:
        self._desk._num_followers -= 1
