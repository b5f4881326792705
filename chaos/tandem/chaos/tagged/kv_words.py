"""The KV pool seen as 64-bit words: writing tags into slots, comparing whole contexts with what they must hold."""

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tandem.chaos.tagged.tags import FINITE, Words, lanes
from tandem.engine.kv.pool import KvPool


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongRow:
    """A context that does not hold what it must."""

    row: int
    position: int  # of the first wrong slot
    block_id: int
    num_wrong_slots: int
    found: int  # first wrong word
    expected: int
    is_nan: bool  # every wrong word is NaN in both halves


class TaggedKv:
    """Words ``[block, layer, K | V, token, word]`` of a CPU pool of float32."""

    def __init__(self, pool: KvPool) -> None:
        data = pool.data
        num_blocks, num_layers, sides, block_size = data.shape[:4]
        self._words = data.numpy().reshape(num_blocks, num_layers, sides, block_size, -1).view(np.uint64)
        self._lanes = lanes(num_layers, self._words.shape[-1])
        self._block_size = block_size

    def write(self, slots: npt.NDArray[np.int64], tags: Words) -> None:
        """Fill every byte of these slots [T], in every layer, with their tags [T]."""
        blocks, offsets = np.divmod(slots, self._block_size)
        # The two index arrays stand apart, so numpy puts their axis first: [T, layer, side, word].
        self._words[blocks, :, :, offsets, :] = (tags & FINITE)[:, None, None, None] ^ self._lanes[:, :, 0]

    def fill_first_layer(self, slots: npt.NDArray[np.int64], word: np.uint64) -> None:
        """Put ``word`` everywhere into the first layer of these slots."""
        blocks, offsets = np.divmod(slots, self._block_size)
        self._words[blocks, 0, :, offsets, :] = word

    def wrong_rows(self, tables: Items[Items[int]], expected: Items[Words]) -> list[WrongRow]:
        """Compare every slot of every row's context, through its block table, with the expected tags."""
        size = self._block_size
        block_ids = np.concatenate([np.asarray(table, dtype=np.int64) for table in tables])
        wanted = np.zeros(len(block_ids) * size, dtype=np.uint64)
        is_used = np.zeros(len(wanted), dtype=np.bool_)
        starts = []
        start = 0
        for table, tags in zip(tables, expected, strict=True):
            starts.append(start)
            wanted[start : start + len(tags)] = tags
            is_used[start : start + len(tags)] = True
            start += len(table) * size
        wanted &= FINITE
        differing = self._words[block_ids]
        differing ^= self._lanes
        differing ^= wanted.reshape(-1, 1, 1, size, 1)
        wrong = differing.any(axis=(1, 2, 4)).reshape(-1)
        wrong &= is_used
        if not wrong.any():
            return []
        found = self._words[block_ids]
        return [
            self._describe(row, table, wrong[first : first + len(table) * size], found[first // size :], tags)
            for row, (table, tags, first) in enumerate(zip(tables, expected, starts, strict=True))
            if wrong[first : first + len(table) * size].any()
        ]

    def _describe(
        self, row: int, table: Items[int], wrong: npt.NDArray[np.bool_], found: Words, tags: Words
    ) -> WrongRow:
        size = self._block_size
        positions = np.flatnonzero(wrong)
        must = (tags[positions] & FINITE)[:, None, None, None] ^ self._lanes[:, :, 0]
        is_there = found[positions // size, :, :, positions % size, :]
        differs = must != is_there
        words, right = is_there[differs], must[differs]
        first = int(positions[0])
        return WrongRow(
            row=row,
            position=first,
            block_id=int(table[first // size]),
            num_wrong_slots=len(positions),
            found=int(words[0]) if len(words) else 0,
            expected=int(right[0]) if len(right) else 0,
            is_nan=bool(len(words)) and bool(np.isnan(words.view(np.float32)).all()),
        )
