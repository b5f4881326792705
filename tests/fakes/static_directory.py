"""A list of workers that never changes, where a registry would be in the way."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from tandem.core.types import WorkerInfo


class StaticDirectory:
    """See WorkerDirectory."""

    def __init__(self, workers: Sequence[WorkerInfo]) -> None:
        self._workers = tuple(workers)

    async def watch(self) -> AsyncIterator[Sequence[WorkerInfo]]:
        """Yield the list once and stay silent."""
        yield self._workers
        await asyncio.Event().wait()
