"""The payload of a Seal: the first token of each child, as P sampled it."""

from collections.abc import Sequence

import msgspec

from tandem.core.blocks import FirstToken
from tandem.core.errors import KvIntegrity


class _Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    child: int
    token_id: int
    finished: bool


_DECODER = msgspec.msgpack.Decoder(list[_Entry])


def encode_first_tokens(tokens: Sequence[FirstToken]) -> bytes:
    """Return the bytes that P puts into its Seal."""
    entries = [_Entry(token.child, token.token_id, token.finished) for token in tokens]
    return msgspec.msgpack.encode(entries)


def decode_first_tokens(payload: bytes) -> tuple[FirstToken, ...]:
    """Read them at D. Raises KvIntegrity for anything that is not such a list."""
    try:
        entries = _DECODER.decode(payload)
    except msgspec.MsgspecError as error:
        raise KvIntegrity("the seal's first tokens can't be read") from error
    return tuple(FirstToken(child=e.child, token_id=e.token_id, finished=e.finished) for e in entries)
