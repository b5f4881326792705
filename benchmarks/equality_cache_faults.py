"""Faults planted into the cache of this process, to see whether the equality runs notice them. Never in a cluster."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from unittest import mock

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.ids import Tenant
from tandem.engine.kv import block_cache
from tandem.engine.kv.chain import Chain
from tandem.prefix_cache.keys import BlockKey, PrefixKeyer, PrefixSpace, PublicPrefix
from tandem.prefix_cache.remote.envelope import BlockEnvelope


class Planted(StrEnum):
    """What is wrong."""

    TENANT = "names do not depend on the tenant"
    POSITION = "names do not depend on what stands before the block"
    LAST_TOKEN = "names do not depend on the last token of a block"
    BYTES = "a block is lent under its neighbour's name"
    TIER = "a slower tier gives back bytes that are not the block's, under a genuine seal"


class _ForAllTenants(PrefixKeyer):
    def __init__(self, secret: bytes, space: PrefixSpace, *, public: Sequence[PublicPrefix] = ()) -> None:
        everybody = PrefixSpace(
            tenant=Tenant("all"), layout_fingerprint=space.layout_fingerprint, block_size=space.block_size
        )
        super().__init__(secret, everybody, public=public)


class _ByBlockAlone(PrefixKeyer):
    def keys(self, token_ids: Sequence[int], *, extra: bytes = b"") -> tuple[BlockKey, ...]:
        step = self.space.block_size
        blocks = [token_ids[start : start + step] for start in range(0, len(token_ids) - step + 1, step)]
        return tuple(super(_ByBlockAlone, self).keys(block, extra=extra)[0] for block in blocks)

    def extend(self, last: BlockKey, token_ids: Sequence[int], *, extra: bytes = b"") -> tuple[BlockKey, ...]:
        return self.keys(token_ids, extra=extra)


class _WithoutLastTokens(PrefixKeyer):
    def keys(self, token_ids: Sequence[int], *, extra: bytes = b"") -> tuple[BlockKey, ...]:
        return super().keys(self._blurred(token_ids), extra=extra)

    def extend(self, last: BlockKey, token_ids: Sequence[int], *, extra: bytes = b"") -> tuple[BlockKey, ...]:
        return super().extend(last, self._blurred(token_ids), extra=extra)

    def _blurred(self, token_ids: Sequence[int]) -> list[int]:
        step = self.space.block_size
        return [0 if index % step == step - 1 else token for index, token in enumerate(token_ids)]


class _Mixing(block_cache.BlockCache):
    def lend(self, key: AttemptKey, chain: Chain, num_blocks: int) -> tuple[BlockRef, ...]:
        refs = super().lend(key, chain, num_blocks)
        return (*refs[1:], refs[0]) if refs else refs


class _Spoiling(BlockEnvelope):
    def seal(self, key: BlockKey, payload: bytes | bytearray | memoryview) -> bytes:
        spoilt = bytearray(memoryview(payload).cast("B"))
        for index in range(3, len(spoilt), 4):
            spoilt[index] ^= 0x80  # the sign of each float32
        return super().seal(key, spoilt)


_KEYERS: Mapping[Planted, type[PrefixKeyer]] = {
    Planted.TENANT: _ForAllTenants,
    Planted.POSITION: _ByBlockAlone,
    Planted.LAST_TOKEN: _WithoutLastTokens,
}


@contextlib.contextmanager
def planted(fault: Planted) -> Iterator[None]:
    """Workers that are built inside have the fault."""
    if fault is Planted.BYTES:
        with mock.patch("tandem.engine.kv.memory.BlockCache", _Mixing):
            yield
    elif fault is Planted.TIER:
        with mock.patch("tandem.prefix_cache.tiers.block_tiers.BlockEnvelope", _Spoiling):
            yield
    else:
        with mock.patch.object(block_cache, "PrefixKeyer", _KEYERS[fault]):
            yield
