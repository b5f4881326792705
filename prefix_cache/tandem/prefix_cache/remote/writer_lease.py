"""Which of several routers does what one is enough for: a key in Redis with its owner's token and a short life.

It saves work and guards nothing: for a moment two may hold it (a clock of Redis that jumps, a fail-over), and what they
do must be right then as well.
"""

import secrets

import redis.asyncio

from tandem.prefix_cache.remote.gate import CallKind, Miss, RedisGate

_TOKEN_BYTES = 16

# Taken if free; lengthened if it is ours.
_HOLD = """
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class WriterLease:
    """One router's hold on ``name``."""

    def __init__(self, gate: RedisGate, *, name: str, life_s: float) -> None:
        self._gate = gate
        self._name = name
        self._life_ms = max(int(1e3 * life_s), 1)
        self._token = secrets.token_bytes(_TOKEN_BYTES)

    async def hold(self) -> bool | Miss:
        """Take the lease, or lengthen it; False when another router has it."""

        async def take(client: redis.asyncio.Redis) -> int:
            return int(await client.eval(_HOLD, 1, self._name, self._token, self._life_ms))

        held = await self._gate.call(CallKind.WRITE, take)
        return held if isinstance(held, Miss) else held == 1

    async def release(self) -> None:
        """Let another router take it at once."""

        async def drop(client: redis.asyncio.Redis) -> int:
            return int(await client.eval(_RELEASE, 1, self._name, self._token))

        await self._gate.call(CallKind.WRITE, drop)
