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

A stream that breaks may be a death or a cut. Until it is known which, the crash is *doubted*: it isolates, but condemns
nobody. Who would be condemned if each doubted crash were a death is *in doubt*, and is not run meanwhile.
"""

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tandem.core.ids import RequestId

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspicionPolicy:
    """How much evidence it takes. ``isolation_s`` bounds how long one suspect keeps the others waiting: once until it
    is placed, and once while it runs. ``doubt_s`` is how long a cut worker may take to come back."""

    condemn_at: float = 1.2
    condemn_later_at: float = 1.01  # in more than ``min_crashes``: alone in one of them
    isolate_at: float = 0.2
    min_crashes: int = 2
    passed_tokens: int = 2
    isolation_s: float = 2.0
    doubt_s: float = 10.0
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

    __slots__ = ("_children", "_doubted", "_marks", "_policy", "_shares")

    def __init__(self, policy: SuspicionPolicy, children: Sequence[Output]) -> None:
        self._policy = policy
        self._children = children
        self._shares: dict[Hashable, float] = {}
        self._doubted: set[Hashable] = set()
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
        self._doubted.discard(crash)

    def counts(self, crash: Hashable) -> bool:
        """Whether it has a share of ``crash``."""
        return crash in self._shares

    def doubt(self, crash: Hashable) -> None:
        """Whether it was a crash is not known yet."""
        if crash in self._shares:
            self._doubted.add(crash)

    def confirm(self, crash: Hashable) -> None:
        """It was a crash."""
        self._doubted.discard(crash)

    def check_cleared(self) -> bool:
        """Whether it is without suspicion (any more): every child has ended, or is past the place of the last crash."""
        if self._shares:
            margin = self._policy.passed_tokens
            marks = zip(self._children, self._marks, strict=True)
            if all(child.finished or child.next_position >= mark + margin for child, mark in marks):
                self._shares.clear()
                self._doubted.clear()
        return not self._shares

    @property
    def is_condemned(self) -> bool:
        """Whether the evidence is enough, of crashes that are known to be some."""
        return self._is_enough([share for crash, share in self._shares.items() if crash not in self._doubted])

    @property
    def is_in_doubt(self) -> bool:
        """Whether the evidence would be enough if every doubted crash were one."""
        return bool(self._doubted) and not self.is_condemned and self._is_enough(list(self._shares.values()))

    def _is_enough(self, shares: Sequence[float]) -> bool:
        policy = self._policy
        needed = policy.condemn_at if len(shares) <= policy.min_crashes else policy.condemn_later_at
        return len(shares) >= policy.min_crashes and sum(shares) >= needed - _ROUNDING

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


@dataclass(slots=True, kw_only=True)
class _Turn:
    begun_s: float
    placed_s: float | None = None  # since when it has workers


class Isolation:
    """Lets suspects run in turns among themselves; requests without blame are not held up.

    A turn is one suspect while few wait, so that a crash names its culprit; while many wait it is a ``max_turns``-th of
    the most that waited, because after two kills from outside fifty innocent streams must not wait for fifty turns.
    Who can't be placed in its turn goes to the end of the line, if there is one.
    """

    def __init__(self, policy: SuspicionPolicy) -> None:
        self._policy = policy
        self._turn: dict[RequestId, _Turn] = {}
        self._waiting: deque[RequestId] = deque()
        self._most_waiting = 0  # since nobody waited last

    def __len__(self) -> int:
        return len(self._waiting)

    def admit(self, request_id: RequestId, now_s: float) -> bool:
        """Whether it may be placed now; else ``next_turn`` names it when its turn has come."""
        if request_id in self._turn:
            self._turn[request_id].placed_s = None  # its turn began when it began: refusals do not prolong it
            return True
        if not self._turn and request_id not in self._waiting:
            self._turn[request_id] = _Turn(begun_s=now_s)
            return True
        self._line_up(request_id)
        return False

    def is_waiting(self, request_id: RequestId) -> bool:
        """Whether its turn has yet to come."""
        return request_id in self._waiting

    def dispatched(self, request_id: RequestId, now_s: float) -> None:
        """It went to its workers: its time runs."""
        if request_id in self._turn:
            self._turn[request_id].placed_s = now_s

    @property
    def turn(self) -> Sequence[RequestId]:
        """Those whose turn it is."""
        return tuple(self._turn)

    def end_if_over(self, request_id: RequestId, *, still_suspected: bool, now_s: float) -> None:
        """Take one out of the turn that is cleared, or has kept the others waiting for too long."""
        turn, most_s = self._turn[request_id], self._policy.isolation_s
        if not still_suspected or (turn.placed_s is not None and now_s - turn.placed_s >= most_s):
            del self._turn[request_id]
        elif turn.placed_s is None and self._waiting and now_s - turn.begun_s >= most_s:
            del self._turn[request_id]
            self._line_up(request_id)

    def next_turn(self, now_s: float) -> Sequence[RequestId]:
        """Those whose turn begins now, if the last one is over."""
        if self._turn or not self._waiting:
            return ()
        size = min(-(-self._most_waiting // self._policy.max_turns), len(self._waiting))
        self._turn = {self._waiting.popleft(): _Turn(begun_s=now_s) for _ in range(size)}
        if not self._waiting:
            self._most_waiting = 0
        return tuple(self._turn)

    def discard(self, request_id: RequestId) -> None:
        """It ended while it waited."""
        if request_id in self._waiting:
            self._waiting.remove(request_id)

    def _line_up(self, request_id: RequestId) -> None:
        if request_id not in self._waiting:
            self._waiting.append(request_id)
            self._most_waiting = max(self._most_waiting, len(self._waiting))
