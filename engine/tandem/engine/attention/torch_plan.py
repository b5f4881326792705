"""How the torch backend attends to one batch: worked out once per forward pass, used by every layer. Indices only.

Decode rows (one query token each) are gathered into padded groups of similar length; each prefill chunk stands alone
and is cut into tiles of query rows, so that a chunk does not pay for keys that none of a tile's rows may see.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tandem.engine.batch import ForwardBatch

TILE_ROWS = 256
MAX_GROUP_BLOCKS = 1024  # gathered at a time; bounds the scratch memory and keeps it near the caches
_MAX_PADDING = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeGroup:
    """B decode rows whose contexts are gathered as one padded tensor of ``num_blocks`` blocks each."""

    rows: torch.Tensor | None  # [B] rows of the batch; None = all rows in order
    blocks: torch.Tensor  # [B * num_blocks] block ids, row-major
    size: int
    num_blocks: int
    num_tokens: int  # gathered tokens that count: the rest of the last block is cut off
    mask: torch.Tensor | None  # [B, 1, 1, num_tokens] float: 0 or -inf; None = every gathered token counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Query rows ``first_row : last_row`` of a chunk and the keys ``first_key : last_key`` they may see."""

    first_row: int
    last_row: int
    first_key: int
    last_key: int
    mask: torch.Tensor  # [rows, keys] float: 0 or -inf


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillChunk:
    """One sequence's chunk: rows ``start : start + length`` of the batch."""

    start: int
    length: int
    blocks: torch.Tensor | None  # gathered context; None = no prefix, the chunk's own K and V are the context
    num_tokens: int  # of the gathered context
    tiles: tuple[Tile, ...]  # empty = plain causal attention of the chunk to itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole batch, for layers of one window."""

    groups: tuple[DecodeGroup, ...]
    chunks: tuple[PrefillChunk, ...]

    @property
    def only_group(self) -> DecodeGroup | None:
        """The group that covers the whole batch in order, if there is one."""
        if self.chunks or len(self.groups) != 1 or self.groups[0].rows is not None:
            return None
        return self.groups[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Need:
    """Blocks one decode row must read: ``table[first_block:]``."""

    row: int
    first_block: int
    blocks: tuple[int, ...]
    context_len: int


def make_plan(batch: ForwardBatch, window_tokens: int | None, block_size: int, *, like: torch.Tensor) -> Plan:
    """Plan attention for layers of this window, with the type and device of ``like``."""
    needs: list[_Need] = []
    chunks: list[PrefillChunk] = []
    row = 0
    for length, context_len, table in zip(
        batch.query_lens_list, batch.context_lens_list, batch.block_tables_list, strict=True
    ):
        if length == 1:
            first = 0 if window_tokens is None else max(0, context_len - window_tokens) // block_size
            blocks = table[first : -(-context_len // block_size)]
            needs.append(_Need(row=row, first_block=first, blocks=blocks, context_len=context_len))
        else:
            chunks.append(
                _chunk(
                    start=row,
                    length=length,
                    context_len=context_len,
                    table=table,
                    window_tokens=window_tokens,
                    block_size=block_size,
                    like=like,
                )
            )
        row += length
    groups = tuple(_group(members, row, window_tokens, block_size, like) for members in _similar(needs))
    return Plan(groups=groups, chunks=tuple(chunks))


def _similar(needs: Sequence[_Need]) -> Iterator[list[_Need]]:
    """Cut the rows into groups whose padding stays small, longest first; rows of a group keep the batch's order."""
    group: list[_Need] = []
    held = 0
    for need in sorted(needs, key=lambda each: -len(each.blocks)):
        longest = len(group[0].blocks) if group else len(need.blocks)
        held += len(need.blocks)
        padded = longest * (len(group) + 1)
        if group and (padded > _MAX_PADDING * held + 8 or padded > MAX_GROUP_BLOCKS):
            yield sorted(group, key=lambda each: each.row)
            group, held = [], len(need.blocks)
        group.append(need)
    if group:
        yield sorted(group, key=lambda each: each.row)


def _group(
    members: list[_Need], num_rows: int, window_tokens: int | None, block_size: int, like: torch.Tensor
) -> DecodeGroup:
    num_blocks = max(len(need.blocks) for need in members)
    starts = [need.first_block * block_size for need in members]
    lasts = torch.tensor([need.context_len - start for need, start in zip(members, starts, strict=True)])
    num_tokens = int(lasts.max())
    tokens = torch.arange(num_tokens)
    hidden = tokens[None] >= lasts[:, None]
    if window_tokens is not None:
        hidden |= tokens[None] < (lasts - window_tokens)[:, None]
    mask = None
    if bool(hidden.any()):
        mask = _additive(hidden, like)[:, None, None]
    # Padding repeats a row's own last block: a NaN in another sequence's KV must not pass through a masked score.
    flat = [block for need in members for block in (*need.blocks, *need.blocks[-1:] * (num_blocks - len(need.blocks)))]
    return DecodeGroup(
        rows=None if len(members) == num_rows else torch.tensor([need.row for need in members], device=like.device),
        blocks=torch.tensor(flat, device=like.device),
        size=len(members),
        num_blocks=num_blocks,
        num_tokens=num_tokens,
        mask=mask,
    )


def _chunk(
    *,
    start: int,
    length: int,
    context_len: int,
    table: tuple[int, ...],
    window_tokens: int | None,
    block_size: int,
    like: torch.Tensor,
) -> PrefillChunk:
    prefix = context_len - length
    window = window_tokens if window_tokens is not None and window_tokens < context_len else None
    if prefix == 0 and window is None:
        return PrefillChunk(start=start, length=length, blocks=None, num_tokens=length, tiles=())
    first_block = 0 if window is None else max(0, prefix - window + 1) // block_size
    base = first_block * block_size if prefix else 0  # the context position of gathered token 0
    tiles = []
    for first_row in range(0, length, TILE_ROWS):
        last_row = min(length, first_row + TILE_ROWS)
        first_key = 0 if window is None else max(base, prefix + first_row - window + 1)
        last_key = prefix + last_row
        positions = torch.arange(prefix + first_row, prefix + last_row)[:, None]
        keys = torch.arange(first_key, last_key)[None]
        hidden = keys > positions
        if window is not None:
            hidden |= keys <= positions - window
        tiles.append(
            Tile(
                first_row=first_row,
                last_row=last_row,
                first_key=first_key - base,
                last_key=last_key - base,
                mask=_additive(hidden, like),
            )
        )
    needed = table[first_block : -(-context_len // block_size)]
    blocks = torch.tensor(needed, device=like.device) if prefix else None
    return PrefillChunk(start=start, length=length, blocks=blocks, num_tokens=context_len - base, tiles=tuple(tiles))


def _additive(hidden: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Turn "may not be seen" into what is added to the scores."""
    mask = torch.zeros(hidden.shape, dtype=like.dtype).masked_fill_(hidden, float("-inf"))
    return mask.to(like.device)
