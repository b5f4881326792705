"""The one way to Redis for the cache: every call is bounded in time, counted, and independent of who asked for it.

- A call runs as a task of its own. When its request is cancelled the task goes on to the end of its reply, so that no
  reply is ever left on a connection for the next caller (CVE-2023-28858).
- Reads and writes have a breaker each: a replica that refuses writes still answers reads.
- An open breaker costs nobody anything, not even who comes when it is time to try again: that call is made, and its
  caller does not wait for it. (A reservation that is made so ends by itself.)
- ``READONLY`` drops every connection, so that the next call resolves the name anew.
- Nothing is tried again: a cache that does not answer is a miss.
- A call that carries values says how large they are, and is waited for in proportion, over connections of its own: a
  large block is not a slow server, and no look-up waits behind one.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    MaxConnectionsError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)

from tandem.core.clock import Clock
from tandem.prefix_cache.remote.breaker import Breaker, BreakerPolicy, BreakerState

_log = structlog.get_logger(__name__)
Answer = TypeVar("Answer")


class CallKind(StrEnum):
    """What a call does."""

    READ = "read"
    WRITE = "write"


class Miss(StrEnum):
    """Why a call brought no answer; also the names of the counters."""

    OPEN = "breaker_open"
    BUSY = "too_many_calls"
    LATE = "late"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    READ_ONLY = "read_only"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePolicy:
    """Bounds of one gate."""

    timeout_s: float = 0.020  # of a call without values
    slowest_bytes_per_s: float = float(64 << 20)  # at this pace values are waited for, on top of ``timeout_s``
    max_timeout_s: float = 1.0  # of a call with values
    max_in_flight: int = 64
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)

    def bound_s(self, num_bytes: int) -> float:
        """Return how long a call that carries ``num_bytes`` of values is waited for."""
        in_proportion_s = self.timeout_s + num_bytes / self.slowest_bytes_per_s
        return max(self.timeout_s, min(in_proportion_s, self.max_timeout_s))


class RedisGate:
    """Calls one Redis on behalf of many requests. asyncio, one loop."""

    def __init__(self, url: str, *, policy: GatePolicy, clock: Clock) -> None:
        self._policy = policy
        self._client = self._connect(url, policy.timeout_s)
        self._bulk_client = self._connect(url, max(policy.timeout_s, policy.max_timeout_s))
        self._clock = clock
        self._breakers = {kind: Breaker(policy.breaker) for kind in CallKind}
        self._running: set[asyncio.Task[object]] = set()
        self.counts: Counter[Miss] = Counter()
        self.num_answered = 0

    def state(self, kind: CallKind) -> BreakerState:
        """What the next call of this kind meets."""
        return self._breakers[kind].state(self._clock.now_s())

    async def call(
        self,
        kind: CallKind,
        operation: Callable[[redis.asyncio.Redis], Awaitable[Answer]],
        *,
        num_bytes: int = 0,
    ) -> Answer | Miss:
        """Run ``operation`` on a client; what is waited for it grows with the ``num_bytes`` of values that it carries.

        Never raises but CancelledError.
        """
        breaker, now_s = self._breakers[kind], self._clock.now_s()
        verdict = _Verdict(breaker, self._clock)
        if len(self._running) >= self._policy.max_in_flight:
            return self._missed(Miss.BUSY)
        is_closed = breaker.state(now_s) is BreakerState.CLOSED
        if not breaker.may_call(now_s):
            return self._missed(Miss.OPEN)
        task = asyncio.ensure_future(self._run(kind, operation, num_bytes, verdict))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        if not is_closed:
            return self._missed(Miss.OPEN)  # it only tries whether the server is back
        try:
            async with asyncio.timeout(self._policy.bound_s(num_bytes)):
                return await asyncio.shield(task)  # neither a cancelled caller nor the time-out cancels the task
        except TimeoutError:
            if num_bytes:
                verdict.failed()  # its connection is given up later than its caller gives up
            return self._missed(Miss.LATE)

    async def close(self, timeout_s: float = 1.0) -> None:
        """Let running calls end, then close every connection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*self._running, return_exceptions=True)  # the time-out cancels what is left
        await self._client.aclose()
        await self._bulk_client.aclose()

    def _connect(self, url: str, socket_timeout_s: float) -> redis.asyncio.Redis:
        return redis.asyncio.from_url(
            url,
            socket_timeout=socket_timeout_s,
            socket_connect_timeout=self._policy.timeout_s,
            retry=Retry(NoBackoff(), 0),
            max_connections=self._policy.max_in_flight,
        )

    async def _run(
        self,
        kind: CallKind,
        operation: Callable[[redis.asyncio.Redis], Awaitable[Answer]],
        num_bytes: int,
        verdict: "_Verdict",
    ) -> Answer | Miss:
        client = self._bulk_client if num_bytes else self._client
        began_s = self._clock.now_s()
        try:
            answer = await operation(client)
        except ReadOnlyError:
            verdict.failed()
            for each in (self._client, self._bulk_client):
                await each.connection_pool.disconnect(inuse_connections=False)
            return self._missed(Miss.READ_ONLY)
        except OutOfMemoryError:
            verdict.failed()
            return self._missed(Miss.FULL)
        except (AuthenticationError, NoPermissionError) as error:
            self._say_refused(kind, error)
            verdict.failed()
            return self._missed(Miss.REFUSED)
        except MaxConnectionsError:
            verdict.failed()
            return self._missed(Miss.BUSY)
        except (RedisError, OSError):
            verdict.failed()
            return self._missed(Miss.UNREACHABLE)
        except BaseException:
            verdict.failed()  # a defect, or the end: a breaker that waits for it would never close
            raise
        if self._clock.now_s() - began_s > self._policy.bound_s(num_bytes):
            verdict.failed()  # an answer that nobody waited for
            return answer
        verdict.succeeded()
        self.num_answered += 1
        return answer

    def _missed(self, miss: Miss) -> Miss:
        self.counts[miss] += 1
        return miss

    def _say_refused(self, kind: CallKind, error: RedisError) -> None:
        if not self.counts[Miss.REFUSED]:
            _log.error(
                "redis_refused_the_cache",
                kind=kind.value,
                problem=type(error).__name__,
                remedy="check the user and password in the Redis URL, and the user's rights",
            )


class _Verdict:
    """What the breaker hears of one call: once, whoever finds out first, its caller or the call itself."""

    def __init__(self, breaker: Breaker, clock: Clock) -> None:
        self._breaker = breaker
        self._clock = clock
        self._is_given = False

    def failed(self) -> None:
        """The call failed, or took too long."""
        if not self._is_given:
            self._is_given = True
            self._breaker.failed(self._clock.now_s())

    def succeeded(self) -> None:
        """The call came back in time."""
        if not self._is_given:
            self._is_given = True
            self._breaker.succeeded()
