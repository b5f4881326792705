"""The cases of the equality benchmark, and how an answer is compared."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tandem.core.ids import LOCAL_TENANT, RequestId
from tandem.core.types import GenerationTask, SamplingParams, StopParams

Answer = Sequence[tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What one group of cases showed."""

    cases: int = 0
    mismatches: int = 0
    handed_over: int = 0
    first_mismatch: str = ""

    def add(self, name: str, expected: Answer, got: Answer, *, was_handed_over: bool) -> "Counts":
        """Return the counts after one more case."""
        differs = list(expected) != list(got)
        return replace(
            self,
            cases=self.cases + 1,
            mismatches=self.mismatches + differs,
            handed_over=self.handed_over + was_handed_over,
            first_mismatch=self.first_mismatch
            or (f"{name}: expected {list(expected)}, got {list(got)}" if differs else ""),
        )


def make_task(
    num_prompt: int, *, vocab_size: int, num_sequences: int, sampled: bool, max_tokens: int, seed: int
) -> GenerationTask:
    """Return a request with a random prompt; ``seed`` decides prompt and draws."""
    draw = random.Random(1000 * num_prompt + seed)
    sampling = SamplingParams()
    if sampled:
        # Each seed tries another mix of filters and penalties.
        sampling = SamplingParams(
            temperature=(0.7, 1.0, 1.3)[seed % 3],
            top_p=(1.0, 0.9)[seed % 2],
            top_k=(0, 40, 0)[seed % 3],
            min_p=(0.0, 0.0, 0.02)[(seed // 2) % 3],
            repetition_penalty=(1.0, 1.1)[(seed // 3) % 2],
            presence_penalty=(0.0, 0.4)[(seed // 2) % 2],
            frequency_penalty=(0.0, 0.2)[(seed // 4) % 2],
            seed=seed,
        )
    return GenerationTask(
        request_id=RequestId(f"case-{num_prompt}-{seed}"),
        attempt=0,
        tenant=LOCAL_TENANT,
        prompt_token_ids=tuple(draw.randrange(3, vocab_size) for _ in range(num_prompt)),
        num_sequences=num_sequences,
        sampling=sampling,
        stop=StopParams(max_tokens=max_tokens),
        deadline_left_s=300.0,
    )
