"""A small KV memory with a prefix cache, and attempts that are played by hand."""

from collections.abc import Sequence

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.ids import RequestId, Tenant
from tandem.engine.kv.block_cache import BlockCache, CacheSetup
from tandem.engine.kv.block_table import BlockState
from tandem.engine.kv.chain import Chain
from tandem.engine.kv.memory import KvMemory
from tandem.prefix_cache.events import KvEvent
from tests.fakes.engine_driver import SettableClock, make_cache
from tests.fakes.fake_runner import fake_pool

ALICE, BOB = Tenant("alice"), Tenant("bob")
PROMPT = tuple(range(100, 116))  # four blocks of 4


class Bench:
    """A memory of 12 blocks with a cache, and attempts played by hand."""

    def __init__(self, num_blocks: int = 12, setup: CacheSetup | None = None) -> None:
        self.clock = SettableClock()
        self.memory = KvMemory(fake_pool(num_blocks), cache=setup or make_cache(), clock=self.clock)
        assert self.memory.cache is not None
        self.cache: BlockCache = self.memory.cache
        self._count = 0

    def key(self) -> AttemptKey:
        self._count += 1
        return AttemptKey(RequestId(f"r{self._count}"), 0)

    def chain(self, tenant: Tenant, tokens: Sequence[int]) -> Chain:
        chain = Chain()
        self.cache.name(tenant, chain, lambda start, end: tokens[start:end], len(tokens) // 4)
        return chain

    def found(self, tenant: Tenant, tokens: Sequence[int] = PROMPT) -> int:
        return self.cache.find(self.chain(tenant, tokens), 99).num_blocks

    def compute(self, tenant: Tenant, tokens: Sequence[int] = PROMPT) -> tuple[AttemptKey, tuple[BlockRef, ...]]:
        """Take what is cached, compute the rest, cache it; the attempt still reads it all."""
        key, chain = self.key(), self.chain(tenant, tokens)
        lent = self.cache.lend(key, chain, self.cache.find(chain, 99).num_blocks)
        own = self.memory.allocate(key, len(tokens) // 4 - len(lent), BlockState.COMMITTED)
        refs = (*lent, *self.cache.enter(key, tenant, chain, own))
        self.check()
        return key, refs

    def run(self, tenant: Tenant, tokens: Sequence[int] = PROMPT) -> tuple[BlockRef, ...]:
        """Compute, then end."""
        key, refs = self.compute(tenant, tokens)
        self.memory.release_all(key)
        self.check()
        return refs

    def events(self) -> list[KvEvent]:
        return [numbered.event for numbered in self.cache.events.since(self.cache.events.epoch, 1).events]

    def check(self) -> None:
        self.memory.table.check_integrity()
        assert self.cache.stats().num_blocks == len(self.cache._tree) == len(self.cache._refs)
