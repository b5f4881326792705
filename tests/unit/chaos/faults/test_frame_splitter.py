"""Frames found in a stream however it was cut, and flipped where they should be."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.chaos.faults.frame_splitter import FramePart, FrameSplitter, WireFrame
from tandem.kvtransfer.codec import HEADER_BYTES, FrameType, decode, decode_header, encode, encode_chunk
from tandem.kvtransfer.errors import ProtocolViolation
from tandem.kvtransfer.frames import Beat, Chunk, Commit, Frame, Hello, Seal

TAG = bytes(range(16))
CHUNK = Chunk(TAG, 7, 3, 1, 2, 0, 40, bytes(16), None)
CHUNK_DATA = encode_chunk(CHUNK, digest=b"d" * 16, slot=None) + bytes(range(40))
SEAL = Seal(TAG, 7, 1, 1, 40, 5, b"m" * 32, b"payload")
OTHERS: list[Frame] = [Hello(bytes(32), 1, 2, "p"), SEAL, Commit(TAG, 7, ""), Beat(7, (TAG, TAG))]
STREAM = [CHUNK_DATA, *(encode(frame) for frame in OTHERS), CHUNK_DATA]


def feed(cuts: Sequence[int]) -> list[WireFrame]:
    splitter, data, frames, start = FrameSplitter(), b"".join(STREAM), [], 0
    for end in [*sorted(cuts), len(data)]:
        frames += splitter.feed(data[start:end]) if end > start else []
        start = max(start, end)
    assert splitter.rest() == b""
    return frames


@given(st.lists(st.integers(0, sum(map(len, STREAM))), max_size=30))
def test_frames_come_out_whole_however_the_stream_was_cut(cuts: list[int]) -> None:
    frames = feed(cuts)
    assert [frame.data for frame in frames] == STREAM
    kinds = [FrameType.CHUNK, FrameType.HELLO, FrameType.SEAL, FrameType.COMMIT, FrameType.BEAT, FrameType.CHUNK]
    assert [frame.kind for frame in frames] == kinds


def test_what_is_no_frame_passes_unsplit() -> None:
    splitter = FrameSplitter()
    assert splitter.feed(b"PRI * HTTP/2.0") == []  # too short to tell
    [first] = splitter.feed(bytes(100))
    assert (first.kind, first.data) == (None, b"PRI * HTTP/2.0" + bytes(100))
    assert splitter.feed(b"x") == [WireFrame(None, b"x")]


def test_a_torn_frame_is_what_is_left() -> None:
    splitter = FrameSplitter()
    assert splitter.feed(CHUNK_DATA[:100]) == []
    assert splitter.rest() == CHUNK_DATA[:100]


def check(data: bytes) -> Frame:
    return decode(decode_header(data[:HEADER_BYTES]), data[HEADER_BYTES:])


@pytest.mark.parametrize("offset", [0, 5, 17, 60, 95])
def test_a_flipped_header_is_refused_by_its_checksum(offset: int) -> None:
    data = WireFrame(FrameType.CHUNK, CHUNK_DATA).flipped(FramePart.HEADER, offset)
    assert sum(a != b for a, b in zip(data, CHUNK_DATA, strict=True)) == 1
    with pytest.raises(ProtocolViolation):
        check(data)


def test_a_flipped_payload_of_a_chunk_passes_the_header_and_of_a_seal_does_not() -> None:
    chunk = WireFrame(FrameType.CHUNK, CHUNK_DATA).flipped(FramePart.PAYLOAD, 41)
    assert chunk[:HEADER_BYTES] == CHUNK_DATA[:HEADER_BYTES]
    assert chunk[HEADER_BYTES + 1] == CHUNK_DATA[HEADER_BYTES + 1] ^ 0x10
    with pytest.raises(ProtocolViolation):
        check(WireFrame(FrameType.SEAL, encode(SEAL)).flipped(FramePart.PAYLOAD, 0))


def test_a_flipped_trailer_is_a_valid_frame_that_says_something_else() -> None:
    chunk = check(WireFrame(FrameType.CHUNK, CHUNK_DATA).flipped(FramePart.TRAILER, 2))
    assert isinstance(chunk, Chunk)
    assert chunk.digest == b"dd" + bytes([ord("d") ^ 0x10]) + b"d" * 13
    assert (chunk.seq, chunk.length) == (CHUNK.seq, CHUNK.length)
    seal = check(WireFrame(FrameType.SEAL, encode(SEAL)).flipped(FramePart.TRAILER, 31))
    assert isinstance(seal, Seal)
    assert seal.mac == b"m" * 31 + bytes([ord("m") ^ 0x10])
    with pytest.raises(ValueError, match="has no trailer"):
        WireFrame(FrameType.COMMIT, encode(OTHERS[2])).flipped(FramePart.TRAILER, 0)
