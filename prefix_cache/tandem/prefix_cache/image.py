"""An image of what one worker holds, as a router knew it: a head that names its parts, and the parts. Zero I/O.

::

    head:  epoch 8 | sequence 8 | image id 16 | number of parts 4 | (tier 1 | number of names 4) per part
    part:  names of one tier, 32 bytes each

An image is of event ``sequence`` of life ``epoch``; who has it needs only the later events. It is *fuzzy*: what changed
after that event may be in it or not, and the later events, applied in order, make it exact. Head and parts are sealed
(`remote.envelope`) under names of their own: a part counts only as the part of that image that it was written as.
"""

import struct
from dataclasses import dataclass
from enum import StrEnum

from blake3 import blake3

from tandem.core.ids import Epoch, WorkerId
from tandem.prefix_cache.events import Stored, Tier
from tandem.prefix_cache.keys import KEY_BYTES, BlockKey
from tandem.prefix_cache.remote.envelope import OVERHEAD_BYTES

IMAGE_ID_BYTES = 16
MAX_PART_BLOCKS = 1 << 14
MAX_PARTS = 1 << 16
_MAX_SEQUENCE = (1 << 63) - 2  # the next one fits everywhere

_HEAD = struct.Struct(f"<QQ{IMAGE_ID_BYTES}sI")
_PART = struct.Struct("<BI")
_TIERS = (Tier.DEVICE, Tier.HOST, Tier.REMOTE)  # by the number they have in a head; never reordered
MAX_HEAD_BYTES = _HEAD.size + MAX_PARTS * _PART.size + OVERHEAD_BYTES


class ImageRefusal(StrEnum):
    """Why an image was not taken. The first five are those of any sealed value."""

    MALFORMED = "malformed"
    OTHER_VERSION = "other_version"
    OTHER_KEY = "other_key"
    OTHER_LAYOUT = "other_layout"
    FORGED = "forged"
    TORN = "torn"  # a part is missing
    OTHER_LIFE = "other_life"  # of the worker: its cache was lost since
    TOO_LARGE = "too_large"  # for this router's index


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSubject:
    """Whose image it is; ``layout``: 64 hexadecimal digits, of the form of the worker's KV."""

    worker_id: WorkerId
    layout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePart:
    """How many names one part has, all of one tier."""

    tier: Tier
    num_blocks: int

    @property
    def num_bytes(self) -> int:
        """Size of the sealed value."""
        return self.num_blocks * KEY_BYTES + OVERHEAD_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHead:
    """What an image consists of."""

    epoch: Epoch
    sequence: int
    image_id: bytes
    parts: tuple[ImagePart, ...]

    @property
    def num_blocks(self) -> int:
        """Names in all parts."""
        return sum(part.num_blocks for part in self.parts)

    @property
    def num_bytes(self) -> int:
        """Size of all sealed values, the head's among them."""
        return sum(part.num_bytes for part in self.parts) + _HEAD.size + len(self.parts) * _PART.size + OVERHEAD_BYTES


def image_subject(worker_id: WorkerId, *, layout_fingerprint: str, block_size: int) -> ImageSubject:
    """Return the subject for a worker whose KV has that form."""
    layout = blake3(f"{block_size}:{layout_fingerprint}".encode()).hexdigest()
    return ImageSubject(worker_id=worker_id, layout=layout)


def head_key(worker_id: WorkerId) -> BlockKey:
    """Name under which a worker's head is sealed."""
    return BlockKey(blake3(b"head:" + worker_id.encode()).digest())


def part_key(image_id: bytes, number: int, tier: Tier) -> BlockKey:
    """Name under which part ``number`` of one image is sealed."""
    place = _PART.pack(_TIERS.index(tier), number)
    return BlockKey(blake3(b"part:" + image_id + place).digest())


def encode_head(head: ImageHead) -> bytes:
    """Return the head's payload."""
    start = _HEAD.pack(head.epoch, head.sequence, head.image_id, len(head.parts))
    return start + b"".join(_PART.pack(_TIERS.index(part.tier), part.num_blocks) for part in head.parts)


def decode_head(payload: bytes | memoryview) -> ImageHead | None:
    """Return what `encode_head` was given; None for anything else."""
    if len(payload) < _HEAD.size:
        return None
    epoch, sequence, image_id, num_parts = _HEAD.unpack_from(payload)
    if sequence > _MAX_SEQUENCE or num_parts > MAX_PARTS or len(payload) != _HEAD.size + num_parts * _PART.size:
        return None
    parts = []
    for number, num_blocks in _PART.iter_unpack(payload[_HEAD.size :]):
        if number >= len(_TIERS) or not 1 <= num_blocks <= MAX_PART_BLOCKS:
            return None
        parts.append(ImagePart(tier=_TIERS[number], num_blocks=num_blocks))
    return ImageHead(epoch=Epoch(epoch), sequence=sequence, image_id=image_id, parts=tuple(parts))


def encode_part(keys: tuple[BlockKey, ...]) -> bytes:
    """Return a part's payload."""
    return b"".join(keys)


def decode_part(part: ImagePart, payload: bytes | memoryview) -> Stored | None:
    """Return the names of ``part``; None when there are not as many as its head says."""
    if len(payload) != part.num_blocks * KEY_BYTES:
        return None
    data = bytes(payload)
    keys = tuple(BlockKey(data[at : at + KEY_BYTES]) for at in range(0, len(data), KEY_BYTES))
    return Stored(keys=keys, tier=part.tier)
