"""One cell of the matrix, as a value: a failure-mode row, the phase it hits, the fault, and what the user must see."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol

from tandem.chaos.cluster import Ending
from tandem.chaos.faults.evidence import Evidence
from tandem.core.types import SamplingParams, StopParams

if TYPE_CHECKING:
    from benchmarks.fault_matrix.scene import Scene

RoleName = Literal["prefill", "decode", "router"]


class Phase(StrEnum):
    """Where the request under attack is when the fault comes."""

    IDLE = "idle"  # nowhere: it comes after the fault
    PREFILL = "mid-prefill"
    TRANSFER = "mid-transfer"
    DECODE = "mid-decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """How a phase is reached: a failpoint that holds a process there, so many tokens at the caller, or the queue."""

    point: str = ""
    at: RoleName = "prefill"
    after: int = 0
    tokens: int = 0
    sent: bool = False  # as soon as the request has been sent
    queued: bool = False  # when it waits in the router, behind its mates
    dwell_s: float = 0.0  # and stays there for so long

    @property
    def is_open(self) -> bool:
        """Nothing is waited for."""
        return not (self.point or self.tokens or self.sent or self.queued)


NO_GATE = Gate()
PHASE_GATES = {
    Phase.IDLE: NO_GATE,
    Phase.PREFILL: Gate(point="p.chunk", after=1),
    Phase.TRANSFER: Gate(point="p.before_chunk_send", after=2),
    Phase.DECODE: Gate(tokens=5),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The request under attack."""

    count: int = 1
    n: int = 1
    prompt_blocks: int = 6
    max_tokens: int = 24
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop_after_tokens: int | None = None  # its stop string is what the right answer says after so many tokens
    deadline_s: float = 30.0
    marks: tuple[int, ...] = ()  # token ids put into the prompt: poisons
    mates: int = 0  # requests beside it, which nothing may happen to
    read_delay_s: float = 0.0
    stands_still_s: float = 0.0

    def stop_params(self) -> StopParams:
        """When it ends, but for its stop string."""
        return StopParams(max_tokens=self.max_tokens, ignore_eos=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """What the user must see of every probe."""

    endings: frozenset[Ending] = frozenset({Ending.OK})
    reasons: frozenset[str] = frozenset()  # of errors; empty = any
    min_attempts: int = 1  # of those that end OK
    max_attempts: int = 99


OK = Expect()
UNNOTICED = Expect(max_attempts=1)
RETRIED = Expect(min_attempts=2)
CANCELLED = Expect(endings=frozenset({Ending.CANCELLED}))


def named_error(*reasons: str) -> Expect:
    """The probe ends with one of these reasons."""
    return Expect(endings=frozenset({Ending.ERROR}), reasons=frozenset(reasons))


def ok_or_named(*reasons: str) -> Expect:
    """The probe ends well, or with one of these reasons."""
    return Expect(endings=frozenset({Ending.OK, Ending.ERROR}), reasons=frozenset(reasons))


class LiveFault(Protocol):
    """A fault of one cell while it runs."""

    async def begin(self) -> None:
        """Do it."""
        ...

    async def end(self) -> None:
        """Undo what can be undone; idempotent."""
        ...

    def verify(self) -> Evidence:
        """Tell whether it took effect; asked when everything is over."""
        ...


MakeFault = Callable[["Scene"], LiveFault]
Check = Callable[["Scene"], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell. ``when`` says whether the fault comes at the gate or is armed before the request."""

    row: int
    phase: Phase
    does: str
    fault: MakeFault
    expect: Expect = OK
    gate: Gate | None = None  # None = the phase's usual one
    when: Literal["at_gate", "before"] = "at_gate"
    lasts_s: float | None = None  # then it is undone; None = when the probes have ended
    probe: Probe = Probe()
    checks: tuple[Check, ...] = ()  # after the fault took effect, while the cell runs
    after: tuple[Check, ...] = ()  # when everything is over
    shape: str = "pairs"
    settle_s: float = 30.0
    serves_afterwards: bool = True  # False where the cluster itself can't serve
    quick: bool = False  # part of --quick

    @property
    def name(self) -> str:
        """As it stands in results and after ``--only``."""
        return f"{self.row}/{self.phase.value}/{self.does}"

    @property
    def used_gate(self) -> Gate:
        """How its phase is reached."""
        if self.gate is not None:
            return self.gate
        return NO_GATE if self.when == "before" else PHASE_GATES[self.phase]


@dataclass(slots=True, kw_only=True)
class CellResult:
    """What came of a cell."""

    cell: Cell
    problems: list[str] = field(default_factory=list)
    evidence: str = ""
    fault_verified: bool = False
    num_wrong: int = 0
    num_hangs: int = 0
    leaks: list[str] = field(default_factory=list)
    endings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Everything as it must be."""
        return self.fault_verified and not (self.problems or self.leaks or self.num_wrong or self.num_hangs)
