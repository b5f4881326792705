"""The router's view of a registry in Redis."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from tandem.cluster.registry.redis_registry import RedisRegistry
from tandem.core.types import WorkerInfo


class RedisDirectory:
    """A `WorkerDirectory`: polls the registry and yields the list when it changed.

    While Redis can't be asked nothing is yielded, so the router goes on with the workers it knows.
    """

    def __init__(self, registry: RedisRegistry, *, poll_every_s: float = 0.25) -> None:
        self._registry = registry
        self._poll_every_s = poll_every_s

    async def watch(self) -> AsyncIterator[Sequence[WorkerInfo]]:
        """Yield the whole list at the start and after each change; never ends by itself."""
        last: tuple[WorkerInfo, ...] | None = None
        while True:
            workers = await self._registry.list_workers()
            if workers is not None and workers != last:
                last = workers
                yield workers
            await asyncio.sleep(self._poll_every_s)
