"""Asks a use on two clusters in turn, one with and one without the prefix cache, and sums up what was saved."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.prefix_cache_uses import Use
from tandem.client import AsyncClient
from tandem.core.inference import OutputDelta, StreamCompleted
from tandem.core.types import ChatMessage, Usage

CACHED_PRICE = 0.1  # of a cached input token; an uncached one costs 1
OUTPUT_PRICE = 5.0  # of an output token, for the figure that counts them too
ON, OFF = "on", "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One answer, as its caller saw it."""

    ttft_s: float
    usage: Usage
    token_ids: tuple[int, ...]
    text: str

    @property
    def input_cost(self) -> float:
        """In prices of an uncached input token."""
        return self.usage.uncached_tokens + CACHED_PRICE * self.usage.cached_tokens

    @property
    def cost(self) -> float:
        """With the output."""
        return self.input_cost + OUTPUT_PRICE * self.usage.output_tokens


@dataclass(slots=True, kw_only=True)
class Played:
    """The answers to one use, per arm and in order."""

    use: Use
    samples: dict[str, list[Sample]] = field(default_factory=lambda: {ON: [], OFF: []})

    def num_mismatches(self) -> int:
        """Answers that are not the same, token by token, with and without the cache."""
        pairs = zip(self.samples[ON], self.samples[OFF], strict=True)
        return sum((a.token_ids, a.usage.prompt_tokens) != (b.token_ids, b.usage.prompt_tokens) for a, b in pairs)


async def play(use: Use, clients: Mapping[str, AsyncClient]) -> Played:
    """Ask everything of every arm. Which arm is first alternates: a busy neighbour hits both alike."""
    played = Played(use=use)
    histories = {arm: list(use.opening) for arm in clients}
    for number, ask in enumerate(use.asks):
        order = sorted(clients, reverse=number % 2 == 1)
        for arm in order:
            history = [*histories[arm], ChatMessage(role="user", content=ask)]
            sample = await _ask(clients[arm], history, use.max_tokens)
            played.samples[arm].append(sample)
            if use.is_conversation:
                histories[arm] = [*history, ChatMessage(role="assistant", content=sample.text)]
    return played


async def _ask(client: AsyncClient, messages: Sequence[ChatMessage], max_tokens: int) -> Sample:
    began_s, ttft_s, usage = time.monotonic(), None, None
    tokens: list[int] = []
    text = ""
    async with client.stream(messages=messages, max_tokens=max_tokens, temperature=0.0) as stream:
        async for event in stream:
            if isinstance(event, OutputDelta) and event.token_ids:
                ttft_s = time.monotonic() - began_s if ttft_s is None else ttft_s
                tokens += event.token_ids
                text += event.text
            elif isinstance(event, StreamCompleted):
                usage = event.usage
    if ttft_s is None or usage is None:
        raise RuntimeError(f"a stream ended without tokens or usage: {tokens} {usage}")
    return Sample(ttft_s=ttft_s, usage=usage, token_ids=tuple(tokens), text=text)


def summarise(played: Played) -> dict[str, Any]:
    """Return what the cache saved of the asks that count.

    Times are compared as medians where asks are alike, and as means over all turns of a conversation, whose first turn
    is paid in full and whose later ones grow.
    """
    use = played.use
    on, off = (played.samples[arm][use.num_warming :] for arm in (ON, OFF))
    middle = statistics.fmean if use.is_conversation else statistics.median
    times = {arm: middle([sample.ttft_s for sample in samples]) for arm, samples in ((ON, on), (OFF, off))}
    prompt_tokens = sum(sample.usage.prompt_tokens for sample in on)
    everything = played.samples
    return {
        "asks": len(on),
        "ttft_saved": round(1 - times[ON] / times[OFF], 4),
        "cost_saved": round(1 - sum(s.input_cost for s in on) / sum(s.input_cost for s in off), 4),
        "cost_saved_with_output": round(1 - sum(s.cost for s in on) / sum(s.cost for s in off), 4),
        "cost_saved_with_warming": round(
            1 - sum(s.input_cost for s in everything[ON]) / sum(s.input_cost for s in everything[OFF]), 4
        ),
        "ttft_s": {arm: round(times[arm], 4) for arm in (ON, OFF)},
        "ttfts_s": {arm: [round(s.ttft_s, 3) for s in everything[arm]] for arm in (ON, OFF)},
        "prompt_tokens": prompt_tokens,
        "tokens_not_recomputed": sum(sample.usage.cached_tokens for sample in on),
        "tokens_not_recomputed_off": sum(sample.usage.cached_tokens for sample in off),
        "longest_prompt_tokens": max(sample.usage.prompt_tokens for sample in on),
        "mismatches": played.num_mismatches(),
        "goal": {"ttft_saved": use.goal.ttft_saved, "cost_saved": use.goal.cost_saved},
    }
