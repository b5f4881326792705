"""A stored block proves whose it is; anything else is a miss with a cause."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.errors import InvalidArgument
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.remote.envelope import OVERHEAD_BYTES, BlockEnvelope, Opened, Refusal

LAYOUT = hashlib.sha256(b"layout").hexdigest()
OTHER_LAYOUT = hashlib.sha256(b"other").hexdigest()
KEY, OTHER_KEY = BlockKey(bytes(range(32))), BlockKey(bytes(32))
SECRET = b"s" * 32


def envelope(secret: bytes = SECRET, layout: str = LAYOUT) -> BlockEnvelope:
    return BlockEnvelope(secret, layout_fingerprint=layout)


@given(st.binary(max_size=300))
def test_what_was_sealed_opens(payload: bytes) -> None:
    value = envelope().seal(KEY, payload)
    assert len(value) == len(payload) + OVERHEAD_BYTES
    opened = envelope().open(KEY, value)
    assert isinstance(opened, Opened)
    assert bytes(opened.payload) == payload


@given(st.binary(min_size=1, max_size=64), st.integers(0), st.integers(1, 255))
def test_any_changed_byte_is_found(payload: bytes, where: int, change: int) -> None:
    value = bytearray(envelope().seal(KEY, payload))
    value[where % len(value)] ^= change
    assert isinstance(envelope().open(KEY, bytes(value)), Refusal)


@given(st.binary(max_size=64), st.integers(1, 200))
def test_a_cut_or_longer_value_is_refused(payload: bytes, number: int) -> None:
    value = envelope().seal(KEY, payload)
    assert envelope().open(KEY, value[: max(len(value) - number, 0)]) is Refusal.MALFORMED
    assert envelope().open(KEY, value + bytes(number)) is Refusal.MALFORMED


@given(st.binary(max_size=400))
def test_noise_is_refused(noise: bytes) -> None:
    assert isinstance(envelope().open(KEY, noise), Refusal)


def test_causes_have_names() -> None:
    value = envelope().seal(KEY, b"kv")
    assert envelope().open(OTHER_KEY, value) is Refusal.OTHER_KEY
    assert envelope(layout=OTHER_LAYOUT).open(KEY, value) is Refusal.OTHER_LAYOUT
    assert envelope(secret=b"t" * 32).open(KEY, value) is Refusal.FORGED
    assert envelope().open(KEY, value[:4] + b"\x09" + value[5:]) is Refusal.OTHER_VERSION


def test_a_genuine_head_on_other_bytes_is_forged() -> None:
    one, other = envelope().seal(KEY, b"aaaa"), envelope().seal(KEY, b"bbbb")
    head = len(one) - 4 - 32
    assert envelope().open(KEY, one[:head] + other[head:]) is not Refusal.MALFORMED
    assert envelope().open(KEY, one[:head] + b"bbbb" + one[-32:]) is Refusal.FORGED


@pytest.mark.parametrize("layout", ["", "abc", "zz" * 32, "ab" * 31])
def test_a_layout_that_is_no_fingerprint_is_refused(layout: str) -> None:
    with pytest.raises(InvalidArgument, match="layout_fingerprint"):
        envelope(layout=layout)
