"""The terms in which a router asks for shared reservations: its policy, an ask, an answer, the way there. Zero I/O."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from tandem.core.ids import RequestId
from tandem.router.actions import WorkerKey
from tandem.router.candidates import Candidate


class SharingMode(StrEnum):
    """Whether routers agree on prefill workers."""

    AUTO = "auto"  # where more than one serves
    ON = "on"
    OFF = "off"


class ReservationOutcome(StrEnum):
    """What came of an ask, besides the reasons for which Redis did not answer."""

    KEPT = "kept"  # the worker that this router would have chosen
    MOVED = "moved"  # another one
    UNFIT = "unfit"  # that worker can't take it any more
    NO_ANSWER = "no_answer"  # not even that there is none
    ENDED = "ended"  # the request was over before


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingPolicy:
    """Whether to ask, and for how long to wait."""

    mode: SharingMode = SharingMode.AUTO
    max_wait_s: float = 0.025
    max_candidates: int = 8


@dataclass(frozen=True, slots=True)
class Ticket:
    """One ask of this router: a request may ask again, and never with the same number."""

    request_id: RequestId
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The worker on which there is a reservation now, or why there is none."""

    worker: WorkerKey | None = None
    missed: str = ""


OnAnswer = Callable[[Ticket, Answer], None]


class Reserver(Protocol):
    """The way to the shared reservations. Never waits, never raises; what is lost ends by itself."""

    def ask(self, ticket: Ticket, candidates: Sequence[Candidate], on_answer: OnAnswer) -> None:
        """Reserve on one of ``candidates``; ``on_answer`` is called later, never from inside."""
        ...

    def tell(self, ticket: Ticket, candidate: Candidate) -> None:
        """Reserve there; nobody waits for it."""
        ...

    def release(self, ticket: Ticket, worker: WorkerKey) -> None:
        """The work is done or was given up."""
        ...
