"""Work that several routers have given to the same workers, kept in Redis so that they do not all pick the same one.

One script looks at the candidates' loads and reserves on the best in one step: two routers that ask at the same moment
get different answers. With what this router predicts of candidate ``i``::

    cost_i = base_i + max(queued_i, reserved_i)

``reserved_i`` is the sum of all routers' reservations there, this router's own among them; ``queued_i`` is what the
router itself knows to be ahead (its own work in flight, the worker's report). Both see the same work from two sides:
adding them would count it twice.

A reservation ends by itself. Without Redis each router goes by its own estimate alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio

from tandem.core.ids import Epoch, WorkerId
from tandem.prefix_cache.remote.gate import CallKind, Miss, RedisGate

# KEYS: one sorted set per candidate (member = name of the reservation, score = when it ends, ms) and one hash
# (name → load). ARGV: name, time to live, and base, queued and load of each candidate.
# Time is Redis's own: the routers' clocks do not matter. A full Redis may have evicted one of the two keys: a load that
# has no end would count for as long as the worker is asked for, so it is struck out.
_SELECT = """
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local name, ttl_ms = ARGV[1], tonumber(ARGV[2])
local best, best_cost = 0, nil
for index = 1, #KEYS / 2 do
  local ends, loads = KEYS[2 * index - 1], KEYS[2 * index]
  redis.call('ZREMRANGEBYSCORE', ends, '-inf', now_ms)
  if redis.call('ZCARD', ends) ~= redis.call('HLEN', loads) then -- some ended, or Redis evicted their ends
    for _, held in ipairs(redis.call('HKEYS', loads)) do
      if not redis.call('ZSCORE', ends, held) then redis.call('HDEL', loads, held) end
    end
  end
  local reserved = 0
  for _, value in ipairs(redis.call('HVALS', loads)) do reserved = reserved + tonumber(value) end
  local cost = tonumber(ARGV[3 * index]) + math.max(tonumber(ARGV[3 * index + 1]), reserved)
  if best_cost == nil or cost < best_cost then best, best_cost = index, cost end
end
redis.call('ZADD', KEYS[2 * best - 1], now_ms + ttl_ms, name)
redis.call('HSET', KEYS[2 * best], name, ARGV[3 * best + 2])
for key = 2 * best - 1, 2 * best do
  if redis.call('PTTL', KEYS[key]) < 2 * ttl_ms then redis.call('PEXPIRE', KEYS[key], 2 * ttl_ms) end
end
return best
"""

_TTL_PER_LOAD: Final = 4.0  # work takes longer than predicted where a worker is in trouble


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A worker that could take the request; seconds by this router's own estimate."""

    worker_id: WorkerId
    epoch: Epoch
    base_s: float  # what the request costs there, without what is ahead of it
    load_s: float  # what it adds to the work there
    queued_s: float = 0.0  # what this router knows to be ahead of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """One that was made, or may have been."""

    name: str
    worker_id: WorkerId
    epoch: Epoch


class SharedReservations:
    """Reservations of all routers of one namespace."""

    def __init__(self, gate: RedisGate, *, namespace: str, ttl_s: float = 10.0) -> None:
        """A reservation that nobody releases ends after ``ttl_s``, or a multiple of its load if that is longer."""
        self._gate = gate
        self._prefix = f"{namespace}:reserved:"
        self._ttl_s = ttl_s

    async def select(self, name: str, candidates: Sequence[Candidate]) -> Candidate | Miss:
        """Reserve on the candidate of lowest cost, the first of equals; return it.

        ``candidates`` must not be empty, and no ``name`` may be used twice. A life of a worker that is over is never
        looked at: its keys have its epoch. Who is told of a miss has no reservation, or at most one that ends by
        itself: what comes too late is released, if the server says so at all.
        """
        keys = [key for candidate in candidates for key in self._keys(candidate.worker_id, candidate.epoch)]
        numbers = [repr(n) for one in candidates for n in (one.base_s, one.queued_s, one.load_s)]
        ttl_ms = int(1e3 * max(self._ttl_s, _TTL_PER_LOAD * max(one.load_s for one in candidates)))
        is_waited_for = True

        async def reserve(client: redis.asyncio.Redis) -> int:
            best = int(await client.eval(_SELECT, len(keys), *keys, name, ttl_ms, *numbers))
            if not is_waited_for:
                late = candidates[best - 1]
                await self._remove(client, [Reservation(name=name, worker_id=late.worker_id, epoch=late.epoch)])
            return best

        try:
            best = await self._gate.call(CallKind.WRITE, reserve)
        finally:
            is_waited_for = False
        return best if isinstance(best, Miss) else candidates[best - 1]

    async def release(self, reservations: Sequence[Reservation]) -> int | Miss:
        """The work is done or was given up; return how many of them were there."""

        async def remove(client: redis.asyncio.Redis) -> int:
            return await self._remove(client, reservations)

        return await self._gate.call(CallKind.WRITE, remove)

    async def _remove(self, client: redis.asyncio.Redis, reservations: Sequence[Reservation]) -> int:
        async with client.pipeline(transaction=True) as pipe:
            for one in reservations:
                ends, loads = self._keys(one.worker_id, one.epoch)
                pipe.zrem(ends, one.name)
                pipe.hdel(loads, one.name)
            replies: list[Any] = await pipe.execute()
        return sum(int(reply) for reply in replies[::2])

    def _keys(self, worker_id: WorkerId, epoch: Epoch) -> tuple[str, str]:
        # Braces: all keys of one namespace lie in one slot of a Redis cluster, as a script demands.
        key = f"{{{self._prefix}}}{worker_id}:{epoch}"
        return f"{key}:ends", f"{key}:loads"
