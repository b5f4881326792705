"""Layout fingerprints tell every difference; grants survive a round trip and nothing else does."""

import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.errors import FailedPrecondition, InvalidArgument
from tandem.core.ids import RequestId
from tandem.kvtransfer import KvEndpoint, KvGrant, KvLayout, LayoutMismatch, ProtocolViolation
from tandem.kvtransfer.identity import transfer_tag
from tandem.kvtransfer.layout import require_same_layout
from tests.fakes.kv_pair import SMALL_LAYOUT

U32 = st.integers(0, 2**32 - 1)
ENDPOINTS = st.builds(
    KvEndpoint,
    transport=st.sampled_from(["shm", "tcp"]),
    address=st.text(min_size=1, max_size=60),
    host_id=st.text(max_size=60),
)
GRANTS = st.builds(
    KvGrant,
    request_id=st.text("0123456789abcdef", min_size=32, max_size=32),
    attempt=U32,
    layout_fingerprint=st.text("0123456789abcdef", min_size=64, max_size=64),
    dst_worker_id=st.text(min_size=1, max_size=40),
    dst_epoch=st.integers(0, 2**63 - 1),
    blocks=st.lists(st.builds(BlockRef, U32, U32), min_size=1, max_size=20).map(tuple),
    chunk_bytes=st.integers(1, 1 << 20),
    endpoints=st.lists(ENDPOINTS, min_size=1, max_size=8).map(tuple),
    secret=st.binary(min_size=16, max_size=16),
    deadline_left_s=st.floats(0, 3600),
)


def test_block_bytes_of_a_real_model() -> None:
    layout = dataclasses.replace(SMALL_LAYOUT, num_layers=30, num_kv_heads=3, head_dim=64)
    assert layout.block_bytes == 737_280


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(KvLayout)])
def test_every_field_changes_the_fingerprint(field: str) -> None:
    old = getattr(SMALL_LAYOUT, field)
    new = {"dtype": "float16", "shard_map": ("0/2",)}.get(field, old + 1 if isinstance(old, int) else f"{old}x")
    changed = dataclasses.replace(SMALL_LAYOUT, **{field: new})  # type: ignore[arg-type]
    assert changed.fingerprint != SMALL_LAYOUT.fingerprint
    with pytest.raises(LayoutMismatch, match="same model revision") as caught:
        require_same_layout(own=SMALL_LAYOUT.fingerprint, other=changed.fingerprint)
    assert isinstance(caught.value, FailedPrecondition)
    assert not caught.value.retryable


def test_fields_do_not_run_together() -> None:
    one = dataclasses.replace(SMALL_LAYOUT, model_digest="ab", tokenizer_digest="c")
    two = dataclasses.replace(SMALL_LAYOUT, model_digest="a", tokenizer_digest="bc")
    assert one.fingerprint != two.fingerprint


def test_fingerprint_is_pinned() -> None:
    """Two releases must agree, or say so by a new protocol version."""
    assert SMALL_LAYOUT.fingerprint == "c29b3357a6d54e306ebf955f390c8b390cfc6f91b902079f8813b10ba6fd5bcb"


@pytest.mark.parametrize(("field", "value"), [("num_layers", 0), ("block_size", -1), ("dtype", "float128")])
def test_bad_layouts_are_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=field):
        dataclasses.replace(SMALL_LAYOUT, **{field: value})  # type: ignore[arg-type]


@given(GRANTS)
def test_grant_round_trip(grant: KvGrant) -> None:
    assert KvGrant.from_bytes(grant.to_bytes()) == grant


@given(GRANTS)
def test_secret_is_never_printed(grant: KvGrant) -> None:
    assert "secret" not in repr(grant)


@given(st.binary(max_size=300))
def test_noise_is_no_grant(data: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="grant"):
        KvGrant.from_bytes(data)


@given(GRANTS, st.data())
def test_cut_or_extended_grants_are_refused(grant: KvGrant, data: st.DataObject) -> None:
    encoded = grant.to_bytes()
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(ProtocolViolation):
        KvGrant.from_bytes(encoded[:cut])
    with pytest.raises(ProtocolViolation):
        KvGrant.from_bytes(encoded + b"\x00")


BAD_FIELDS: list[tuple[str, object]] = [
    ("blocks", []),
    ("blocks", [[-1, 1]]),
    ("blocks", [[2**32, 1]]),
    ("blocks", [[1]]),
    ("chunk_bytes", 0),
    ("chunk_bytes", (1 << 20) + 1),
    ("secret", b"short"),
    ("secret", "0123456789abcdef"),
    ("epoch", -1),
    ("attempt", "1"),
    ("layout", "x" * 64),
    ("endpoints", []),
    ("endpoints", [{"transport": "rdma", "address": "a", "host_id": ""}]),
    ("deadline_left_s", -1.0),
    ("deadline_left_s", float("nan")),
    ("request_id", ""),
    ("unknown", 1),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
def test_fields_out_of_bounds_are_refused(field: str, value: object) -> None:
    good = KvGrant(
        request_id="a" * 32,
        attempt=0,
        layout_fingerprint="0" * 64,
        dst_worker_id="decode-0",
        dst_epoch=5,
        blocks=(BlockRef(1, 1),),
        chunk_bytes=1024,
        endpoints=(KvEndpoint(transport="tcp", address="127.0.0.1:1", host_id=""),),
        secret=bytes(16),
        deadline_left_s=1.0,
    )
    fields = msgspec.msgpack.decode(good.to_bytes())
    fields[field] = value
    with pytest.raises(ProtocolViolation):
        KvGrant.from_bytes(msgspec.msgpack.encode(fields))


def test_tag_depends_on_everything() -> None:
    key = AttemptKey(RequestId("a" * 32), 0)
    tags = {
        transfer_tag(b"s" * 16, key, dst_epoch=1),
        transfer_tag(b"t" * 16, key, dst_epoch=1),
        transfer_tag(b"s" * 16, key, dst_epoch=2),
        transfer_tag(b"s" * 16, AttemptKey(RequestId("a" * 32), 1), dst_epoch=1),
        transfer_tag(b"s" * 16, AttemptKey(RequestId("b" * 32), 0), dst_epoch=1),
    }
    assert len(tags) == 5
    assert all(b"s" * 4 not in tag for tag in tags)
