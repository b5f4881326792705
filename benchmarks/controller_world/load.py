"""Open-loop traffic in phases: Poisson arrivals of one shape per phase, drawn from a seed. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tandem.chaos.cluster import RequestSpec
from tandem.core.types import StopParams

_PLAIN = (4, 313)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """So many seconds of one kind of traffic."""

    name: str
    seconds: float
    rate_per_s: float
    prompt_tokens: int
    output_tokens: int

    def times(self, factor: float, seconds: float) -> "Phase":
        """The same traffic, more of it."""
        return replace(self, name=f"{self.name} x{factor:g}", seconds=seconds, rate_per_s=self.rate_per_s * factor)

    def lasting(self, seconds: float) -> "Phase":
        """The same traffic for another time."""
        return replace(self, seconds=seconds)


def specs_of(phases: Sequence[Phase], *, seed: int) -> list[RequestSpec]:
    """Return the requests of all phases, one after the other; labels name the phase."""
    dice = random.Random(seed)
    specs: list[RequestSpec] = []
    begin_s = 0.0
    for index, phase in enumerate(phases):
        at_s = begin_s + dice.expovariate(phase.rate_per_s)
        while at_s < begin_s + phase.seconds:
            specs.append(_spec(phase, f"{index}-{len(specs)}", at_s, dice))
            at_s += dice.expovariate(phase.rate_per_s)
        begin_s += phase.seconds
    return specs


def phase_of(spec: RequestSpec) -> int:
    """Return which phase a request belongs to."""
    return int(spec.label.partition("-")[0])


def _spec(phase: Phase, label: str, at_s: float, dice: random.Random) -> RequestSpec:
    num_prompt = max(8, round(phase.prompt_tokens * dice.uniform(0.75, 1.25)))
    num_output = max(2, round(phase.output_tokens * dice.uniform(0.75, 1.25)))
    return RequestSpec(
        prompt=tuple(dice.randint(*_PLAIN) for _ in range(num_prompt)),
        stop=StopParams(max_tokens=num_output, ignore_eos=True),
        deadline_s=120.0,
        start_after_s=at_s,
        label=label,
    )
