"""Keeps one worker registered: announces it, renews it, withdraws it at the end."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from tandem.core.ids import Epoch, WorkerId
from tandem.core.types import WorkerInfo

TTL_S = 6.0
_PERIOD_S = 1.5
_LOOK_S = 0.1


class Registry(Protocol):
    """Where a worker can be announced."""

    async def announce(self, info: WorkerInfo, *, ttl_s: float) -> bool:
        """Write or renew; False when it was not taken."""
        ...

    async def withdraw(self, worker_id: WorkerId, epoch: Epoch) -> None:
        """Remove."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


async def keep_announced(registry: Registry, read: Callable[[], WorkerInfo], stop: asyncio.Event) -> None:
    """Announce what ``read`` returns until ``stop`` is set, then withdraw it; what changes is announced at once.

    A registry that is down is asked again and again.
    """
    try:
        while not stop.is_set():
            info = read()
            await registry.announce(info, ttl_s=TTL_S)
            await _until_due(info, read, stop)
    finally:
        info = read()
        await registry.withdraw(info.worker_id, info.epoch)
        await registry.close()


async def _until_due(announced: WorkerInfo, read: Callable[[], WorkerInfo], stop: asyncio.Event) -> None:
    """Return when it is time to announce again: after a while, or when there is news, or at the end."""
    try:
        async with asyncio.timeout(_PERIOD_S):
            while read() == announced and not stop.is_set():
                try:
                    async with asyncio.timeout(_LOOK_S):
                        await stop.wait()
                except TimeoutError:
                    continue
    except TimeoutError:
        return
