"""Integrity of a hand-over: a seeded XXH3 per chunk, computed while its bytes are in cache, and one keyed BLAKE3 seal.

::

    chunk digest d_i = XXH3-128(payload_i, seed(secret))
    seal MAC         = BLAKE3-keyed(key(secret), layout fp ‖ token digest ‖ num_blocks ‖ d_0 ‖ d_1 ‖ … ‖ payload)

The list d_0 … d_n is in block order, so the seal binds bytes *and* places. See docs/adr/0003-kv-digest.md.
"""

import struct
from dataclasses import dataclass

from blake3 import blake3

DIGEST_BYTES = 16
MAC_BYTES = 32
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


def seal_mac(
    keys: DigestKeys, *, fingerprint: str, token_digest: bytes, num_blocks: int, digests: bytes, payload: bytes
) -> bytes:
    """Return the 32-byte MAC of a whole hand-over; every variable part is preceded by its length."""
    mac = blake3(key=keys.mac_key)
    for part in (fingerprint.encode(), token_digest, struct.pack("<I", num_blocks), digests, payload):
        mac.update(struct.pack("<Q", len(part)))
        mac.update(part)
    return bytes(mac.digest())
