"""Integrity of a hand-over: a seeded XXH3 per chunk, computed while its bytes are in cache, and one keyed BLAKE3 seal.

::

    chunk digest d_i = XXH3-128(payload_i, seed(secret))
    seal MAC         = BLAKE3-keyed(key(secret), layout fp ‖ token digest ‖ range ‖ claim ‖ d_0 ‖ d_1 ‖ … ‖ payload)
    range         = first_ordinal, num_blocks: what was granted, and so what was sent

The list d_0 … d_n is in block order, so the seal binds bytes *and* places. ``claim`` stands for
the blocks before ``first_ordinal``, which the receiver held already (see ``skipped``). See docs/adr/0003-kv-digest.md.
"""

import struct
from dataclasses import dataclass

from blake3 import blake3

DIGEST_BYTES = 16
PIECE_BYTES = 384 * 1024
"""Bytes hashed right after (or before) they are copied: with its copy it still fits a core's second-level cache."""


@dataclass(frozen=True, slots=True)
class DigestKeys:
    """What both sides derive from the grant's secret."""

    seed: int
    mac_key: bytes


def derive_keys(secret: bytes) -> DigestKeys:
    """Derive the chunk seed (64 bit) and the seal's MAC key (256 bit) from the grant's secret."""
    material = blake3(secret, derive_key_context="tandem.kvtransfer 2026 digest keys").digest(length=40)
    return DigestKeys(seed=int.from_bytes(material[:8], "little"), mac_key=bytes(material[8:]))


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRange:
    """Blocks ``first_ordinal`` … ``first_ordinal + num_blocks - 1`` of the KV, sent; ``claim`` for those before."""

    num_blocks: int
    first_ordinal: int = 0
    claim: bytes = b""


def seal_mac(
    keys: DigestKeys, *, fingerprint: str, token_digest: bytes, sent: SealedRange, digests: bytes, payload: bytes
) -> bytes:
    """Return the 32-byte MAC of a whole hand-over; every variable part is preceded by its length."""
    mac = blake3(key=keys.mac_key)
    place = struct.pack("<II", sent.first_ordinal, sent.num_blocks)
    for part in (fingerprint.encode(), token_digest, place, sent.claim, digests, payload):
        mac.update(struct.pack("<Q", len(part)))
        mac.update(part)
    return bytes(mac.digest())
