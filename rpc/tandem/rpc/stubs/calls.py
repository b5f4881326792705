"""One unary call in core values."""

from collections.abc import Callable
from typing import TypeVar

import grpc.aio

from tandem.rpc.errors import rpc_errors
from tandem.rpc.wire import WireMessage, WireType, read_message

WireT = TypeVar("WireT", bound=WireMessage)
Out = TypeVar("Out")


async def call_unary(
    channel: grpc.aio.Channel,
    path: str,
    request: WireMessage,
    wire: WireType[WireT],
    decode: Callable[[WireT], Out],
    *,
    timeout_s: float,
) -> Out:
    """Call ``path`` and decode its answer. Raises the Tandem error that the call ended with."""
    method = channel.unary_unary(path, request_serializer=None, response_deserializer=None)
    with rpc_errors():
        data: bytes = await method(request.SerializeToString(), timeout=timeout_s)
    return read_message(wire, data, decode)
