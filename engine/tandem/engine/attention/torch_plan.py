"""How the torch backend attends to one batch: worked out once per forward pass, used by every layer. Indices only.

A row's result must have the same bits whether it is computed in a whole prompt, in a chunk after a cached prefix, or as
a decode row beside others. So the shape of its product is a function of its position alone. Positions are cut into
tiles; all rows of a tile see the same keys, up to the tile's end, and a mask hides what a row may not see::

    keys    0 ............................ t0 ....... t0+TILE    with a window: from the tile that holds its start
    rows                                   t0 ....... t0+TILE    prefill: a whole tile, padded with rows of zeros
    decode                                     p                 same keys; rows of one width share a product

Kernels give a row the same bits for any number of rows from ``MIN_ROWS`` on; fewer take another path in the library.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tandem.engine.batch import ForwardBatch

TILE_TOKENS = 64  # rounded up to whole blocks
MIN_ROWS = 4
MAX_GROUP_BLOCKS = 1024  # gathered at a time; bounds the scratch memory and keeps it near the caches


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeGroup:
    """B decode rows whose ranges of keys are equally long: ``num_blocks`` gathered blocks each."""

    rows: torch.Tensor | None  # [B] rows of the batch; None = all rows in order
    blocks: torch.Tensor  # [B * num_blocks] block ids, row-major
    size: int
    mask: torch.Tensor  # [B, 1, 1, keys] float: 0 or -inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Rows ``first_row : last_row`` of a chunk, which lie in a whole tile from row ``offset`` on, and their keys."""

    first_row: int
    last_row: int
    offset: int
    first_key: int  # of the chunk's gathered keys
    last_key: int
    mask: torch.Tensor  # [tile, keys] float: 0 or -inf


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillChunk:
    """One sequence's chunk: rows ``start : start + length`` of the batch."""

    start: int
    length: int
    blocks: torch.Tensor  # gathered keys and values
    tiles: tuple[Tile, ...]


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
class _KeyRange:
    """Keys that the rows of one tile see: both ends are ends of tiles."""

    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _DecodeRow:
    row: int
    position: int
    keys: _KeyRange
    table: tuple[int, ...]


class _Planner:
    """Knows the sizes; one per forward pass and window."""

    def __init__(self, window_tokens: int | None, block_size: int, like: torch.Tensor) -> None:
        self._window = window_tokens
        self._block_size = block_size
        self._tile = block_size * -(-TILE_TOKENS // block_size)
        self._like = like

    def decode_row(self, row: int, context_len: int, table: tuple[int, ...]) -> _DecodeRow:
        position = context_len - 1
        return _DecodeRow(row=row, position=position, keys=self._keys_of(self._tile_of(position)), table=table)

    def groups(self, members: Sequence[_DecodeRow], num_rows: int) -> Iterator[DecodeGroup]:
        """Rows of equal width together, in the batch's order; not more than the scratch memory takes."""
        by_width: dict[int, list[_DecodeRow]] = {}
        for member in members:
            by_width.setdefault(member.keys.last - member.keys.first, []).append(member)
        for width, equal in by_width.items():
            most = max(MAX_GROUP_BLOCKS * self._block_size // width, 1)
            for first in range(0, len(equal), most):
                yield self._group(equal[first : first + most], width, num_rows)

    def chunk(self, start: int, length: int, context_len: int, table: tuple[int, ...]) -> PrefillChunk:
        prefix = context_len - length
        first_tile, last_tile = self._tile_of(prefix), self._tile_of(context_len - 1)
        base, end = self._keys_of(first_tile).first, self._keys_of(last_tile).last
        tiles = []
        for tile in range(first_tile, last_tile + 1, self._tile):
            keys = self._keys_of(tile)
            first, last = max(tile, prefix), min(tile + self._tile, context_len)
            positions = torch.arange(tile, tile + self._tile)[:, None]
            tiles.append(
                Tile(
                    first_row=first - prefix,
                    last_row=last - prefix,
                    offset=first - tile,
                    first_key=keys.first - base,
                    last_key=keys.last - base,
                    mask=self._mask(positions, keys.first, keys.last - keys.first),
                )
            )
        blocks = torch.tensor(self._blocks(table, _KeyRange(first=base, last=end)), device=self._like.device)
        return PrefillChunk(start=start, length=length, blocks=blocks, tiles=tuple(tiles))

    def _group(self, members: Sequence[_DecodeRow], width: int, num_rows: int) -> DecodeGroup:
        # Counted from each row's own first key: widths are equal, beginnings need not be.
        places = torch.tensor([[member.position - member.keys.first] for member in members])
        flat = [block for member in members for block in self._blocks(member.table, member.keys)]
        rows = torch.tensor([member.row for member in members], device=self._like.device)
        return DecodeGroup(
            rows=None if len(members) == num_rows else rows,
            blocks=torch.tensor(flat, device=self._like.device),
            size=len(members),
            mask=self._mask(places, 0, width)[:, None, None],
        )

    def _tile_of(self, position: int) -> int:
        return position - position % self._tile

    def _keys_of(self, tile: int) -> _KeyRange:
        first = 0 if self._window is None else self._tile_of(max(0, tile - self._window + 1))
        return _KeyRange(first=first, last=tile + self._tile)

    def _blocks(self, table: tuple[int, ...], keys: _KeyRange) -> list[int]:
        """Blocks of a range of keys; behind the table's end its last block again: foreign KV may not be finite."""
        first, last = keys.first // self._block_size, keys.last // self._block_size
        held = table[first:last]
        return [*held, *table[-1:] * (last - first - len(held))]

    def _mask(self, places: torch.Tensor, first_key: int, num_keys: int) -> torch.Tensor:
        """What is added to the scores of rows at ``places`` [R, 1]: -inf where a key may not be seen."""
        keys = torch.arange(first_key, first_key + num_keys)[None]
        hidden = keys > places
        if self._window is not None:
            hidden |= keys <= places - self._window
        mask = torch.zeros(hidden.shape, dtype=self._like.dtype).masked_fill_(hidden, float("-inf"))
        return mask.to(self._like.device)


def make_plan(batch: ForwardBatch, window_tokens: int | None, block_size: int, *, like: torch.Tensor) -> Plan:
    """Plan attention for layers of this window, with the type and device of ``like``."""
    planner = _Planner(window_tokens, block_size, like)
    decoding: list[_DecodeRow] = []
    chunks: list[PrefillChunk] = []
    row = 0
    for length, context_len, table in zip(
        batch.query_lens_list, batch.context_lens_list, batch.block_tables_list, strict=True
    ):
        if length == 1:
            decoding.append(planner.decode_row(row, context_len, table))
        else:
            chunks.append(planner.chunk(row, length, context_len, table))
        row += length
    return Plan(groups=tuple(planner.groups(decoding, row)), chunks=tuple(chunks))
