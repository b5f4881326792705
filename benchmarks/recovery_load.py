"""The streams of the recovery benchmark: five kinds of answers, all known beforehand."""

import random
from dataclasses import replace

from tandem.chaos.cluster import RequestSpec
from tandem.chaos.tagged.expected import Oracle
from tandem.core.types import SamplingParams, StopParams

FIRST_PLAIN, LAST_PLAIN = 4, 313
STOP_CHARS = 4


def streams(oracle: Oracle, count: int, *, seed: int, max_tokens: int, deadline_s: float = 60.0) -> list[RequestSpec]:
    """Return greedy ones, sampled ones, ones with every penalty, ones that end at a stop string, and n = 2 and 3."""
    dice = random.Random(seed)
    specs = [_spec(dice, index, seed=seed, max_tokens=max_tokens, deadline_s=deadline_s) for index in range(count)]
    ending = [index for index in range(count) if index % 5 == 3]
    answers = oracle.expected_many([specs[index].task() for index in ending])
    for index, (answer,) in zip(ending, answers, strict=True):
        specs[index] = _ending_late(specs[index], answer.text)
    return specs


def _spec(dice: random.Random, index: int, *, seed: int, max_tokens: int, deadline_s: float) -> RequestSpec:
    kind = index % 5
    sampled = SamplingParams(temperature=dice.choice((0.7, 1.0)), top_k=40, top_p=0.95, seed=dice.getrandbits(63))
    penalised = SamplingParams(
        temperature=0.8,
        repetition_penalty=1.2,
        presence_penalty=0.4,
        frequency_penalty=0.3,
        logit_bias={dice.randint(FIRST_PLAIN, LAST_PLAIN): 3.0},
        seed=dice.getrandbits(63),
    )
    prompt_length = dice.choice((15, 16, 17, 40, 64, 90))
    return RequestSpec(
        prompt=tuple(dice.randint(FIRST_PLAIN, LAST_PLAIN) for _ in range(prompt_length)),
        n=dice.choice((2, 3)) if kind == 4 else 1,
        sampling=(SamplingParams(), sampled, penalised, sampled, sampled)[kind],
        stop=StopParams(max_tokens=max_tokens, ignore_eos=True),
        deadline_s=deadline_s,
        label=f"{seed}-{index}",
    )


def _ending_late(spec: RequestSpec, text: str) -> RequestSpec:
    """End it at a stop string of several tokens that its answer says past the middle: text is held back for it."""
    starts = range(len(text) // 2, len(text) - STOP_CHARS)
    stops = [text[at : at + STOP_CHARS] for at in starts if text.find(text[at : at + STOP_CHARS]) == at]
    stop = replace(spec.stop, stop=(stops[len(stops) // 2],) if stops else ())
    return replace(spec, stop=stop)
