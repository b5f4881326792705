"""Virtual time, chance, the trace and the violations of one simulated run. Knows nothing of clusters."""

import hashlib
import heapq
import random
from collections import Counter, deque
from collections.abc import Callable

_KEPT_NOTES = 4000


class World:
    """Runs calls in the order of their times; everything random in a run is drawn from ``rng``."""

    def __init__(self, seed: int, *, is_replay: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.is_replay = is_replay
        self.now_s = 0.0
        self.violations: list[str] = []
        self.hits: Counter[str] = Counter()  # faults that took effect, by kind
        self.notes: deque[str] = deque(maxlen=None if is_replay else _KEPT_NOTES)
        self.num_events = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._hash = hashlib.blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """Hash of everything noted so far: equal seeds must give equal ones."""
        return self._hash.hexdigest()

    def at(self, due_s: float, call: Callable[[], None]) -> None:
        """Run ``call`` at ``due_s``; calls of one time run in the order they were added."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(due_s, self.now_s), self._sequence, call))

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Run ``call`` after ``delay_s``."""
        self.at(self.now_s + delay_s, call)

    def run_until(self, end_s: float, *, stop: Callable[[], bool] | None = None) -> None:
        """Run everything due up to ``end_s``, or until ``stop()`` or a violation."""
        heap = self._heap
        while heap and heap[0][0] <= end_s and not self.violations:
            due_s, _, call = heapq.heappop(heap)
            self.now_s = due_s
            self.num_events += 1
            call()
            if stop is not None and stop():
                return
        if not self.violations:
            self.now_s = end_s

    def chance(self, probability: float) -> bool:
        """Draw whether something happens; draws nothing where it can't."""
        return probability > 0.0 and self.rng.random() < probability

    def note(self, who: str, what: str) -> None:
        """Write a line of the trace."""
        line = f"{self.now_s:10.5f} {who:<12} {what}"
        self.notes.append(line)
        self._hash.update(line.encode())

    def tell(self, who: str, what: Callable[[], str]) -> None:
        """Write a line of a replay: everything said between processes. Other runs have neither time nor room for it."""
        if self.is_replay:
            self.notes.append(f"{self.now_s:10.5f} {who:<12}   {what()}")

    def hit(self, kind: str) -> None:
        """A fault of this kind took effect."""
        self.hits[kind] += 1

    def violation(self, oracle: str, what: str) -> None:
        """An oracle was broken: the run stops here."""
        self.note("ORACLE", f"{oracle}: {what}")
        self.violations.append(f"{oracle}: {what}")
