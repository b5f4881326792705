"""Starts the index from images in Redis: what a worker held when some router wrote it down, before its stream begins.

Whatever is wrong with an image or with Redis, the worker is asked for everything, as if there were no images.
"""

import asyncio

import structlog

from tandem.core.kv_events import SnapshotPart, Tier
from tandem.core.types import WorkerInfo
from tandem.prefix_cache.image import ImageHead, ImageRefusal, ImageSubject, image_subject
from tandem.prefix_cache.remote.gate import Miss
from tandem.prefix_cache.remote.images import RemoteImages
from tandem.router.actions import WorkerKey
from tandem.router.cache.image_counts import ImageCounts
from tandem.router.cache.view import CacheView

_log = structlog.get_logger(__name__)

_MAX_AT_ONCE = 2
_PARTS_PER_CALL = 1  # what is opened at once holds up the loop: 2048 names by default take about a millisecond
_TRIES = 3  # a process that starts is busy: the first answers may come too late for the gate
_PAUSE_S = 0.05


class ImageLoader:
    """Loads one worker's image at a time into the view. Loop thread."""

    def __init__(
        self, images: RemoteImages, view: CacheView, *, counts: ImageCounts, max_blocks: int, max_wait_s: float
    ) -> None:
        """``max_blocks``: images with more names in every tier are refused. ``max_wait_s``: for one worker, in all."""
        self._images = images
        self._view = view
        self._counts = counts
        self._max_blocks = max_blocks
        self._max_wait_s = max_wait_s
        self._turns = asyncio.Semaphore(_MAX_AT_ONCE)

    async def warm(self, worker: WorkerKey, info: WorkerInfo) -> None:
        """Take the image of that life of a worker if there is one. Its stream must not have begun.

        Returns within ``max_wait_s``; raises nothing but CancelledError.
        """
        outcome: int | ImageRefusal | Miss | None = Miss.LATE
        try:
            async with asyncio.timeout(self._max_wait_s), self._turns:
                outcome = await self._load(worker, info)
        except TimeoutError:
            outcome = Miss.LATE
        finally:
            if not isinstance(outcome, int):
                self._view.drop_image(worker)
        self._note(worker, outcome)

    async def _load(self, worker: WorkerKey, info: WorkerInfo) -> int | ImageRefusal | Miss | None:
        """Return how many names were taken."""
        subject = image_subject(info.worker_id, layout_fingerprint=info.layout_fingerprint, block_size=info.block_size)
        head = await self._head(subject)
        if not isinstance(head, ImageHead):
            return head
        if head.epoch != worker.epoch:
            return ImageRefusal.OTHER_LIFE
        if head.num_blocks > len(Tier) * self._max_blocks:
            return ImageRefusal.TOO_LARGE
        return await self._take(worker, subject, head)

    async def _head(self, subject: ImageSubject) -> ImageHead | ImageRefusal | Miss | None:
        for _ in range(_TRIES - 1):
            head = await self._images.read_head(subject)
            if not isinstance(head, Miss):
                return head
            await asyncio.sleep(_PAUSE_S)
        return await self._images.read_head(subject)

    async def _take(
        self, worker: WorkerKey, subject: ImageSubject, head: ImageHead
    ) -> int | ImageRefusal | Miss | None:
        first = True
        for start in range(0, len(head.parts), _PARTS_PER_CALL):
            numbers = range(start, min(start + _PARTS_PER_CALL, len(head.parts)))
            parts = await self._images.read_parts(subject, head, numbers)
            if not isinstance(parts, list):
                return parts
            for stored in parts:
                part = SnapshotPart(sequence=head.sequence, held=(stored,), first=first, last=False)
                if not self._view.on_image(worker, part):
                    return None
                first = False
                await asyncio.sleep(0)
        # Only now is it whole, and may be followed from.
        end = SnapshotPart(sequence=head.sequence, held=(), first=first, last=True)
        return head.num_blocks if self._view.on_image(worker, end) else None

    def _note(self, worker: WorkerKey, outcome: int | ImageRefusal | Miss | None) -> None:
        counts = self._counts
        if isinstance(outcome, int):
            counts.num_read += 1
            counts.num_blocks_warmed += outcome
            _log.info("index_warmed", worker_id=worker.worker_id, num_blocks=outcome)
            return
        counts.num_missed += 1
        if isinstance(outcome, ImageRefusal):
            counts.refused[outcome] += 1
            _log.warning("index_image_refused", worker_id=worker.worker_id, reason=outcome.value)
