"""Bytes from outside become text here, or a named error. Zero I/O."""

from tandem.core.errors import InvalidArgument


def decode_utf8(data: bytes, field: str) -> str:
    """Return ``data`` as text.

    Raises:
        InvalidArgument: ``data`` is not UTF-8; names ``field``, the offset of the first bad byte and its value.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            field,
            f"is not valid UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}",
            remedy="encode the text as UTF-8",
        ) from None


def require_encodable(text: str, field: str) -> str:
    """Return ``text``; raise InvalidArgument if it holds a lone surrogate, which no UTF-8 can express."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            field,
            f"holds the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}",
            remedy="send whole Unicode characters",
        ) from None
    return text
