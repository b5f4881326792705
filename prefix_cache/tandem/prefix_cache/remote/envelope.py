"""The form of a cached block outside the worker that made it: its bytes, and the proof of whose they are.

::

    magic 4 | version 1 | payload length 8 | name of the block 32 | layout fingerprint 32 | payload | tag 32

The tag is a keyed BLAKE3 over everything before it, with a key derived from the server's secret: a value that was
written, changed, cut, or moved to another name by somebody else is a miss. Values of another kind have a magic and a
key of their own, and can't be taken for blocks.
"""

import hmac
import struct
from dataclasses import dataclass
from enum import StrEnum

from blake3 import blake3

from tandem.core.errors import InvalidArgument
from tandem.prefix_cache.keys import KEY_BYTES, BlockKey

_VERSION = 1
_HEAD = struct.Struct("<4sBQ32s32s")
HEAD_BYTES = _HEAD.size
TAG_BYTES = 32
OVERHEAD_BYTES = HEAD_BYTES + TAG_BYTES


class Refusal(StrEnum):
    """Why a stored value is not the block that was asked for."""

    MALFORMED = "malformed"
    OTHER_VERSION = "other_version"
    OTHER_KEY = "other_key"
    OTHER_LAYOUT = "other_layout"
    FORGED = "forged"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueKind:
    """What a sealed value is: its first four bytes, and what its key is derived for."""

    magic: bytes
    context: str


BLOCK = ValueKind(magic=b"TKVB", context="tandem prefix cache: tag of a stored block, v1")
INDEX_IMAGE = ValueKind(magic=b"TKVI", context="tandem prefix cache: tag of an image of an index, v1")


@dataclass(frozen=True, slots=True)
class Opened:
    """A value that proved itself."""

    payload: memoryview


class BlockEnvelope:
    """Seals and opens stored blocks, or values of another kind, of one layout."""

    def __init__(self, secret: bytes, *, layout_fingerprint: str, kind: ValueKind = BLOCK) -> None:
        """``layout_fingerprint``: 64 hexadecimal digits. Raises InvalidArgument for another form."""
        try:
            self._layout = bytes.fromhex(layout_fingerprint)
        except ValueError:
            self._layout = b""
        if len(self._layout) != KEY_BYTES:
            raise InvalidArgument("layout_fingerprint", f"{layout_fingerprint!r} is not 64 hexadecimal digits")
        self._magic = kind.magic
        self._key = blake3(secret, derive_key_context=kind.context).digest()

    def seal(self, key: BlockKey, payload: bytes | bytearray | memoryview) -> bytes:
        """Return the value to store for a block."""
        data = memoryview(payload).cast("B")
        head = _HEAD.pack(self._magic, _VERSION, len(data), key, self._layout)
        return b"".join((head, data, self._tag(head, data)))

    def open(self, key: BlockKey, value: bytes) -> Opened | Refusal:
        """Return the block's bytes, or why ``value`` is not that block."""
        if len(value) < OVERHEAD_BYTES:
            return Refusal.MALFORMED
        magic, version, length, named, layout = _HEAD.unpack_from(value)
        if magic != self._magic or length != len(value) - OVERHEAD_BYTES:
            return Refusal.MALFORMED
        if version != _VERSION:
            return Refusal.OTHER_VERSION
        view = memoryview(value)
        payload = view[HEAD_BYTES:-TAG_BYTES]
        if not hmac.compare_digest(self._tag(view[:HEAD_BYTES], payload), value[-TAG_BYTES:]):
            return Refusal.FORGED
        # Only now is it worth saying that a genuine value lies in the wrong place.
        if named != key:
            return Refusal.OTHER_KEY
        return Opened(payload) if layout == self._layout else Refusal.OTHER_LAYOUT

    def _tag(self, head: bytes | memoryview, payload: memoryview) -> bytes:
        hasher = blake3(key=self._key)
        hasher.update(head)
        hasher.update(payload)
        return hasher.digest()
