"""The way to the routers' shared reservations in Redis. All waiting is here, and bounded; the dispatcher never waits.

- An ask runs as a task of its own and is answered once, whatever Redis does: the gate bounds it in time, and who would
  wait longer than that for its turn does not ask.
- Releases go in batches, one call at a time. When Redis does not take one it is lost, and what it names ends by itself.
- A release that comes before the answer of its own ask waits for that. After a miss the reservation may have been made
  all the same: it is released on every candidate.
"""

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Sequence
from typing import Final

from tandem.core.clock import Clock
from tandem.prefix_cache.remote.gate import GatePolicy, Miss, RedisGate
from tandem.prefix_cache.remote.reservations import Candidate as SharedCandidate
from tandem.prefix_cache.remote.reservations import Reservation, SharedReservations
from tandem.router.actions import WorkerKey
from tandem.router.candidates import Candidate
from tandem.router.sharing import Answer, OnAnswer, Ticket

_MOST_UNRELEASED: Final = 4096
_BATCH: Final = 256
_MOST_AT_ONCE: Final = 8  # each has a connection, and to open one takes longer than to wait for a turn
_BUSY_PAUSE_S: Final = 0.01
_UNSURE: Final = frozenset({Miss.LATE, Miss.UNREACHABLE})  # the script may have run


class RedisReserver:
    """A `Reserver`. asyncio, one loop; make it in there, and close it when nothing is asked any more."""

    def __init__(self, url: str, *, namespace: str, policy: GatePolicy, clock: Clock) -> None:
        self.policy = policy
        self._clock = clock
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)
        self._gate = RedisGate(url, policy=policy, clock=clock)
        self._shared = SharedReservations(self._gate, namespace=namespace)
        self._life = secrets.token_hex(8)  # request ids may be chosen by callers, who may send one to two routers
        self._tasks: set[asyncio.Task[None]] = set()
        self._underway: dict[Ticket, bool] = {}  # asks without an answer yet → whether to release what they bring
        self._to_release: deque[Reservation] = deque(maxlen=_MOST_UNRELEASED)
        self._releasing: asyncio.Task[None] | None = None

    def ask(self, ticket: Ticket, candidates: Sequence[Candidate], on_answer: OnAnswer) -> None:
        """Reserve on one of ``candidates``, and say so."""
        self._start(ticket, candidates, on_answer)

    def tell(self, ticket: Ticket, candidate: Candidate) -> None:
        """Reserve there."""
        self._start(ticket, [candidate], None)

    def release(self, ticket: Ticket, worker: WorkerKey) -> None:
        """Give a reservation back."""
        if ticket in self._underway:
            self._underway[ticket] = True
        else:
            self._release([Reservation(name=self._name(ticket), worker_id=worker.worker_id, epoch=worker.epoch)])

    async def close(self, timeout_s: float = 1.0) -> None:
        """Let calls end that run, then close the connections. What is left ends by itself."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._tasks:
                    await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._gate.close(timeout_s)

    def _start(self, ticket: Ticket, candidates: Sequence[Candidate], on_answer: OnAnswer | None) -> None:
        self._underway[ticket] = False
        self._keep(asyncio.get_running_loop().create_task(self._reserve(ticket, candidates, on_answer)))

    async def _reserve(self, ticket: Ticket, candidates: Sequence[Candidate], on_answer: OnAnswer | None) -> None:
        name = self._name(ticket)
        shared = [
            SharedCandidate(
                worker_id=one.worker.worker_id,
                epoch=one.worker.epoch,
                base_s=one.base_s,
                queued_s=one.queued_s,
                load_s=one.load_s,
            )
            for one in candidates
        ]
        began_s = self._clock.now_s()
        async with self._turns:
            is_late = self._clock.now_s() - began_s > self.policy.timeout_s
            chosen = Miss.LATE if is_late else await self._shared.select(name, shared)
        is_given_back = self._underway.pop(ticket)
        if isinstance(chosen, Miss):
            if chosen in _UNSURE:
                self._release([Reservation(name=name, worker_id=one.worker_id, epoch=one.epoch) for one in shared])
            answer = Answer(missed=chosen.value)
        else:
            if is_given_back:
                self._release([Reservation(name=name, worker_id=chosen.worker_id, epoch=chosen.epoch)])
            answer = Answer(worker=WorkerKey(worker_id=chosen.worker_id, epoch=chosen.epoch))
        if on_answer is not None:
            on_answer(ticket, answer)

    def _name(self, ticket: Ticket) -> str:
        return f"{self._life}.{ticket.number}"

    def _release(self, reservations: Sequence[Reservation]) -> None:
        self._to_release.extend(reservations)
        if self._releasing is None:
            self._releasing = asyncio.get_running_loop().create_task(self._release_all())
            self._keep(self._releasing)

    async def _release_all(self) -> None:
        try:
            while self._to_release:
                batch = [self._to_release.popleft() for _ in range(min(_BATCH, len(self._to_release)))]
                if await self._shared.release(batch) is Miss.BUSY:  # with our own asks: that passes
                    self._to_release.extendleft(reversed(batch))
                    await asyncio.sleep(_BUSY_PAUSE_S)
        finally:
            self._releasing = None

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
