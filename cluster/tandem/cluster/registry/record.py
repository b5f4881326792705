"""A worker's registration as bytes in Redis: strict JSON both ways."""

import msgspec

from tandem.core.types import WorkerInfo

_MAX_RECORD_BYTES = 16 * 1024
_DECODER = msgspec.json.Decoder(WorkerInfo, strict=True)


def encode_record(info: WorkerInfo) -> bytes:
    """Return the JSON bytes of a registration."""
    return msgspec.json.encode(info)


def decode_record(data: bytes) -> WorkerInfo | None:
    """Return the registration, or None for anything that is not one: Redis is a hint and may hold rubbish."""
    if len(data) > _MAX_RECORD_BYTES:
        return None
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
