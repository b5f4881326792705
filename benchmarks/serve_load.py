"""Open-loop load on one cluster: when requests come, what they ask, and what the client sees."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from tandem.client import AsyncClient, OutputDelta, StreamCompleted, TandemError

_TEXT = (Path(__file__).parents[1] / "LICENSE").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Arrivals and sizes. Prompt and answer lengths are log-normal, bounded, like chat traffic but shorter."""

    rate_per_s: float
    duration_s: float
    median_prompt_chars: int = 500
    median_output_tokens: int = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One arrival."""

    at_s: float
    prompt: str
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Arrivals in order of time."""

    requests: tuple[Request, ...]


@dataclass(slots=True, kw_only=True)
class Sample:
    """What the client saw of one request. Times in seconds."""

    sent_s: float
    ended_s: float = 0.0
    ttft_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    error: str = ""

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None for an answer of one token."""
        if self.ttft_s is None or self.num_output_tokens < 2:
            return None
        return (self.ended_s - self.sent_s - self.ttft_s) / (self.num_output_tokens - 1)


def make_trace(load: Load, *, seed: int) -> Trace:
    """Return Poisson arrivals over the load's duration; the same seed gives the same trace."""
    draw = random.Random(seed)
    requests, now_s = [], draw.expovariate(load.rate_per_s)
    while now_s < load.duration_s:
        num_chars = int(min(max(load.median_prompt_chars * draw.lognormvariate(0, 0.7), 40), 4000))
        max_tokens = int(min(max(load.median_output_tokens * draw.lognormvariate(0, 0.5), 4), 96))
        start = draw.randrange(len(_TEXT) - num_chars)
        requests.append(Request(at_s=now_s, prompt=_TEXT[start : start + num_chars], max_tokens=max_tokens))
        now_s += draw.expovariate(load.rate_per_s)
    return Trace(requests=tuple(requests))


async def play(client: AsyncClient, trace: Trace) -> list[Sample]:
    """Send every request at its time and wait for all answers."""
    began_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_ask(client, request, began_s)) for request in trace.requests]
    return [task.result() for task in tasks]


async def _ask(client: AsyncClient, request: Request, began_s: float) -> Sample:
    await asyncio.sleep(max(0.0, began_s + request.at_s - time.monotonic()))
    sample = Sample(sent_s=time.monotonic())
    last_s = sample.sent_s
    try:
        async with client.stream(request.prompt, max_tokens=request.max_tokens, ignore_eos=True) as stream:
            async for event in stream:
                if isinstance(event, StreamCompleted):
                    sample.num_prompt_tokens = event.usage.prompt_tokens
                if not isinstance(event, OutputDelta) or not event.token_ids:
                    continue
                now_s = time.monotonic()
                if sample.ttft_s is None:
                    sample.ttft_s = now_s - sample.sent_s
                else:
                    sample.gaps_s.append(now_s - last_s)
                last_s = sample.ended_s = now_s
                sample.num_output_tokens += len(event.token_ids)
        if sample.num_output_tokens != request.max_tokens:
            sample.error = f"{sample.num_output_tokens} tokens instead of {request.max_tokens}"
    except TandemError as error:
        sample.error = f"{error.reason}: {error}"
    return sample
