"""Who a hand-over is: the key both sides know, and the tag that names it on the wire."""

import struct

from blake3 import blake3

from tandem.core.blocks import AttemptKey

TAG_BYTES = 16
SECRET_BYTES = 16
MAX_REQUEST_ID_BYTES = 128


TransferKey = AttemptKey
"""One hand-over per attempt, whatever n: the receiver forks its block table, so no child is part of the name."""


def transfer_tag(secret: bytes, key: TransferKey, *, dst_epoch: int) -> bytes:
    """Return the 16 bytes that name this hand-over in every frame.

    A keyed BLAKE3 over the whole identity: nobody makes it without the grant's secret, no two hand-overs (nor the
    same one before and after a restart of the receiver) share it, and the secret itself never goes over the wire.
    """
    name = key.request_id.encode()
    material = struct.pack("<QIH", dst_epoch, key.attempt, len(name)) + name
    tag_key = blake3(secret, derive_key_context="tandem.kvtransfer 2026 transfer tag").digest()
    return bytes(blake3(material, key=tag_key).digest()[:TAG_BYTES])
