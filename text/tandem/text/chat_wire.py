"""Frames between a server and its template process: 4 bytes of length (big endian), then MessagePack. Zero I/O.

Order: the process sends `Hello`; it gets one `Setup` and answers with a `Reply`; then one `Reply` per `Render`.
"""

import struct
from enum import StrEnum

import msgspec

HEADER = struct.Struct(">I")


class Outcome(StrEnum):
    """How one compile or render ended."""

    OK = "ok"
    REFUSED = "refused"  # the template's own raise_exception; ``text`` is its message
    TOO_LARGE = "too_large"
    FAILED = "failed"  # ``text`` says what went wrong, for the server's operator


class Hello(msgspec.Struct, frozen=True):
    """The process has started and set its own limits."""

    pid: int


class Setup(msgspec.Struct, frozen=True):
    """The one template this process will ever render."""

    source: str
    special_tokens: dict[str, str]
    compile_limit_s: float
    render_limit_s: float


class Render(msgspec.Struct, frozen=True):
    """One conversation; each message is (role, content)."""

    messages: list[tuple[str, str]]
    add_generation_prompt: bool
    variables: dict[str, str | int | float | bool]


class Reply(msgspec.Struct, frozen=True):
    """Result of `Setup` (empty text) or `Render` (the prompt)."""

    outcome: Outcome
    text: str = ""


def frame(message: msgspec.Struct) -> bytes:
    """One message as it goes over the pipe."""
    body = msgspec.msgpack.encode(message)
    return HEADER.pack(len(body)) + body
