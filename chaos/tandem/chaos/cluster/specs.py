"""Requests to be sent, as values: what is asked, by whom, and how the caller behaves. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tandem.client import GenerateOptions
from tandem.core.ids import LOCAL_TENANT, RequestId, Tenant
from tandem.core.types import GenerationTask, SamplingParams, StopParams

_FIRST_PLAIN: Final = 4
_LAST_PLAIN: Final = 313


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSpec:
    """One request. Sampled ones carry a seed, so that their answer is known."""

    prompt: tuple[int, ...]
    tenant: Tenant = LOCAL_TENANT
    n: int = 1
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: StopParams = field(default_factory=lambda: StopParams(max_tokens=16))
    deadline_s: float = 30.0
    start_after_s: float = 0.0  # from the start of the run
    cancel_after_s: float | None = None  # from the start of the request
    cancel_after_tokens: int | None = None
    read_delay_s: float = 0.0  # a slow reader: pause after each event
    stands_still_s: float = 0.0  # reads nothing for so long, once, when it has had its first tokens
    label: str = ""

    def task(self) -> GenerationTask:
        """The task that the oracle answers."""
        return GenerationTask(
            request_id=RequestId(self.label or "spec"),
            attempt=0,
            tenant=self.tenant,
            prompt_token_ids=self.prompt,
            num_sequences=self.n,
            sampling=self.sampling,
            stop=self.stop,
        )

    def options(self) -> GenerateOptions:
        """The same as options of the SDK. Every field is given: none is left to the server's defaults."""
        sampling, stop = self.sampling, self.stop
        options = GenerateOptions(
            n=self.n,
            max_tokens=stop.max_tokens,
            stop=stop.stop,
            stop_token_ids=stop.stop_token_ids,
            ignore_eos=stop.ignore_eos,
            include_stop=stop.include_stop,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            logit_bias=dict(sampling.logit_bias),
            seed=sampling.seed,
            label=self.label,
        )
        if sampling.num_logprobs is not None:
            options["logprobs"] = sampling.num_logprobs
        return options


def random_specs(
    count: int,
    *,
    seed: int,
    block_size: int = 16,
    max_prompt_blocks: int = 6,
    max_output_tokens: int = 40,
    tenants: Sequence[str] = (LOCAL_TENANT,),
    cancel_share: float = 0.0,
    lives_s: Sequence[float] = (0.5,),
    deadline_s: float = 30.0,
    max_n: int = 3,
) -> list[RequestSpec]:
    """Return a mix: greedy and sampled, n = 1..``max_n``, lengths around block edges, several tenants.

    Prompts share prefixes now and then. A share ``cancel_share`` is cancelled at a uniform time over a life drawn from
    ``lives_s``.
    """
    dice = random.Random(seed)
    common = tuple(_tokens(dice, max_prompt_blocks * block_size + 1))
    specs = []
    for index in range(count):
        length = max(1, dice.randint(1, max_prompt_blocks) * block_size + dice.choice((-1, 0, 1)))
        shared = dice.choice((0, 0, length // 2, length - 1))
        prompt = (*common[:shared], *_tokens(dice, length - shared))
        max_tokens = max(1, dice.choice((1, 2, block_size - 1, block_size, block_size + 1, max_output_tokens)))
        cancelled = dice.random() < cancel_share
        specs.append(
            RequestSpec(
                prompt=prompt,
                tenant=Tenant(dice.choice(list(tenants))),
                n=dice.choice((1, 1, 1, *range(1, max_n + 1))),
                sampling=_sampling(dice, index),
                stop=StopParams(
                    max_tokens=min(max_tokens, max_output_tokens),
                    stop=("e", "th") if dice.random() < 0.1 else (),
                    ignore_eos=dice.random() < 0.5,
                    include_stop=dice.random() < 0.5,
                ),
                deadline_s=deadline_s,
                cancel_after_s=dice.uniform(0.0, dice.choice(list(lives_s))) if cancelled else None,
                label=f"{seed}-{index}",
            )
        )
    return specs


def _tokens(dice: random.Random, count: int) -> list[int]:
    return [dice.randint(_FIRST_PLAIN, _LAST_PLAIN) for _ in range(count)]


def _sampling(dice: random.Random, index: int) -> SamplingParams:
    kind = index % 4
    if kind < 2:
        return SamplingParams()
    seed = dice.getrandbits(63)
    if kind == 2:
        return SamplingParams(temperature=dice.choice((0.7, 1.0, 1.3)), top_k=40, top_p=0.95, seed=seed)
    return SamplingParams(
        temperature=0.8,
        min_p=0.02,
        repetition_penalty=1.2,
        presence_penalty=0.4,
        frequency_penalty=0.3,
        logit_bias={dice.randint(_FIRST_PLAIN, _LAST_PLAIN): 4.0},
        seed=seed,
    )
