"""Where the router learns which workers there are. A hint: no answer's correctness depends on it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from tandem.core.clock import Clock
from tandem.core.ids import Epoch, WorkerId
from tandem.core.types import WorkerInfo


class WorkerDirectory(Protocol):
    """A source of worker lists; Redis-backed ones live outside the router."""

    def watch(self) -> AsyncIterator[Sequence[WorkerInfo]]:
        """Yield the whole list at once, and again whenever it may have changed; never ends by itself."""
        ...


class MemoryDirectory:
    """The registry that a router hosts itself: workers register and renew, silence removes them."""

    def __init__(self, clock: Clock, *, sweep_every_s: float = 0.5) -> None:
        self._clock = clock
        self._sweep_every_s = sweep_every_s
        self._workers: dict[WorkerId, WorkerInfo] = {}
        self._expires_s: dict[WorkerId, float] = {}
        self._version = 0
        self._changed = asyncio.Event()

    def register(self, info: WorkerInfo, *, ttl_s: float) -> None:
        """Add or renew a worker; a new epoch replaces an old one."""
        self._expires_s[info.worker_id] = self._clock.now_s() + ttl_s
        if self._workers.get(info.worker_id) != info:
            self._workers[info.worker_id] = info
            self._bump()

    def deregister(self, worker_id: WorkerId, epoch: Epoch) -> None:
        """Remove a worker, if it is still in the life that asks."""
        info = self._workers.get(worker_id)
        if info is not None and info.epoch == epoch:
            self._remove(worker_id)

    def workers(self) -> tuple[WorkerInfo, ...]:
        """The registered workers, ordered by name."""
        self._sweep()
        return tuple(self._workers[name] for name in sorted(self._workers))

    async def watch(self) -> AsyncIterator[Sequence[WorkerInfo]]:
        """Yield the list now and after each change; expiry is noticed within ``sweep_every_s``."""
        seen = -1
        while True:
            workers = self.workers()
            if self._version != seen:
                seen = self._version
                yield workers
            changed = self._changed
            try:
                await asyncio.wait_for(changed.wait(), timeout=self._sweep_every_s)
            except TimeoutError:
                continue

    def _sweep(self) -> None:
        now_s = self._clock.now_s()
        for worker_id in [name for name, expires_s in self._expires_s.items() if expires_s <= now_s]:
            self._remove(worker_id)

    def _remove(self, worker_id: WorkerId) -> None:
        self._workers.pop(worker_id, None)
        self._expires_s.pop(worker_id, None)
        self._bump()

    def _bump(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()
