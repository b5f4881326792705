"""The images that this router has in Redis, counted in bytes, and those that are to be removed there."""

from collections.abc import Iterable
from dataclasses import dataclass

from tandem.core.clock import Clock
from tandem.core.ids import WorkerId
from tandem.prefix_cache.events import Stored
from tandem.prefix_cache.image import ImageHead, ImagePart, ImageSubject
from tandem.prefix_cache.remote.gate import Miss
from tandem.prefix_cache.remote.images import RemoteImages
from tandem.router.cache.image_draft import ImageDraft


@dataclass(frozen=True, slots=True, kw_only=True)
class _Old:
    subject: ImageSubject
    head: ImageHead
    num_bytes: int
    ends_s: float


class ImageShelf:
    """At most ``max_bytes`` at a time: what can't be removed still counts, until its end. One writer; loop thread."""

    def __init__(self, images: RemoteImages, *, max_bytes: int, ttl_s: float, clock: Clock) -> None:
        self._images = images
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._heads: dict[WorkerId, ImageHead] = {}
        self._subjects: dict[WorkerId, ImageSubject] = {}
        self._old: list[_Old] = []
        self.num_bytes = 0

    def head(self, worker_id: WorkerId) -> ImageHead | None:
        """The image of a worker that this router wrote last."""
        return self._heads.get(worker_id)

    def forget(self) -> None:
        """Another router writes now, and replaces this one's images; what this one gave up it goes on to remove."""
        self._heads.clear()
        self._subjects.clear()
        self.num_bytes = sum(old.num_bytes for old in self._old)

    async def adopt(self, subject: ImageSubject) -> bool:
        """Count a predecessor's image of a worker, to be replaced; False when Redis does not answer."""
        if subject.worker_id in self._heads:
            return True
        head = await self._images.read_head(subject)
        if isinstance(head, Miss):
            return False
        if isinstance(head, ImageHead):
            self._heads[subject.worker_id], self._subjects[subject.worker_id] = head, subject
            self.num_bytes += head.num_bytes
        return True

    def has_room(self, held: Stored) -> bool:
        """Whether a part with these names may be stored."""
        return self.num_bytes + _part(held).num_bytes <= self._max_bytes

    async def add_part(self, draft: ImageDraft, held: Stored) -> bool:
        """Store a part of an image; False when Redis does not take it."""
        part = _part(held)
        number = len(draft.parts)
        draft.parts.append(part)  # before it is stored: what was not confirmed may be there as well
        draft.num_bytes += part.num_bytes
        self.num_bytes += part.num_bytes
        return not isinstance(await self._images.write_part(draft.subject, draft.image_id, number, held), Miss)

    async def finish(self, draft: ImageDraft) -> bool:
        """Make the draft the worker's image; False when Redis does not take it."""
        head, worker_id = draft.head(), draft.subject.worker_id
        old, subject = self._heads.pop(worker_id, None), self._subjects.pop(worker_id, None)
        if old is not None and subject is not None:
            # Whatever comes of it: after a write that was not confirmed nobody knows which of the two there is.
            self._discard(subject, old, old.num_bytes)
        if isinstance(await self._images.write_head(draft.subject, head), Miss):
            return False
        self._heads[worker_id], self._subjects[worker_id] = head, draft.subject
        self.num_bytes += head.num_bytes - draft.num_bytes
        return True

    def discard(self, draft: ImageDraft) -> None:
        """The draft does not become an image: what is stored of it is removed with the next `tidy`."""
        if draft.parts:
            self._discard(draft.subject, draft.head(), draft.num_bytes)

    async def keep(self, worker_id: WorkerId) -> bool:
        """Renew a worker's image, which has not changed; False when it has to be written."""
        head, subject = self._heads.get(worker_id), self._subjects.get(worker_id)
        if head is None or subject is None:
            return False
        return await self._images.renew(subject, head) is True

    async def drop_all_but(self, worker_ids: Iterable[WorkerId]) -> None:
        """Remove the images of workers that are gone."""
        for worker_id in self._heads.keys() - set(worker_ids):
            if not await self._images.drop_head(self._subjects[worker_id]):
                return
            head, subject = self._heads.pop(worker_id), self._subjects.pop(worker_id)
            self._discard(subject, head, head.num_bytes)

    async def tidy(self) -> None:
        """Remove what was replaced or given up; what Redis does not let us remove ends by itself."""
        now_s = self._clock.now_s()
        while self._old:
            old = self._old[0]
            if old.ends_s > now_s and not await self._images.drop_parts(old.subject, old.head):
                return
            self._old.pop(0)
            self.num_bytes -= old.num_bytes

    def _discard(self, subject: ImageSubject, head: ImageHead, num_bytes: int) -> None:
        ends_s = self._clock.now_s() + self._ttl_s
        self._old.append(_Old(subject=subject, head=head, num_bytes=num_bytes, ends_s=ends_s))


def _part(held: Stored) -> ImagePart:
    return ImagePart(tier=held.tier, num_blocks=len(held.keys))
