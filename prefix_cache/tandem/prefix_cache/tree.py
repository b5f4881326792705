"""The shape of a worker's prefix cache: which blocks are cached, what follows what, who uses them. No bytes, no I/O.

A block may be given up while nobody uses it and no cached block follows it, so every cached block can be reached from
the start of its prompt. The eviction policy orders those candidates; tenants' weights choose whose go first.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tandem.core.errors import InternalError
from tandem.core.ids import Tenant
from tandem.prefix_cache.eviction.policy import BlockValue, EvictionPolicy
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.shares import Weights

PolicyFactory = Callable[[], EvictionPolicy]


@dataclass(slots=True)
class _Node:
    tenant: Tenant
    parent: BlockKey | None
    value: BlockValue
    num_users: int = 0
    num_children: int = 0


@dataclass(slots=True)
class _TenantShare:
    policy: EvictionPolicy
    num_blocks: int = 0
    keys: set[BlockKey] = field(default_factory=set)


class CacheTree:
    """Cached blocks of all tenants of one worker.

    When room is wanted, the tenant with most blocks for its weight gives up its own worst block. So a flood of one
    tenant evicts that tenant's blocks, not the others': each keeps up to its weight's share of what is cached.
    """

    def __init__(self, make_policy: PolicyFactory, *, weights: Weights | None = None) -> None:
        """``weights``: nothing = all tenants weigh the same."""
        self._make_policy = make_policy
        self._weights = weights or Weights()
        self._nodes: dict[BlockKey, _Node] = {}
        self._shares: dict[Tenant, _TenantShare] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._nodes

    def num_blocks_of(self, tenant: Tenant) -> int:
        """Cached blocks that ``tenant`` brought in."""
        share = self._shares.get(tenant)
        return 0 if share is None else share.num_blocks

    def keys_of(self, tenant: Tenant) -> tuple[BlockKey, ...]:
        """Cached blocks that ``tenant`` brought in, in no order."""
        share = self._shares.get(tenant)
        return () if share is None else tuple(share.keys)

    def tenants(self) -> tuple[Tenant, ...]:
        """Tenants with cached blocks."""
        return tuple(self._shares)

    def tenant_of(self, key: BlockKey) -> Tenant:
        """Return who brought in a cached block."""
        return self._node(key).tenant

    def may_drop(self, key: BlockKey) -> bool:
        """Whether a cached block is neither used nor followed."""
        node = self._node(key)
        return not (node.num_users or node.num_children)

    def num_held(self, keys: Sequence[BlockKey]) -> int:
        """Length of the run of cached blocks from the start of a prompt."""
        for index, key in enumerate(keys):
            if key not in self._nodes:
                return index
        return len(keys)

    def use(self, keys: Sequence[BlockKey]) -> None:
        """A request reads these cached blocks from now on: they can't be given up. Raises InternalError if one isn't
        cached."""
        for key in keys:
            node = self._node(key)
            node.num_users += 1
            policy = self._shares[node.tenant].policy
            policy.touch(key)
            policy.remove(key)

    def unuse(self, keys: Sequence[BlockKey]) -> None:
        """A request reads these no more; last block first, so that a prompt is given up from its end."""
        for key in reversed(keys):
            node = self._node(key)
            if node.num_users < 1:
                raise InternalError(f"cached block {key.hex()[:12]} is let go more often than it was taken")
            node.num_users -= 1
            if not node.num_users:
                self._shares[node.tenant].policy.release(key)
            self._offer(key, node)

    def add(self, tenant: Tenant, key: BlockKey, parent: BlockKey | None, value: BlockValue) -> None:
        """Cache a block that follows ``parent`` (None = the first of a prompt); it is in use until ``unuse``.

        Raises InternalError when it is cached already or its parent is not: a block that can't be reached is lost.
        """
        if key in self._nodes:
            raise InternalError(f"block {key.hex()[:12]} is cached already")
        if parent is not None:
            above = self._node(parent)
            above.num_children += 1
            self._shares[above.tenant].policy.remove(parent)
        share = self._shares.get(tenant)
        if share is None:
            share = self._shares[tenant] = _TenantShare(self._make_policy())
        share.num_blocks += 1
        share.keys.add(key)
        share.policy.add(key, value)
        self._nodes[key] = _Node(tenant, parent, value, num_users=1)

    def victim(self) -> BlockKey | None:
        """Return the block to give up next, or None when every block is in use."""
        loads = [
            (-self._weights.load(who, share.num_blocks), place, share)
            for place, (who, share) in enumerate(self._shares.items())
        ]
        heapq.heapify(loads)  # the first nearly always has one to give
        while loads:
            key = heapq.heappop(loads)[2].policy.victim()
            if key is not None:
                return key
        return None

    def drop(self, key: BlockKey) -> BlockKey | None:
        """Take a block out; return the one that it followed. Raises InternalError while it is used or followed."""
        node = self._node(key)
        if node.num_users or node.num_children:
            raise InternalError(f"cached block {key.hex()[:12]} is still used or followed")
        del self._nodes[key]
        share = self._shares[node.tenant]
        share.policy.forget(key)
        share.num_blocks -= 1
        share.keys.discard(key)
        if not share.num_blocks:
            del self._shares[node.tenant]
        if node.parent is not None:
            above = self._node(node.parent)
            above.num_children -= 1
            self._offer(node.parent, above)
        return node.parent

    def _offer(self, key: BlockKey, node: _Node) -> None:
        if not node.num_users and not node.num_children:
            self._shares[node.tenant].policy.insert(key, node.value)

    def _node(self, key: BlockKey) -> _Node:
        node = self._nodes.get(key)
        if node is None:
            raise InternalError(f"block {key.hex()[:12]} is not cached")
        return node
