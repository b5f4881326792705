"""Bytes to core values, for whoever reads them: services and stubs."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError

from tandem.core.errors import InvalidArgument

WireT_co = TypeVar("WireT_co", covariant=True)
WireT = TypeVar("WireT", bound="WireMessage")
In = TypeVar("In")


class WireMessage(Protocol):
    """The part of a protobuf message that is used here."""

    def SerializeToString(self) -> bytes:
        """Return the encoded message."""
        ...


class WireType(Protocol[WireT_co]):
    """The part of a protobuf message class that is used here."""

    def FromString(self, data: bytes) -> WireT_co:
        """Decode a message."""
        ...


def read_message(wire: WireType[WireT], data: bytes, decode: Callable[[WireT], In]) -> In:
    """Decode bytes to a core value. Raises InvalidArgument for bytes that are no such message."""
    try:
        message = wire.FromString(data)
    except DecodeError as error:
        raise InvalidArgument(
            "request",
            "is not a valid message",
            remedy="check that every text is valid UTF-8 and that both sides use the same .proto files",
        ) from error
    return decode(message)
