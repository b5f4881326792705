"""Load on two clusters at once, one with Redis and one without any: what a Redis in trouble adds to callers' waiting.

Both get the same requests at the same moments, open loop. Half of the prompts begin like one of a few documents that
together do not fit into the workers' memory, so that blocks leave it and are asked for again; the others are new.
"""

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from tandem.chaos.cluster import ChaosCluster, Ending, RequestRecord, RequestSpec, Verdict
from tandem.chaos.cluster.caller import call
from tandem.core.types import SamplingParams, StopParams

BLOCK = 16
_DOCUMENT_BLOCKS = 8
_NUM_DOCUMENTS = 10
_FIRST_TOKEN, _LAST_TOKEN = 4, 313


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one arm's requests of some time showed."""

    requests: int
    failures: int
    ttft_p50_ms: float
    ttft_p99_ms: float


class TwinLoad:
    """Sends until it is stopped; keeps every record, by arm."""

    def __init__(self, arms: dict[str, ChaosCluster], *, rate_per_s: float, seed: int) -> None:
        self._arms = arms
        self._rate_per_s = rate_per_s
        self._draw = random.Random(seed)
        self._documents = [self._tokens(_DOCUMENT_BLOCKS * BLOCK) for _ in range(_NUM_DOCUMENTS)]
        self.records: dict[str, list[RequestRecord]] = {name: [] for name in arms}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send while the block runs; leave when every request has ended and was compared with its right answer."""
        is_over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send(group, is_over))
            try:
                yield
            finally:
                is_over.set()
        for name, cluster in self._arms.items():
            await asyncio.to_thread(cluster.judge, self.records[name])

    async def _send(self, group: asyncio.TaskGroup, is_over: asyncio.Event) -> None:
        next_s = time.monotonic()
        while not is_over.is_set():
            spec = self._spec()
            for name in self._draw.sample(sorted(self._arms), len(self._arms)):
                group.create_task(self._ask(name, spec))
            next_s += self._draw.expovariate(self._rate_per_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(next_s - time.monotonic(), 0.0)):
                    await is_over.wait()

    async def _ask(self, name: str, spec: RequestSpec) -> None:
        client = self._arms[name].client(spec.tenant)
        self.records[name].append(await call(client, spec))

    def _spec(self) -> RequestSpec:
        is_known = self._draw.random() < 0.5
        start = self._draw.choice(self._documents) if is_known else self._tokens(_DOCUMENT_BLOCKS * BLOCK)
        return RequestSpec(
            prompt=(*start, *self._tokens(5)),
            sampling=SamplingParams(),
            stop=StopParams(max_tokens=3, ignore_eos=True),
            deadline_s=20.0,
        )

    def _tokens(self, count: int) -> tuple[int, ...]:
        return tuple(self._draw.randint(_FIRST_TOKEN, _LAST_TOKEN) for _ in range(count))


def is_good(record: RequestRecord) -> bool:
    """Whether the caller got the whole right answer."""
    return record.ending is Ending.OK and record.verdict is Verdict.EQUAL


def window(records: Sequence[RequestRecord], from_s: float, to_s: float) -> Window:
    """Sum up the requests that began in a span of CLOCK_MONOTONIC."""
    inside = [record for record in records if from_s <= record.began_s < to_s]
    times_s = [r.first_token_s - r.began_s for r in inside if r.first_token_s is not None]
    return Window(
        requests=len(inside),
        failures=sum(not is_good(record) for record in inside),
        ttft_p50_ms=percentile_ms(times_s, 50),
        ttft_p99_ms=percentile_ms(times_s, 99),
    )


def percentile_ms(values_s: Sequence[float], share: int) -> float:
    """Return a percentile in milliseconds; 0 for no values."""
    if len(values_s) < 2:
        return round(1e3 * sum(values_s), 2)
    return round(1e3 * statistics.quantiles(values_s, n=100, method="inclusive")[share - 1], 2)
