"""Which request kills workers? Blame for crashes, shared among those that were running. Zero I/O.

A crash (a worker's death, or a forward step that raised) says that *one* of the requests in the running step may be
the culprit, or none. Each crash is worth 1, shared by its suspects: all of those in the step; or, if some of them were
in an earlier crash and have not got past it since, those alone, because one culprit explains both. A request is
condemned when it was in two crashes and its blame says that it was (nearly) alone in them::

    blame    crash 1, one of 50: 0.02     crash 2, alone: 1.02   → not condemned: two kills from outside look the same
             crash 1, alone:     1.00     crash 2, alone: 2.00   → condemned
             crash 1, one of 4:  0.25     crash 2, alone: 1.25   → condemned
             one of 50, one of 10, alone:                 1.12   → condemned at the third

So that the second crash finds its culprit alone, suspects with a fair share of blame, and those of two crashes, are run
in turns among themselves (``Isolation``) until they are past the place where the crash found them. Past it they are
cleared: a request that kills does so each time it comes to that place.
"""

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tandem.core.ids import RequestId

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspicionPolicy:
    """How much evidence it takes. ``isolation_s`` bounds how long one suspect keeps the others waiting."""

    condemn_at: float = 1.2
    condemn_later_at: float = 1.01  # in more than ``min_crashes``: alone in one of them
    isolate_at: float = 0.2
    min_crashes: int = 2
    passed_tokens: int = 2
    isolation_s: float = 2.0
    max_turns: int = 8


class Output(Protocol):
    """How far one child is."""

    @property
    def next_position(self) -> int:
        """Number of its tokens that the client has."""
        ...

    @property
    def finished(self) -> bool:
        """Whether it has ended."""
        ...


class Suspicion:
    """Crashes that one request was in and has not got past."""

    __slots__ = ("_children", "_marks", "_policy", "_shares")

    def __init__(self, policy: SuspicionPolicy, children: Sequence[Output]) -> None:
        self._policy = policy
        self._children = children
        self._shares: dict[Hashable, float] = {}
        self._marks: list[int] = []

    @property
    def num_crashes(self) -> int:
        """Crashes not cleared since."""
        return len(self._shares)

    @property
    def blame(self) -> float:
        """Sum of its shares."""
        return sum(self._shares.values())

    def add(self, crash: Hashable, share: float) -> None:
        """It was running at ``crash``, as far as it is now."""
        self._shares[crash] = share
        self._marks = [child.next_position for child in self._children]

    def withdraw(self, crash: Hashable) -> None:
        """It was no crash: the worker is still alive."""
        self._shares.pop(crash, None)

    def check_cleared(self) -> bool:
        """Whether it is without suspicion (any more): every child has ended, or is past the place of the last crash."""
        if self._shares:
            margin = self._policy.passed_tokens
            marks = zip(self._children, self._marks, strict=True)
            if all(child.finished or child.next_position >= mark + margin for child, mark in marks):
                self._shares.clear()
        return not self._shares

    @property
    def is_condemned(self) -> bool:
        """Whether the evidence is enough."""
        num_crashes, policy = self.num_crashes, self._policy
        needed = policy.condemn_at if num_crashes <= policy.min_crashes else policy.condemn_later_at
        return num_crashes >= policy.min_crashes and self.blame >= needed - _ROUNDING

    @property
    def wants_isolation(self) -> bool:
        """Whether it should be tried alone among suspects."""
        return self.num_crashes >= self._policy.min_crashes or self.blame >= self._policy.isolate_at - _ROUNDING


def blame(crash: Hashable, suspects: Sequence[Suspicion]) -> None:
    """Share one more crash among those that were in the step; each counts only where it stands now."""
    prior = [suspicion for suspicion in suspects if not suspicion.check_cleared()]
    blamed = prior or suspects
    for suspicion in blamed:
        suspicion.add(crash, 1.0 / len(blamed))


class Isolation:
    """Lets suspects run in turns among themselves; requests without blame are not held up.

    A turn is one suspect while few wait, so that a crash names its culprit; while many wait it is a ``max_turns``-th of
    the most that waited, because after two kills from outside fifty innocent streams must not wait for fifty turns.
    """

    def __init__(self, policy: SuspicionPolicy) -> None:
        self._policy = policy
        self._turn: dict[RequestId, float | None] = {}  # whose turn it is, and since when it has workers
        self._waiting: deque[RequestId] = deque()
        self._most_waiting = 0  # since nobody waited last

    def __len__(self) -> int:
        return len(self._waiting)

    def admit(self, request_id: RequestId) -> bool:
        """Whether it may be placed now; else ``next_turn`` names it when its turn has come."""
        if not self._turn or request_id in self._turn:
            self._turn[request_id] = None
            return True
        if request_id not in self._waiting:
            self._waiting.append(request_id)
            self._most_waiting = max(self._most_waiting, len(self._waiting))
        return False

    def dispatched(self, request_id: RequestId, now_s: float) -> None:
        """It went to its workers: its time runs."""
        if request_id in self._turn:
            self._turn[request_id] = now_s

    @property
    def turn(self) -> Sequence[RequestId]:
        """Those whose turn it is."""
        return tuple(self._turn)

    def end_if_over(self, request_id: RequestId, *, still_suspected: bool, now_s: float) -> None:
        """Take one out of the turn that is cleared, or has kept the others waiting for too long."""
        since_s = self._turn[request_id]
        if not still_suspected or (since_s is not None and now_s - since_s >= self._policy.isolation_s):
            del self._turn[request_id]

    def next_turn(self) -> Sequence[RequestId]:
        """Those whose turn begins now, if the last one is over."""
        if self._turn or not self._waiting:
            return ()
        size = min(-(-self._most_waiting // self._policy.max_turns), len(self._waiting))
        self._turn = {self._waiting.popleft(): None for _ in range(size)}
        if not self._waiting:
            self._most_waiting = 0
        return tuple(self._turn)

    def discard(self, request_id: RequestId) -> None:
        """It ended while it waited."""
        if request_id in self._waiting:
            self._waiting.remove(request_id)
