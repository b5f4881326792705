"""The least HTTP/2 that can call a streaming gRPC method: a load generator's client, ten times cheaper than gRPC's own.

Not a client for anything else: it opens its windows as wide as they go and never looks at headers.
"""

import asyncio
import struct
import time
from collections.abc import Callable

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = END_STREAM = 0x1
_END_HEADERS = 0x4
_WIDEST = 2**31 - 1
_FIRST_WINDOW = 65535

OnFrame = Callable[[int, bytes, bool], None]
"""Called with (arrival in nanoseconds, payload of a DATA frame, whether the stream has ended)."""


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _header(name: bytes, value: bytes) -> bytes:
    """One literal header field without indexing (RFC 7541, 6.2.2); both texts are shorter than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


class Http2Connection(asyncio.Protocol):
    """One connection with any number of streaming calls."""

    def __init__(self, authority: str, path: str) -> None:
        fields = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        ]
        self._headers = b"".join(_header(name, value) for name, value in fields)
        self._streams: dict[int, OnFrame] = {}
        self._next_stream = 1
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, and open the windows."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = struct.pack(">HIHI", 0x2, 0, 0x4, _WIDEST)  # no push; initial window of streams
        update = struct.pack(">I", _WIDEST - _FIRST_WINDOW)
        transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, update))

    def call(self, message: bytes, on_frame: OnFrame) -> None:
        """Begin a call with one request message."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._streams[stream] = on_frame
        body = b"\x00" + struct.pack(">I", len(message)) + message
        assert self._transport is not None
        self._transport.write(
            _frame(_HEADERS, _END_HEADERS, stream, self._headers) + _frame(_DATA, END_STREAM, stream, body)
        )

    def data_received(self, data: bytes) -> None:
        """Take frames apart; the hot path."""
        now_ns = time.monotonic_ns()
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= 9:
            head = int.from_bytes(data[at : at + 9], "big")
            after = at + 9 + (head >> 48)
            if after > end:
                break
            kind = (head >> 40) & 0xFF
            if kind == _DATA:
                self._streams[head & _WIDEST](now_ns, data[at + 9 : after], False)
            else:
                self._control(kind, (head >> 32) & 0xFF, head & _WIDEST, data[at + 9 : after], now_ns)
            at = after
        self._rest = data[at:]

    def _control(self, kind: int, flags: int, stream: int, payload: bytes, now_ns: int) -> None:
        assert self._transport is not None
        if kind == _SETTINGS and not flags & _ACK:
            self._transport.write(_frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _RESET or (kind == _HEADERS and flags & END_STREAM):
            self._streams.pop(stream)(now_ns, b"", True)
        elif kind == _GOAWAY:
            raise ConnectionError(f"the router closed the connection: {payload!r}")

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


async def connect(address: str, path: str) -> Http2Connection:
    """Open a connection to ``host:port`` for calls of ``path``."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Http2Connection(address, path), host, int(port))
    return connection


def messages_of(payload: bytes) -> list[bytes]:
    """The gRPC messages of one DATA frame. Raises ValueError when one is cut by the frame's end."""
    found: list[bytes] = []
    at = 0
    while at < len(payload):
        size = int.from_bytes(payload[at + 1 : at + 5], "big")
        at += 5 + size
        if payload[at - size - 5] != 0 or at > len(payload):
            raise ValueError("a message is compressed or cut by the end of a frame")
        found.append(payload[at - size : at])
    return found
