"""Cached beginnings of sequences: what scheduler, progress and engine ask the prefix cache. A no-op without a cache."""

from collections.abc import Iterable
from collections.abc import Sequence as Items

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.engine.kv.block_cache import Found
from tandem.engine.kv.chain import Chain
from tandem.engine.kv.memory import KvMemory
from tandem.engine.sequence import Attempt, Sequence

_NOTHING = Found()


class PrefixReuse:
    """Lends cached blocks to sequences that start, and takes in the blocks that sequences fill."""

    def __init__(self, memory: KvMemory) -> None:
        self._memory = memory
        self._cache = memory.cache

    def found(self, sequence: Sequence) -> Found:
        """Return what is cached of a sequence without blocks. The last token is always computed."""
        if self._cache is None:
            return _NOTHING
        num_full = (sequence.num_tokens - 1) // self._memory.block_size
        self._cache.name(sequence.attempt.task.tenant, sequence.chain, sequence.tokens, num_full)
        return self._cache.find(sequence.chain, num_full)

    def start(self, sequence: Sequence) -> None:
        """Let a sequence without blocks begin with what is cached of it."""
        if self._cache is None:
            return
        num_blocks = self.found(sequence).num_blocks
        if num_blocks:
            sequence.adopt(self._cache.lend(sequence.key, sequence.chain, num_blocks))
            sequence.num_computed = num_blocks * self._memory.block_size
        attempt = sequence.attempt
        if attempt.num_cached_tokens is None:  # not again after a preemption: then it finds what it computed itself
            num_prompt = len(sequence.prompt)
            attempt.num_cached_tokens = min(sequence.num_computed, num_prompt)
            self._cache.asked(num_prompt, attempt.num_cached_tokens, attempt.promoted_tokens)

    def find_kv(self, sequence: Sequence, num_tokens: int) -> Found:
        """Return what is cached of the KV of a sequence's first ``num_tokens`` tokens."""
        if self._cache is None:
            return _NOTHING
        num_full = num_tokens // self._memory.block_size
        self._cache.name(sequence.attempt.task.tenant, sequence.chain, sequence.tokens, num_full)
        return self._cache.find(sequence.chain, num_full)

    def lend(self, key: AttemptKey, chain: Chain, num_blocks: int) -> tuple[BlockRef, ...]:
        """Let ``key`` read the first ``num_blocks`` blocks of a chain, found just now."""
        return self._cache.lend(key, chain, num_blocks) if self._cache is not None and num_blocks else ()

    def enter_checked(self, sequence: Sequence) -> None:
        """Take in the full blocks of a sequence, which were found to be finite."""
        self._enter(sequence, self._new_refs(sequence))

    def enter_filled(self, sequences: Iterable[Sequence]) -> None:
        """Check the blocks that these sequences filled, and take in what is finite.

        One look at all of them: a block that is not finite is rare, and then each sequence is looked at alone.
        """
        if self._cache is None:
            return
        filled = [(sequence, refs) for sequence in sequences if (refs := self._new_refs(sequence))]
        if not filled:
            return
        all_finite = self._memory.is_finite([ref for _, refs in filled for ref in refs])
        for sequence, refs in filled:
            if all_finite or self._memory.is_finite(refs):
                self._enter(sequence, refs)
            else:
                sequence.chain.is_closed = True

    def enter_received(self, attempt: Attempt, chain: Chain, refs: Items[BlockRef]) -> tuple[BlockRef, ...]:
        """Take in what was handed over and verified; return the blocks that the attempt reads from now on.

        ``refs`` are all blocks of the KV; those of the chain that are cached already were never handed over.
        """
        if self._cache is None or chain.is_closed:
            return tuple(refs)
        first, last = chain.num_cached, len(chain.keys)
        entered = self._cache.enter(attempt.key, attempt.task.tenant, chain, refs[first:last])
        return (*refs[:first], *entered, *refs[last:])

    def _new_refs(self, sequence: Sequence) -> list[BlockRef]:
        if self._cache is None or sequence.chain.is_closed:
            return []
        return sequence.blocks[sequence.chain.num_cached : sequence.num_computed // self._memory.block_size]

    def _enter(self, sequence: Sequence, refs: list[BlockRef]) -> None:
        if self._cache is None or not refs:
            return
        chain, tenant = sequence.chain, sequence.attempt.task.tenant
        first = chain.num_cached
        self._cache.name(tenant, chain, sequence.tokens, first + len(refs))
        sequence.replace(first, self._cache.enter(sequence.key, tenant, chain, refs))
