"""Frames: round trips, and no flipped bit, cut or foreign byte goes unseen."""

import struct
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.kvtransfer.codec import HEADER_BYTES, MAX_SEAL_PAYLOAD_BYTES, decode, decode_header, encode, encode_chunk
from tandem.kvtransfer.errors import ProtocolViolation
from tandem.kvtransfer.frames import (
    Abort,
    Beat,
    Chunk,
    Commit,
    CommitAck,
    Credit,
    Frame,
    Hello,
    HelloAck,
    HelloStatus,
    Open,
    Seal,
    SlotsFreed,
)
from tandem.kvtransfer.reader import FrameReader

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
TAG = st.binary(min_size=16, max_size=16)
NAME = st.text("abcXYZ-_0123456789", max_size=40)
CHUNKS = st.builds(
    Chunk, TAG, U64, U32, U32, U32, U32, st.integers(1, 1 << 20), TAG, st.one_of(st.none(), st.integers(0, 300))
)
CONTROL: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Hello, st.binary(min_size=32, max_size=32), U64, U64, NAME),
    st.builds(HelloAck, st.sampled_from(HelloStatus), U64, U32, U32, NAME),
    st.builds(Open, TAG, U64, U64, U32, U32, U32, NAME, U32),
    st.builds(Seal, TAG, U64, U32, U32, U64, U32, st.binary(min_size=32, max_size=32), st.binary(max_size=200)),
    st.builds(Commit, TAG, U64, NAME),
    st.builds(CommitAck, TAG, U64),
    st.builds(Abort, TAG, U64, NAME),
    st.builds(Credit, TAG, U64, U32),
    st.builds(SlotsFreed, U64),
    st.builds(Beat, U64, st.lists(TAG, max_size=20).map(tuple)),
)


def decode_all(data: bytes) -> Frame:
    return decode(decode_header(data[:HEADER_BYTES]), data[HEADER_BYTES:])


def encode_any(frame: Frame) -> bytes:
    return encode_chunk(frame, digest=frame.digest, slot=frame.slot) if isinstance(frame, Chunk) else encode(frame)


def forge(data: bytes, at: int, value: bytes) -> bytes:
    """Overwrite header bytes and make the checksum fit again: what a liar, not a noisy line, would send."""
    head = bytearray(data)
    head[at : at + len(value)] = value
    head[16:20] = struct.pack("<I", crc32(bytes(head[20:96]), crc32(bytes(head[:16]))))
    return bytes(head)


@given(st.one_of(CHUNKS, CONTROL))
def test_round_trip(frame: Frame) -> None:
    data = encode_any(frame)
    assert decode_all(data) == frame


@given(st.one_of(CHUNKS, CONTROL), st.data())
def test_every_flipped_bit_is_seen(frame: Frame, data: st.DataObject) -> None:
    """Failure mode 19: header, body, payload and checksums alike."""
    encoded = bytearray(encode_any(frame))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ProtocolViolation):
        decode_all(bytes(encoded))


def test_every_single_bit_of_a_chunk_header() -> None:
    encoded = encode_any(Chunk(b"t" * 16, 5, 1, 2, 3, 0, 77, b"d" * 16, None))
    for bit in range(HEADER_BYTES * 8):
        flipped = bytearray(encoded)
        flipped[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(ProtocolViolation):
            decode_header(flipped)


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_all(data)


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_noise_with_a_good_checksum_decodes_or_is_refused(data: bytes) -> None:
    try:
        frame = decode_all(forge(data, 0, b"TKV1\x02"))
    except ProtocolViolation:
        return
    assert isinstance(frame, Chunk | SlotsFreed | CommitAck | Credit | Beat | Commit | Abort | HelloAck | Hello | Open)


@pytest.mark.parametrize("length", [0, (1 << 20) + 1, 2**32 - 1])
def test_chunk_length_bounds(length: int) -> None:
    good = encode_any(Chunk(b"t" * 16, 5, 1, 2, 3, 0, 77, b"d" * 16, 3))
    with pytest.raises(ProtocolViolation, match="length"):
        decode_all(forge(good, 20 + 16 + 8 + 16, struct.pack("<I", length)))


def test_inline_chunk_length_must_equal_the_payload_length() -> None:
    good = encode_any(Chunk(b"t" * 16, 5, 1, 2, 3, 0, 77, b"d" * 16, None))
    with pytest.raises(ProtocolViolation, match="length"):
        decode_all(forge(good, 8, struct.pack("<I", 78)))


@pytest.mark.parametrize(
    ("at", "value", "problem"),
    [
        (0, b"TKV2", "not a KV frame"),
        (4, b"\x03", "version 3"),
        (5, b"\xff", "type 255"),
        (6, b"\x01", "payload"),
        (8, b"\xff\xff\xff\xff", "payload"),
        (95, b"\x01", "after the body"),
    ],
)
def test_forged_headers(at: int, value: bytes, problem: str) -> None:
    with pytest.raises(ProtocolViolation, match=problem):
        decode_all(forge(encode(CommitAck(b"t" * 16, 5)), at, value))


def test_reasons_are_printable() -> None:
    """A peer's text goes to logs: no control characters, no broken UTF-8."""
    with pytest.raises(ProtocolViolation, match="unprintable"):
        decode_all(encode(Abort(b"t" * 16, 5, "a\x1b[2J")))


@pytest.mark.parametrize(
    "frame",
    [
        Credit(b"t" * 16, -1, 0),
        Credit(b"t" * 16, 0, 2**32),
        CommitAck(b"t" * 15, 0),
        Seal(b"t" * 16, 0, 0, 0, 0, 0, b"", bytes(MAX_SEAL_PAYLOAD_BYTES + 1)),
        Chunk(b"t" * 16, 5, 1, 2, 3, 0, 77, b"d" * 16, None),
    ],
)
def test_values_that_do_not_fit_are_not_encoded(frame: Frame) -> None:
    with pytest.raises(ValueError, match=r".+"):
        encode(frame)


@given(st.lists(CONTROL, max_size=6), st.data())
def test_reader_finds_the_frames_in_any_pieces(frames: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(encode(frame) for frame in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = FrameReader()
    found: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
    assert found == frames


def test_reader_refuses_chunks() -> None:
    """The sender's side never takes payload: nobody writes into its memory."""
    with pytest.raises(ProtocolViolation, match="only a sender"):
        FrameReader().feed(encode_any(Chunk(b"t" * 16, 5, 1, 2, 3, 0, 77, b"d" * 16, 0)))
    with pytest.raises(ProtocolViolation, match="only a sender"):
        FrameReader().feed(encode_any(Chunk(b"t" * 16, 5, 1, 2, 3, 0, 7, b"d" * 16, None)) + b"payload")
