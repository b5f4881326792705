"""A flush holds also where Redis answers reads and takes no writes: nothing of it is read before it is done."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from tandem.core.ids import Tenant
from tandem.prefix_cache.remote.gate import CallKind, Miss, RedisGate
from tandem.prefix_cache.tiers.scopes import RemoteScopes
from tests.fakes.engine_driver import SettableClock

ANN = Tenant("ann")
WORD = b"w" * 16


class ReadOnlyServer:
    """A gate to a server that has everybody's words; writes are refused while ``is_read_only``."""

    def __init__(self) -> None:
        self.is_read_only = True
        self.num_removed = 0

    async def mget(self, names: list[str]) -> list[bytes]:
        return [WORD for _ in names]

    async def unlink(self, name: str) -> int:
        self.num_removed += 1
        return 1

    async def call(self, kind: CallKind, operation: Callable[[Any], Awaitable[object]]) -> object:
        if kind is CallKind.WRITE and self.is_read_only:
            return Miss.READ_ONLY
        return await operation(self)


@pytest.mark.parametrize("whose", [ANN, None])
async def test_nothing_is_read_of_a_tenant_whose_flush_redis_did_not_take(whose: Tenant | None) -> None:
    server, clock = ReadOnlyServer(), SettableClock()
    scopes = RemoteScopes(cast("RedisGate", server), namespace="t", secret=b"s" * 32, ttl_s=60.0, clock=clock)
    assert await scopes.read(ANN) == 2 * WORD
    scopes.forget(whose)
    assert scopes.is_quiet(ANN)
    clock.time_s += 3600.0
    assert not scopes.is_quiet(ANN)
    assert await scopes.read(ANN) is Miss.REFUSED, "however long it is ago"
    assert await scopes.write(ANN) is Miss.REFUSED
    assert scopes.is_flush_pending
    server.is_read_only = False
    assert await scopes.read(ANN) == 2 * WORD, "it is done before anything is read"
    assert (server.num_removed, scopes.is_flush_pending) == (1, False)
    assert scopes.is_quiet(ANN), "other workers may have to hear of it yet"
