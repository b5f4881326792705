"""Work that several routers have given to the same workers, kept in Redis so that they do not all pick the same one.

One script looks at the candidates' loads and reserves on the best in one step: two routers that ask at the same moment
get different answers. A reservation ends by itself. Without Redis each router goes by its own estimate alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import redis.asyncio

from tandem.core.ids import Epoch, RequestId, WorkerId
from tandem.prefix_cache.remote.gate import CallKind, Miss, RedisGate

# KEYS: one sorted set per candidate (member = request, score = when it ends, ms) and one hash (request → load).
# Time is Redis's own: the routers' clocks do not matter.
_SELECT = """
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local request, load, ttl_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local best, best_cost = 0, nil
for index = 1, #KEYS / 2 do
  local ends, loads = KEYS[2 * index - 1], KEYS[2 * index]
  for _, ended in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now_ms)) do
    redis.call('HDEL', loads, ended)
  end
  redis.call('ZREMRANGEBYSCORE', ends, '-inf', now_ms)
  local reserved = 0
  for _, value in ipairs(redis.call('HVALS', loads)) do reserved = reserved + tonumber(value) end
  local cost = tonumber(ARGV[3 + index]) + reserved
  if best_cost == nil or cost < best_cost then best, best_cost = index, cost end
end
redis.call('ZADD', KEYS[2 * best - 1], now_ms + ttl_ms, request)
redis.call('HSET', KEYS[2 * best], request, load)
redis.call('PEXPIRE', KEYS[2 * best - 1], 2 * ttl_ms)
redis.call('PEXPIRE', KEYS[2 * best], 2 * ttl_ms)
return best
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A worker that could take the request, and its cost in seconds by this router's own estimate."""

    worker_id: WorkerId
    epoch: Epoch
    cost_s: float


class SharedReservations:
    """Reservations of all routers of one namespace."""

    def __init__(self, gate: RedisGate, *, namespace: str, ttl_s: float = 10.0) -> None:
        self._gate = gate
        self._prefix = f"{namespace}:reserved:"
        self._ttl_ms = int(1e3 * ttl_s)

    async def select(self, request_id: RequestId, load_s: float, candidates: Sequence[Candidate]) -> Candidate | Miss:
        """Reserve ``load_s`` seconds on the candidate of lowest cost, with what others have reserved; return it.

        ``candidates`` must not be empty. A life of a worker that is over is never looked at: its name has its epoch.
        """
        keys = [name for candidate in candidates for name in self._names(candidate.worker_id, candidate.epoch)]
        costs = [repr(candidate.cost_s) for candidate in candidates]

        async def reserve(client: redis.asyncio.Redis) -> int:
            return int(await client.eval(_SELECT, len(keys), *keys, request_id, repr(load_s), self._ttl_ms, *costs))

        best = await self._gate.call(CallKind.WRITE, reserve)
        return best if isinstance(best, Miss) else candidates[best - 1]

    async def release(self, request_id: RequestId, worker_id: WorkerId, epoch: Epoch) -> bool | Miss:
        """The work is done or was given up; True if a reservation was there."""
        ends, loads = self._names(worker_id, epoch)

        async def remove(client: redis.asyncio.Redis) -> bool:
            async with client.pipeline(transaction=True) as pipe:
                pipe.zrem(ends, request_id)
                pipe.hdel(loads, request_id)
                return bool((await pipe.execute())[0])

        return await self._gate.call(CallKind.WRITE, remove)

    def _names(self, worker_id: WorkerId, epoch: Epoch) -> tuple[str, str]:
        # Braces: all keys of one namespace lie in one slot of a Redis cluster, as a script demands.
        name = f"{{{self._prefix}}}{worker_id}:{epoch}"
        return f"{name}:ends", f"{name}:loads"
