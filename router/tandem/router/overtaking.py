"""Who may go while the head of the queue waits for the one prefill worker that it likes best. Zero I/O.

The head does not move to a worker where it would be done later, and whoever stands behind it must not wait for that
while other workers have nothing to do. So the next few in the queue's own order are looked at, each as if all before it
had been placed where they want to be: nobody takes what one before him waits for. Those who go are charged as ever.

Bounds: ``max_look`` entries are looked at, and ``max_overtakes`` pass any one head; then all wait for it. Only a head
that waits for a prefill worker is passed, never one that waits for a slot or blocks of a decode worker: others would
take there just what it needs.

How many may pass: a head's worker has its look-ahead full, and what the head will bring there is counted before anybody
is looked at, so who passes takes another worker and the head begins no later. What a bound on their number costs is
certain: when it is reached, every other worker runs empty until the head's worker has credit. A head waits at most for
as long as affinity may cost it (``max_affinity_s``, ``max_affinity_share``); in that time each other worker begins its
share of what came later, which grows with the workers and with how much longer the head's work is than theirs. So
``max_overtakes`` is no knob of fairness but a backstop for a head whose wish moves from worker to worker, and it is
far above what one wait lets pass.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from tandem.core.ids import RequestId
from tandem.router.actions import WorkerKey
from tandem.router.live import OvertakingPolicy
from tandem.router.placement import NoCapacity
from tandem.router.placer import Chosen, DropHeld
from tandem.router.queue import CentralQueue, QueueEntry

LOOK_EVERY_S: Final = 0.005  # at most so often; in between nobody passes

LiveT = TypeVar("LiveT")
_LiveT_contra = TypeVar("_LiveT_contra", contravariant=True)


class Chooser(Protocol[_LiveT_contra]):
    """Says where a waiting request would go now."""

    def choose(
        self, live: _LiveT_contra, now_s: float, *, num_waiting: int, ahead_s: Mapping[WorkerKey, float]
    ) -> Chosen | NoCapacity | DropHeld:
        """Choose for ``live`` with ``ahead_s`` more seconds of work on those prefill workers."""
        ...


@dataclass(frozen=True, slots=True)
class Overtaker(Generic[LiveT]):
    """One who may go now."""

    entry: QueueEntry
    live: LiveT
    chosen: Chosen


class Overtaking(Generic[LiveT]):
    """Finds those who may pass the head."""

    def __init__(
        self,
        *,
        queue: CentralQueue,
        placer: Chooser[LiveT],
        lives: Mapping[RequestId, LiveT],
        policy: OvertakingPolicy,
    ) -> None:
        self._queue = queue
        self._placer = placer
        self._lives = lives
        self._policy = policy
        self._head: RequestId | None = None
        self._num_passed = 0
        self._looked_s = float("-inf")
        self.num_overtakes = 0

    def find(self, head: QueueEntry, refusal: NoCapacity, now_s: float) -> Iterator[Overtaker[LiveT]]:
        """Yield who may go, in order; each must be taken from the queue and dispatched before the next is asked for."""
        if head.request_id != self._head:
            self._head, self._num_passed = head.request_id, 0
        left = self._policy.max_overtakes - self._num_passed
        if refusal.waits_for is None or left < 1 or now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        ahead_s: dict[WorkerKey, float] = {refusal.waits_for: refusal.work_s}
        for entry in self._queue.following(head, self._policy.max_look):
            live = self._lives[entry.request_id]
            choice = self._placer.choose(live, now_s, num_waiting=len(self._queue) - 1, ahead_s=ahead_s)
            if isinstance(choice, Chosen):
                self._num_passed += 1
                self.num_overtakes += 1
                left -= 1
                yield Overtaker(entry, live, choice)
            elif isinstance(choice, NoCapacity) and choice.waits_for is not None:
                ahead_s[choice.waits_for] = ahead_s.get(choice.waits_for, 0.0) + choice.work_s
            else:
                return  # it waits for something else, which those behind it must leave to it
            if left < 1:
                return
