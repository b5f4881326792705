"""Laying rows out as one batch: against an obvious loop, and the defects it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.engine.runner import RunRow, build_batch

BLOCK_SIZE = 4


@st.composite
def run_rows(draw: st.DrawFn) -> list[RunRow]:
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        length, start = draw(st.integers(1, 9)), draw(st.integers(0, 13))
        needed = -(-(start + length) // BLOCK_SIZE)
        count = needed + draw(st.integers(0, 3))
        rows.append(
            RunRow(
                token_ids=draw(st.lists(st.integers(0, 99), min_size=length, max_size=length)),
                start_position=start,
                block_ids=draw(st.lists(st.integers(0, 500), min_size=count, max_size=count)),
                num_logits=draw(st.integers(0, length)),
            )
        )
    return rows


@settings(max_examples=200, deadline=None)
@given(rows=run_rows())
def test_against_a_loop(rows: list[RunRow]) -> None:
    batch = build_batch(rows, block_size=BLOCK_SIZE)
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    logit_rows: list[int] = []
    starts = [0]
    for row in rows:
        for offset, token in enumerate(row.token_ids):
            position = row.start_position + offset
            if offset >= len(row.token_ids) - row.num_logits:
                logit_rows.append(len(tokens))
            tokens.append(token)
            positions.append(position)
            slots.append(row.block_ids[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE)
        starts.append(len(tokens))
    assert batch.token_ids.tolist() == tokens
    assert batch.positions.tolist() == positions
    assert batch.slots.tolist() == slots
    assert batch.logit_rows.tolist() == logit_rows
    assert batch.query_starts.tolist() == starts
    assert batch.num_tokens == len(tokens)
    assert batch.num_sequences == len(rows)
    ends = [row.start_position + len(row.token_ids) for row in rows]
    assert batch.context_lens.tolist() == list(batch.context_lens_list) == ends
    assert list(batch.query_lens_list) == [len(row.token_ids) for row in rows]
    for row, end, table, padded in zip(rows, ends, batch.block_tables_list, batch.block_tables.tolist(), strict=True):
        needed = -(-end // BLOCK_SIZE)
        assert list(table) == list(row.block_ids[:needed])
        assert padded == [*table, *[0] * (len(padded) - needed)]


def test_types() -> None:
    batch = build_batch([RunRow(token_ids=[1], start_position=0, block_ids=[0], num_logits=1)], block_size=4)
    assert {t.dtype for t in (batch.token_ids, batch.positions, batch.slots, batch.logit_rows)} == {torch.int64}
    assert {t.dtype for t in (batch.query_starts, batch.context_lens, batch.block_tables)} == {torch.int32}


def row(**changes: object) -> RunRow:
    fields: dict[str, object] = {"token_ids": [1, 2], "start_position": 0, "block_ids": [0], "num_logits": 1}
    return RunRow(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "at least one row"),
        ([row(token_ids=[])], "0 tokens"),
        ([row(start_position=-1)], "from position -1"),
        ([row(start_position=3)], "1 blocks of 4 can't hold 5"),
        ([row(num_logits=3)], "3 logits wanted of 2"),
        ([row(num_logits=-1)], "-1 logits"),
    ],
)
def test_defects_are_refused(rows: list[RunRow], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        build_batch(rows, block_size=4)
