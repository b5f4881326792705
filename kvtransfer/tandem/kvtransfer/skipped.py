"""What a receiver holds already: the start of the KV that is not sent, and the claim by which both sides agree on it.

::

    prefix key  = the cache's name of the last skipped block; it stands for the tenant and all tokens before its end
    claim       = BLAKE3-keyed(key(grant's secret), num_blocks ‖ layout fingerprint ‖ prefix key)

D makes the claim from what its cache says, P from its own copy of the prompt. The grant, and the seal over what was
sent, hold it; so a block that was left out is never one that P would have sent with other bytes. Unequal claims end the
hand-over as KV_PREFIX before any byte of KV moves.
"""

import struct
from dataclasses import dataclass, field

from blake3 import blake3

CLAIM_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedPrefix:
    """The first ``num_blocks`` blocks of a hand-over, all full, that the receiver holds. The key is a secret name."""

    num_blocks: int
    last_key: bytes = field(repr=False)


def prefix_claim(secret: bytes, *, fingerprint: str, skipped: SkippedPrefix | None) -> bytes:
    """Return the 32 bytes that bind what is left out of a hand-over; empty when nothing is, or no key is known."""
    if skipped is None or not skipped.num_blocks or not skipped.last_key:
        return b""
    claim_key = blake3(secret, derive_key_context="tandem.kvtransfer 2026 skipped prefix").digest()
    claim = blake3(key=claim_key)
    claim.update(struct.pack("<I", skipped.num_blocks))
    for part in (fingerprint.encode(), skipped.last_key):
        claim.update(struct.pack("<Q", len(part)))
        claim.update(part)
    return bytes(claim.digest())
