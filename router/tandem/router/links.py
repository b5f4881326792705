"""All streams to workers, kept equal to the fleet."""

import asyncio
from collections.abc import Callable, Iterable

from tandem.core.messages import Command
from tandem.core.types import WorkerInfo
from tandem.router.actions import WorkerKey
from tandem.router.worker_link import WorkerLink


class WorkerLinks:
    """Opens and closes links; owns their tasks."""

    def __init__(self, make: Callable[[WorkerInfo], WorkerLink]) -> None:
        self._make = make
        self._links: dict[WorkerKey, WorkerLink] = {}
        self._tasks: dict[WorkerKey, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def send(self, worker: WorkerKey, command: Command) -> None:
        """Hand a command to that life of a worker; without a link it goes nowhere."""
        link = self._links.get(worker)
        if link is not None:
            link.send(command)

    def restart(self, worker: WorkerKey) -> None:
        """Break one stream and dial again."""
        link = self._links.get(worker)
        if link is not None:
            link.restart()

    def change(self, *, joined: Iterable[WorkerInfo], left: Iterable[WorkerKey]) -> None:
        """Close links of workers that left, open links to those that joined."""
        for key in left:
            self._links.pop(key, None)
            self._end(self._tasks.pop(key, None))
        for info in joined:
            link = self._make(info)
            self._links[link.key] = link
            self._tasks[link.key] = asyncio.get_running_loop().create_task(link.run())

    async def close(self) -> None:
        """Close all links and wait for their tasks."""
        for task in self._tasks.values():
            self._end(task)
        self._tasks.clear()
        self._links.clear()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _end(self, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
