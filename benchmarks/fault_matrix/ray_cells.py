"""The cells with the real model under Ray, as values: what strikes whom when, and who asks for what."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from benchmarks.fault_matrix.cell import Phase
from tandem.chaos.cluster import RequestSpec
from tandem.core.types import SamplingParams, StopParams

Role = Literal["prefill", "decode"]
_DEADLINE_S: Final = 110.0
_LONG: Final = (512, 8)  # tokens of prompt and answer: there is time to strike while it is computed and handed over
_SHORT: Final = (64, 32)
_STRIDE: Final = 37  # between the beginnings of two prompts
_FIRST_BLOCK: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RayCell:
    """One cell: which row, at which moment, what happens to whom."""

    row: int
    phase: Phase
    victim: Role
    what: Literal["nothing", "kill", "stop", "leave"] = "kill"
    tokens: int = 5  # mid-decode: after so many
    n: int = 1
    sampled: bool = False
    min_attempts: int = 1
    max_attempts: int = 99

    @property
    def does(self) -> str:
        """In words."""
        kind = f"n={self.n} sampled" if self.sampled else "greedy"
        when = f" after {self.tokens} tokens" if self.phase is Phase.DECODE else ""
        action = "no fault" if self.what == "nothing" else f"{self.what} {self.victim}"
        asked = ", asked while it lasts and afterwards" if self.phase is Phase.IDLE else ""
        return f"Ray, real model: {action}{when}, {kind}{asked}"

    @property
    def num_requests(self) -> int:
        """How many ask: one, that is struck; or two while the fault lasts and one afterwards."""
        return 3 if self.phase is Phase.IDLE else 1


CONTROLS: Final = (
    RayCell(row=0, phase=Phase.IDLE, victim="prefill", what="nothing", max_attempts=1),
    RayCell(row=0, phase=Phase.TRANSFER, victim="decode", what="nothing", max_attempts=1),
    RayCell(row=0, phase=Phase.DECODE, victim="decode", what="nothing", n=2, sampled=True, max_attempts=1),
)
CELLS: Final = (
    RayCell(row=1, phase=Phase.IDLE, victim="prefill"),
    RayCell(row=2, phase=Phase.PREFILL, victim="prefill", min_attempts=2),
    RayCell(row=2, phase=Phase.PREFILL, victim="prefill", n=2, sampled=True, min_attempts=2),
    RayCell(row=4, phase=Phase.TRANSFER, victim="prefill", min_attempts=2),
    RayCell(row=5, phase=Phase.IDLE, victim="decode"),
    RayCell(row=5, phase=Phase.PREFILL, victim="decode", min_attempts=2),
    RayCell(row=5, phase=Phase.TRANSFER, victim="decode", min_attempts=2),
    RayCell(row=6, phase=Phase.DECODE, victim="decode", tokens=1, min_attempts=2),
    RayCell(row=6, phase=Phase.DECODE, victim="decode", tokens=12, min_attempts=2),
    RayCell(row=6, phase=Phase.DECODE, victim="decode", tokens=8, n=2, sampled=True, min_attempts=2),
    RayCell(row=1, phase=Phase.DECODE, victim="prefill", max_attempts=1),
    RayCell(row=8, phase=Phase.IDLE, victim="decode", what="stop"),
    RayCell(row=8, phase=Phase.PREFILL, victim="prefill", what="stop", max_attempts=1),
    RayCell(row=8, phase=Phase.DECODE, victim="decode", what="stop", max_attempts=1),
    RayCell(row=24, phase=Phase.TRANSFER, victim="decode", what="leave"),
)


def requests_of(cells: Sequence[RayCell], tokens: Sequence[int]) -> list[list[RequestSpec]]:
    """Return the requests of each cell. No two prompts begin alike: no worker has anything of one in its cache.

    Raises ValueError where two do.
    """
    starts = iter(range(0, len(tokens), _STRIDE))
    found = [[_request(cell, index, tokens[next(starts) :]) for index in range(cell.num_requests)] for cell in cells]
    prompts = [spec.prompt for specs in found for spec in specs]
    if len({prompt[:_FIRST_BLOCK] for prompt in prompts}) < len(prompts):
        raise ValueError("two prompts begin alike: take them from another text")
    return found


def _request(cell: RayCell, index: int, tokens: Sequence[int]) -> RequestSpec:
    sampling = SamplingParams(temperature=0.8, top_k=40, seed=7) if cell.sampled else SamplingParams()
    num_prompt, num_tokens = _LONG if cell.phase in (Phase.PREFILL, Phase.TRANSFER) else _SHORT
    if len(tokens) < num_prompt:
        raise ValueError(f"the text is too short: {len(tokens)} tokens are left, {num_prompt} are needed")
    return RequestSpec(
        prompt=tuple(tokens[:num_prompt]),
        n=cell.n,
        sampling=sampling,
        stop=StopParams(max_tokens=num_tokens, ignore_eos=True),
        deadline_s=_DEADLINE_S,
        label=f"{cell.row}/{cell.phase.value}/{cell.does}#{index}",
    )
