"""Follows the prefix caches of all workers: one stream each, opened again after it broke, from where it broke.

Not a policy: what the messages mean is the view's business.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing

import grpc.aio
import structlog

from tandem.core.clock import Clock
from tandem.core.errors import TandemError, Unavailable
from tandem.core.types import WorkerInfo
from tandem.router.actions import WorkerKey
from tandem.router.cache.view import CacheView
from tandem.rpc.channels import open_channel
from tandem.rpc.stubs.cache import WorkerCacheStub
from tandem.rpc.tls import TlsMaterial

_log = structlog.get_logger(__name__)

_FIRST_PAUSE_S = 0.05
_MAX_PAUSE_S = 2.0
_NO_CACHE_PAUSE_S = 60.0  # a worker without a cache does not get one in this life
_SILENT_S = 5.0  # a worker gives a sign of life each second


Warm = Callable[[WorkerKey, WorkerInfo], Awaitable[None]]


class CacheFollower:
    """Owns the streams and their tasks. Loop thread."""

    def __init__(
        self, view: CacheView, *, clock: Clock, tls: TlsMaterial | None, insecure: bool, warm: Warm | None = None
    ) -> None:
        """``warm`` is called once per life of a worker, before its stream begins; it bounds its own time."""
        self._view = view
        self._clock = clock
        self._tls = tls
        self._insecure = insecure
        self._warm = warm
        self._tasks: dict[WorkerKey, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._watching: set[WorkerKey] = set()

    def is_watching(self, worker: WorkerKey) -> bool:
        """Whether the stream of that life of a worker stands."""
        return worker in self._watching

    def change(self, *, joined: Iterable[WorkerInfo], left: Iterable[WorkerKey]) -> None:
        """Workers came and went."""
        for key in left:
            self._end(self._tasks.pop(key, None))
            self._view.on_gone(key)
        for info in joined:
            key = WorkerKey(worker_id=info.worker_id, epoch=info.epoch)
            self._tasks[key] = asyncio.get_running_loop().create_task(self._follow(key, info))

    def forget(self, worker: WorkerKey) -> None:
        """A worker was found dead: nothing can be had of it until it tells again."""
        self._view.on_gone(worker)

    async def close(self) -> None:
        """End all streams and wait for their tasks."""
        for task in self._tasks.values():
            self._end(task)
        self._tasks.clear()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _end(self, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _follow(self, worker: WorkerKey, info: WorkerInfo) -> None:
        if self._warm is not None:
            await self._warm(worker, info)
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                async with open_channel(info.address, tls=self._tls, insecure=self._insecure) as channel:
                    await self._read(worker, WorkerCacheStub(channel))
                pause_s = _FIRST_PAUSE_S
            except TandemError as error:
                pause_s = _NO_CACHE_PAUSE_S if error.reason == "UNIMPLEMENTED" else min(2.0 * pause_s, _MAX_PAUSE_S)
                _log.info("cache_not_followed", worker_id=worker.worker_id, reason=error.reason, problem=str(error))
            except (grpc.aio.AioRpcError, OSError) as error:
                pause_s = min(2.0 * pause_s, _MAX_PAUSE_S)
                _log.warning("cache_stream_broke", worker_id=worker.worker_id, problem=repr(error))
            await asyncio.sleep(pause_s)

    async def _read(self, worker: WorkerKey, stub: WorkerCacheStub) -> None:
        """Read one stream until it breaks or its messages do not fit; raises what it broke with."""
        updates = stub.watch_kv_events(self._view.follow_from(worker))
        try:
            async with aclosing(updates):
                while True:
                    async with asyncio.timeout(_SILENT_S):
                        update = await anext(updates, None)
                    if update is None:
                        raise Unavailable("the worker closed the stream of its cache")
                    self._watching.add(worker)
                    if not self._view.on_update(worker, update, self._clock.now_s()):
                        _log.info("cache_events_missing", worker_id=worker.worker_id)
                        return
        except TimeoutError:
            raise Unavailable("the worker says nothing of its cache", reason="SILENT") from None
        finally:
            self._watching.discard(worker)
