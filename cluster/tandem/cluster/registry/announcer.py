"""Keeps one worker registered: announces it, renews it, withdraws it at the end."""

import asyncio
from typing import Protocol

from tandem.core.ids import Epoch, WorkerId
from tandem.core.types import WorkerInfo

TTL_S = 6.0
_PERIOD_S = 1.5


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


async def keep_announced(registry: Registry, info: WorkerInfo, stop: asyncio.Event) -> None:
    """Announce ``info`` until ``stop`` is set, then withdraw it. A registry that is down is asked again and again."""
    try:
        while not stop.is_set():
            await registry.announce(info, ttl_s=TTL_S)
            try:
                async with asyncio.timeout(_PERIOD_S):
                    await stop.wait()
            except TimeoutError:
                continue
    finally:
        await registry.withdraw(info.worker_id, info.epoch)
        await registry.close()
