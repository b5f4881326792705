"""Writes images of the index to Redis, off the hot path: one router of all, now and then, only what has changed.

The index is walked in slices with pauses in between, so a request never waits for more than one slice. An image is of
the event up to which its worker was known when the walk began; what changes meanwhile is in later events.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence

import structlog

from tandem.core.types import WorkerInfo
from tandem.prefix_cache.image import IMAGE_ID_BYTES, image_subject
from tandem.prefix_cache.index import CacheHolder
from tandem.prefix_cache.remote.writer_lease import WriterLease
from tandem.router.actions import WorkerKey
from tandem.router.cache.config import CacheImageSection
from tandem.router.cache.image_counts import ImageCounts
from tandem.router.cache.image_draft import ImageDraft
from tandem.router.cache.image_shelf import ImageShelf
from tandem.router.cache.view import CacheView, FollowPosition

_log = structlog.get_logger(__name__)

_WORKERS_PER_WALK = 16  # so many images are in Redis twice for a moment
_PAUSE_S = 0.001  # between two slices


class ImageWriter:
    """Owns what this router has in Redis. Loop thread."""

    def __init__(
        self,
        view: CacheView,
        shelf: ImageShelf,
        lease: WriterLease,
        *,
        section: CacheImageSection,
        info_of: Callable[[WorkerKey], WorkerInfo | None],
        counts: ImageCounts,
    ) -> None:
        self._view = view
        self._shelf = shelf
        self._lease = lease
        self._section = section
        self._info_of = info_of
        self._counts = counts

    async def run(self) -> None:
        """Write for ever; `step` each interval."""
        while True:
            await asyncio.sleep(self._section.interval_s)
            try:
                async with asyncio.timeout(self._section.interval_s):
                    await self.step()
            except TimeoutError:
                _log.warning("index_images_take_too_long", interval_s=self._section.interval_s)
            except Exception:  # noqa: BLE001  # the loop must survive: images are a help and nothing else
                _log.error("index_images_failed", exc_info=True)

    async def step(self) -> None:
        """Write what has changed since the last time, if this router is the one that writes."""
        held = await self._lease.hold()
        if held is not True:
            if held is False:
                self._shelf.forget()
                await self._shelf.tidy()
            return
        positions = self._view.positions()
        await self._shelf.tidy()
        await self._shelf.drop_all_but(worker.worker_id for worker in self._view.followed())
        changed = [position for position in positions if not await self._is_kept(position)]
        for start in range(0, len(changed), _WORKERS_PER_WALK):
            if not await self._write(changed[start : start + _WORKERS_PER_WALK]):
                return  # Redis is in trouble: at the next interval again

    async def close(self) -> None:
        """Let another router write at once."""
        await self._lease.release()

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _is_kept(self, position: FollowPosition) -> bool:
        head = self._shelf.head(position.worker.worker_id)
        if head is None or (head.epoch, head.sequence) != (position.worker.epoch, position.sequence):
            return False
        return await self._shelf.keep(position.worker.worker_id)

    async def _write(self, positions: Sequence[FollowPosition]) -> bool:
        """Write images of these workers; False when Redis does not take them."""
        drafts = [draft for draft in map(self._draft, positions) if draft is not None]
        for draft in drafts:
            if not await self._shelf.adopt(draft.subject):
                return False
        left = {CacheHolder(draft.subject.worker_id, draft.position.worker.epoch): draft for draft in drafts}
        try:
            return await self._gather(left) and await self._finish(left)
        finally:
            for draft in left.values():
                self._give_up(draft)

    async def _gather(self, left: dict[CacheHolder, ImageDraft]) -> bool:
        """Store every part that is full; False when Redis does not take one."""
        for piece in self._view.walk([draft.position.worker for draft in left.values()]):
            for held in piece:
                draft = left.get(held.holder)
                if draft is None:
                    continue  # given up meanwhile
                draft.add(held)
                for part in draft.full():
                    if not self._shelf.has_room(part):
                        self._give_up(left.pop(held.holder))
                        await self._shelf.tidy()
                        break
                    if not await self._shelf.add_part(draft, part):
                        return False
            await asyncio.sleep(_PAUSE_S)
        return True

    async def _finish(self, left: dict[CacheHolder, ImageDraft]) -> bool:
        """Store the last parts and the heads; False when Redis does not take one."""
        for holder, draft in list(left.items()):
            for part in draft.rest():
                if not self._shelf.has_room(part):
                    break
                if not await self._shelf.add_part(draft, part):
                    return False
            else:
                if self._view.is_same(draft.position):
                    if not await self._shelf.finish(draft):
                        return False
                    self._counts.num_written += 1
                    del left[holder]
            await self._shelf.tidy()  # what was replaced makes room for the next
        return True

    def _give_up(self, draft: ImageDraft) -> None:
        self._counts.num_failed += 1
        self._shelf.discard(draft)

    def _draft(self, position: FollowPosition) -> ImageDraft | None:
        info = self._info_of(position.worker)
        if info is None:
            return None
        subject = image_subject(info.worker_id, layout_fingerprint=info.layout_fingerprint, block_size=info.block_size)
        return ImageDraft(
            position=position,
            subject=subject,
            image_id=secrets.token_bytes(IMAGE_ID_BYTES),
            part_blocks=self._section.part_blocks,
        )
