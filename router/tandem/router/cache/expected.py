"""Prefixes that a worker will hold soon, because a request with them was sent there. Zero I/O.

Until the worker tells of them, requests with the same start would be spread over other workers, each computing it once
more. An expectation ends by itself: a request may fail, or its blocks may be evicted at once.
"""

from collections.abc import Sequence

from tandem.core.kv_events import BlockKey
from tandem.router.actions import WorkerKey


class ExpectedPrefixes:
    """At most ``max_blocks`` names over all workers, each for ``expect_s`` seconds."""

    def __init__(self, *, max_blocks: int, expect_s: float) -> None:
        self._max_blocks = max_blocks
        self._expect_s = expect_s
        self._until: dict[WorkerKey, dict[BlockKey, float]] = {}  # in order of their end
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def expect(self, worker: WorkerKey, keys: Sequence[BlockKey], now_s: float) -> None:
        """The prefix with these blocks is on its way to ``worker``; one that is too long is expected in part."""
        until = self._until.setdefault(worker, {})
        end_s = now_s + self._expect_s
        for key in keys[: self._max_blocks]:
            self._num -= until.pop(key, None) is not None
            until[key] = end_s
            self._num += 1
        self._end(until, now_s)
        while self._num > self._max_blocks:
            self._drop_from(max(self._until.values(), key=len))

    def num_expected(self, worker: WorkerKey, keys: Sequence[BlockKey], now_s: float) -> int:
        """Return how many of a prompt's blocks, from the first on, ``worker`` will hold soon."""
        until = self._until.get(worker)
        if not until or not keys or until.get(keys[0], now_s) <= now_s:
            return 0
        # Whole starts of prompts were entered, so what is expected of this prompt is a run; look for its end.
        low, high = 0, len(keys)
        while high - low > 1:
            middle = (low + high) // 2
            if until.get(keys[middle], now_s) > now_s:
                low = middle
            else:
                high = middle
        return low + 1

    def forget(self, worker: WorkerKey) -> None:
        """That life of a worker is over."""
        self._num -= len(self._until.pop(worker, ()))

    def clear(self) -> None:
        """Expect nothing of anybody."""
        self._until.clear()
        self._num = 0

    def sweep(self, now_s: float) -> None:
        """Give back the memory of expectations that have ended."""
        for worker, until in list(self._until.items()):
            self._end(until, now_s)
            if not until:
                del self._until[worker]

    def _end(self, until: dict[BlockKey, float], now_s: float) -> None:
        gone = []
        for key, end_s in until.items():
            if end_s > now_s:
                break
            gone.append(key)
        for key in gone:
            del until[key]
        self._num -= len(gone)

    def _drop_from(self, until: dict[BlockKey, float]) -> None:
        """Make room: the oldest half of one worker's, because a dictionary's head is slow to drop one by one."""
        gone = [key for _, key in zip(range(max(len(until) // 2, 1)), until, strict=False)]
        for key in gone:
            del until[key]
        self._num -= len(gone)
