"""One worker's image while it is written: names are gathered until they fill a part. Zero I/O."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tandem.prefix_cache.events import Stored, Tier
from tandem.prefix_cache.image import ImageHead, ImagePart, ImageSubject
from tandem.prefix_cache.index import HeldNames
from tandem.prefix_cache.keys import BlockKey
from tandem.router.cache.view import FollowPosition


@dataclass(slots=True, kw_only=True)
class ImageDraft:
    """``parts`` are stored already; ``num_bytes`` is what they take."""

    position: FollowPosition
    subject: ImageSubject
    image_id: bytes
    part_blocks: int
    parts: list[ImagePart] = field(default_factory=list)
    num_bytes: int = 0
    _gathered: dict[Tier, list[BlockKey]] = field(default_factory=dict)

    def add(self, held: HeldNames) -> None:
        """Gather names of this worker."""
        self._gathered.setdefault(held.tier, []).extend(held.keys)

    def full(self) -> Iterator[Stored]:
        """Yield the parts that are full, each to be stored next."""
        for tier, keys in self._gathered.items():
            start = 0
            while len(keys) - start >= self.part_blocks:
                yield Stored(keys=tuple(keys[start : start + self.part_blocks]), tier=tier)
                start += self.part_blocks
            del keys[:start]

    def rest(self) -> Iterator[Stored]:
        """Yield what fills no part."""
        for tier, keys in self._gathered.items():
            if keys:
                yield Stored(keys=tuple(keys), tier=tier)

    def head(self) -> ImageHead:
        """The head of what is stored."""
        return ImageHead(
            epoch=self.position.worker.epoch,
            sequence=self.position.sequence,
            image_id=self.image_id,
            parts=tuple(self.parts),
        )
