"""Who a hand-over is: the key both sides know, and the tag that names it on the wire."""

import struct
from dataclasses import dataclass

from blake3 import blake3

TAG_BYTES = 16
SECRET_BYTES = 16
MAX_REQUEST_ID_BYTES = 128


@dataclass(frozen=True, slots=True, order=True)
class TransferKey:
    """One hand-over. ``child`` is 0: one hand-over per attempt whatever n, the receiver forks its block table."""

    request_id: str
    attempt: int
    child: int = 0


def transfer_tag(secret: bytes, key: TransferKey, *, dst_epoch: int) -> bytes:
    """Return the 16 bytes that name this hand-over in every frame.

    A keyed BLAKE3 over the whole identity: nobody makes it without the grant's secret, no two hand-overs (nor the
    same one before and after a restart of the receiver) share it, and the secret itself never goes over the wire.
    """
    name = key.request_id.encode()
    material = struct.pack("<QIIH", dst_epoch, key.attempt, key.child, len(name)) + name
    tag_key = blake3(secret, derive_key_context="tandem.kvtransfer 2026 transfer tag").digest()
    return bytes(blake3(material, key=tag_key).digest()[:TAG_BYTES])
