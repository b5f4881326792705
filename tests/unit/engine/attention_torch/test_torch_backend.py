"""The torch backend against the oracle: odd shapes, mixed batches, windows, soft-caps, dirty and shuffled blocks."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.engine.attention.reference import reference_attention, write_kv
from tandem.engine.attention.torch_backend import TorchAttentionBackend
from tandem.engine.attention.torch_plan import TILE_TOKENS
from tandem.engine.batch import ForwardBatch
from tandem.engine.kv.pool import KvPool
from tandem.engine.runner import RunRow, build_batch
from tandem.engine.spec import LayerSpec, ModelSpec

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}


def layer_spec(
    *, heads: int = 4, kv_heads: int = 2, dim: int = 16, window: int | None = None, softcap: float | None = None
) -> LayerSpec:
    return LayerSpec(
        index=1,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=dim,
        scale=dim**-0.5,
        window_tokens=window,
        softcap=softcap,
    )


def make_pool(layer: LayerSpec, *, num_blocks: int, block_size: int, dtype: torch.dtype = torch.float32) -> KvPool:
    spec = ModelSpec(
        architecture="test",
        digest="",
        dtype="float32",
        vocab_size=1,
        max_context_tokens=1 << 20,
        layers=tuple(dataclasses.replace(layer, index=index) for index in range(3)),
        num_kv_heads=layer.num_kv_heads,
        head_dim=layer.head_dim,
        rope_digest="",
    )
    pool = KvPool(spec, num_blocks=num_blocks, block_size=block_size, device="cpu", dtype=dtype)
    pool.data.copy_(torch.randn(pool.data.shape, generator=torch.Generator().manual_seed(7)))
    return pool


def make_batch(shapes: Sequence[tuple[int, int]], block_size: int, num_blocks: int) -> ForwardBatch:
    """Build a batch of (prefix tokens, query tokens) sequences over shuffled blocks."""
    free = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(5)).tolist()
    rows = []
    for prefix, length in shapes:
        count = -(-(prefix + length) // block_size)
        blocks, free = free[:count], free[count:]
        rows.append(RunRow(token_ids=[0] * length, start_position=prefix, block_ids=blocks, num_logits=0))
    return build_batch(rows, block_size=block_size)


def compare(
    layer: LayerSpec,
    shapes: Sequence[tuple[int, int]],
    *,
    block_size: int = 4,
    num_blocks: int = 64,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Run backend and oracle on equal pools; check result and pool; return the result."""
    batch = make_batch(shapes, block_size, num_blocks)
    generator = torch.Generator().manual_seed(11)
    query = torch.randn(batch.num_tokens, layer.num_heads, layer.head_dim, generator=generator).to(dtype)
    key = torch.randn(batch.num_tokens, layer.num_kv_heads, layer.head_dim, generator=generator).to(dtype)
    value = torch.randn(batch.num_tokens, layer.num_kv_heads, layer.head_dim, generator=generator).to(dtype)
    pool = make_pool(layer, num_blocks=num_blocks, block_size=block_size, dtype=dtype)
    expected_pool = pool.data.clone()
    write_kv(expected_pool[:, layer.index], key, value, batch, block_size)
    expected = reference_attention(layer, query, expected_pool[:, layer.index], batch, block_size)
    found = TorchAttentionBackend(pool).attend(layer, query, key, value, batch)
    assert torch.equal(pool.data, expected_pool), "K and V of this pass, and nothing else, are written"
    torch.testing.assert_close(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    return found


WINDOWS = [None, 1, 5, 64]
SOFTCAPS = [None, 2.0]


@pytest.mark.parametrize("softcap", SOFTCAPS)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(
    "shapes",
    [
        [(0, 1)],
        [(0, 13)],
        [(9, 1)],
        [(12, 8)],
        [(13, 7)],
        [(3, 1), (30, 1), (15, 1), (0, 1)],
        [(0, 9), (20, 1), (7, 5), (31, 1), (0, 1)],
    ],
    ids=str,
)
def test_against_the_oracle(shapes: list[tuple[int, int]], window: int | None, softcap: float | None) -> None:
    compare(layer_spec(window=window, softcap=softcap), shapes)


@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(1, 1, 8), (4, 4, 16), (6, 2, 24), (9, 3, 64), (8, 1, 32)])
@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_head_shapes_and_block_sizes(heads: int, kv_heads: int, dim: int, block_size: int) -> None:
    layer = layer_spec(heads=heads, kv_heads=kv_heads, dim=dim)
    compare(layer, [(0, 6), (17, 1), (5, 1), (11, 4)], block_size=block_size)


@pytest.mark.parametrize("window", [None, 3, 300])
def test_chunks_longer_than_a_tile(window: int | None) -> None:
    layer = layer_spec(heads=2, kv_heads=1, dim=8, window=window)
    compare(layer, [(0, 4 * TILE_TOKENS + 3), (21, 4 * TILE_TOKENS + 1)], block_size=16, num_blocks=64)


@pytest.mark.parametrize("window", [None, 5])
def test_bfloat16(window: int | None) -> None:
    compare(layer_spec(window=window), [(0, 9), (20, 1), (7, 5)], dtype=torch.bfloat16)


def test_many_decode_rows_of_very_different_lengths() -> None:
    """They fall into several padded groups; every row still gets its own answer."""
    lengths = [1, 2, 3, 90, 91, 5, 40, 41, 42, 7, 88, 1]
    compare(layer_spec(), [(length - 1, 1) for length in lengths], num_blocks=128)
    compare(layer_spec(window=10), [(length - 1, 1) for length in lengths], num_blocks=128)


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 12)), min_size=1, max_size=5),
    window=st.none() | st.integers(1, 40),
    block_size=st.sampled_from([1, 2, 4, 16]),
    softcap=st.none() | st.just(3.0),
)
def test_any_batch(shapes: list[tuple[int, int]], window: int | None, block_size: int, softcap: float | None) -> None:
    compare(layer_spec(window=window, softcap=softcap, dim=8), shapes, block_size=block_size, num_blocks=200)


@pytest.mark.parametrize("shapes", [[(30, 1)], [(20, 11)], [(0, 31)]], ids=str)
def test_window_and_softcap_matter(shapes: list[tuple[int, int]]) -> None:
    plain = compare(layer_spec(), shapes)
    assert not torch.allclose(plain, compare(layer_spec(window=5), shapes), atol=1e-2)
    assert not torch.allclose(plain, compare(layer_spec(softcap=0.5), shapes), atol=1e-2)


def test_not_a_number_in_foreign_blocks_stays_there() -> None:
    """One sequence's NaN must not reach another through padding, gathered together and masked or not."""
    layer = layer_spec()
    batch = make_batch([(9, 1), (2, 1), (5, 3)], 4, 16)
    pool = make_pool(layer, num_blocks=16, block_size=4)
    used = {block for table in batch.block_tables_list for block in table}
    for block in set(range(16)) - used:
        pool.data[block] = float("nan")
    query, key, value = torch.randn(5, 4, 16), torch.randn(5, 2, 16), torch.randn(5, 2, 16)
    found = TorchAttentionBackend(pool).attend(layer, query, key, value, batch)
    expected = reference_attention(layer, query, pool.layer(1), batch, 4)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_one_backend_serves_batch_after_batch() -> None:
    """The plan of one batch must not be used for the next one of equal shape."""
    layer = layer_spec()
    pool = make_pool(layer, num_blocks=16, block_size=4)
    backend = TorchAttentionBackend(pool)
    for blocks in ([1, 2, 3], [9, 8, 7], [1, 2, 3]):
        row = RunRow(token_ids=[0], start_position=9, block_ids=blocks, num_logits=0)
        batch = build_batch([row], block_size=4)
        query, key, value = torch.randn(1, 4, 16), torch.randn(1, 2, 16), torch.randn(1, 2, 16)
        found = backend.attend(layer, query, key, value, batch)
        torch.testing.assert_close(found, reference_attention(layer, query, pool.layer(1), batch, 4))


def test_layers_of_different_windows_in_one_batch() -> None:
    pool = make_pool(layer_spec(), num_blocks=16, block_size=4)
    backend = TorchAttentionBackend(pool)
    batch = make_batch([(9, 3), (12, 1)], 4, 16)
    query, key, value = torch.randn(4, 4, 16), torch.randn(4, 2, 16), torch.randn(4, 2, 16)
    for index, window in enumerate((None, 3, None)):
        layer = dataclasses.replace(layer_spec(window=window), index=index)
        found = backend.attend(layer, query, key, value, batch)
        expected = reference_attention(layer, query, pool.layer(index), batch, 4)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
