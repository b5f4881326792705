"""How loaded the cluster is, how much of its demand it refuses, and what it leaves out for that. Zero I/O.

The *load level* is the fuller stage's demand over its capacity, without batch requests, smoothed over seconds. From
0.8, 0.9 and 1.0 on the brown-out steps hold, each until the level is a little below its own threshold: batch answers
are capped; batch requests get one sequence; nothing new is pinned in the caches.
"""

import math
from collections import deque
from dataclasses import dataclass
from enum import IntEnum

_MOST_OVER_HIGHEST = 1.2  # a deeper backlog changes nothing that is done, and would only be remembered for longer


class BrownOut(IntEnum):
    """What is left out; each step holds the ones before it."""

    NONE = 0
    CAP_BATCH = 1  # batch answers are at most so long
    ONE_SEQUENCE = 2  # batch requests for several sequences are refused
    NO_PINS = 3  # nothing is pinned in the caches


@dataclass(frozen=True, slots=True, kw_only=True)
class BrownOutPolicy:
    """From which load level on each step holds."""

    levels: tuple[float, float, float] = (0.8, 0.9, 1.0)
    hysteresis: float = 0.05
    smoothing_s: float = 2.0


class LoadLevel:
    """The smoothed level and the step that follows from it."""

    def __init__(self, policy: BrownOutPolicy) -> None:
        self._policy = policy
        self._seen_s: float | None = None
        self.level = 0.0
        self.step = BrownOut.NONE

    def observe(self, level: float, now_s: float) -> None:
        """Take the present level; it counts for the time since the last one, and no more than what all steps need."""
        level = min(level, _MOST_OVER_HIGHEST * self._policy.levels[-1])
        if self._seen_s is not None:
            share = 1.0 - math.exp(-max(now_s - self._seen_s, 0.0) / self._policy.smoothing_s)
            self.level += share * (level - self.level)
        self._seen_s = now_s
        reached = sum(self.level >= bound for bound in self._policy.levels)
        kept = sum(self.level >= bound - self._policy.hysteresis for bound in self._policy.levels)
        self.step = BrownOut(max(reached, min(kept, self.step)))


class ShedRate:
    """Whether more than half of all new requests have been refused for ``window_s`` now."""

    def __init__(self, *, window_s: float = 10.0, share: float = 0.5, min_requests: int = 20) -> None:
        self._window_s = window_s
        self._share = share
        self._min_requests = min_requests
        self._seconds: deque[list[int]] = deque()  # [second, taken, shed]
        self._since_s: float | None = None

    def note(self, *, shed: bool, now_s: float) -> None:
        """One request was taken, or shed."""
        second = math.floor(now_s)
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append([second, 0, 0])
        self._seconds[-1][2 if shed else 1] += 1
        self._judge(now_s)

    def note_shed_after_all(self, now_s: float) -> None:
        """One that was taken is shed while it waits: it counts once, as refused."""
        self.note(shed=True, now_s=now_s)
        taken = next((second for second in reversed(self._seconds) if second[1]), None)
        if taken is not None:
            taken[1] -= 1
            self._judge(now_s)

    def is_storm(self, now_s: float) -> bool:
        """Whether it has been so for the whole window."""
        self._judge(now_s)
        return self._since_s is not None and now_s - self._since_s >= self._window_s

    def _judge(self, now_s: float) -> None:
        while self._seconds and self._seconds[0][0] < now_s - self._window_s:
            self._seconds.popleft()
        num_shed = sum(second[2] for second in self._seconds)
        num_all = num_shed + sum(second[1] for second in self._seconds)
        if num_all < self._min_requests or num_shed <= self._share * num_all:
            self._since_s = None
        elif self._since_s is None:
            self._since_s = now_s
