"""Callers: what each asks, how it behaves, what it got, and whether that was right."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tandem.chaos.simulation.model import expected_answer
from tandem.chaos.simulation.world import World
from tandem.core.errors import TandemError
from tandem.core.types import FinishReason, GenerationTask, Outcome, TokenDelta
from tandem.router.actions import Ended, Started
from tandem.router.client_stream import Overflow
from tandem.router.dispatcher import Dispatcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request and how its caller behaves."""

    task: GenerationTask
    at_s: float
    deadline_in_s: float | None = None
    cancel_in_s: float | None = None
    reads_per_s: float | None = None  # None: as fast as it comes
    poison: str = ""
    is_probe: bool = False  # asked after the faults: must end OK


@dataclass(slots=True)
class _Child:
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason | None = None


_ROOM_TOKENS = 16


class Caller:
    """A Sink that judges. It runs in the router's process."""

    def __init__(self, world: World, ask: Ask, dispatcher: Dispatcher) -> None:
        self.ask = ask
        self.outcome: Outcome | None = None
        self.reason = ""
        self.ended_at_s: float | None = None
        self.router_was_lost = False
        self.num_attempts = 0
        self.on_end: Callable[[], None] = lambda: None
        self._world = world
        self._dispatcher = dispatcher
        self._children = [_Child() for _ in range(ask.task.num_sequences)]
        self._num_waiting = 0
        self._read_at_s = world.now_s
        self._num_started = 0

    @property
    def name(self) -> str:
        """The request's id."""
        return self.ask.task.request_id

    @property
    def num_tokens(self) -> int:
        """Tokens received."""
        return sum(len(child.tokens) for child in self._children)

    @property
    def is_over(self) -> bool:
        """Whether the caller has its answer, its error, or a broken connection."""
        return self.outcome is not None or self.router_was_lost

    # --- Sink ------------------------------------------------------------------------------------------------------

    def put_started(self, started: Started) -> None:
        """See Sink."""
        self._num_started += 1
        if self._num_started > 1:
            self._world.violation("one start", f"{self.name} was started twice")

    def put_delta(self, delta: TokenDelta) -> None:
        """See Sink: position, fence and bound are checked here, the tokens themselves at the end."""
        world, child = self._world, self._children[delta.child]
        if self.is_over:
            world.violation("nothing after the end", f"{self.name} got {delta}")
        if delta.position != len(child.tokens) or child.finish_reason is not None:
            world.violation(
                "order", f"{self.name} child {delta.child} got position {delta.position} after {len(child.tokens)}"
            )
        child.tokens += delta.token_ids
        child.text += delta.text
        child.finish_reason = delta.finish_reason
        if self.ask.reads_per_s is not None:
            self._read(len(delta.token_ids), self.ask.reads_per_s)

    def put_ended(self, ended: Ended) -> None:
        """See Sink."""
        if self.outcome is not None:
            self._world.violation("one terminal", f"{self.name} ended {self.outcome} and {ended.outcome}")
        self.num_attempts = ended.num_attempts
        self.end(ended.outcome, ended.error)

    def put_keep_alive(self) -> None:
        """See Sink."""

    # --- judging ---------------------------------------------------------------------------------------------------

    def end(self, outcome: Outcome, error: TandemError | None) -> None:
        """The request is over."""
        self.outcome = outcome
        self.reason = "" if error is None else error.reason
        self.ended_at_s = self._world.now_s
        self._world.note("client", f"{self.name} ends {outcome} {self.reason} after {self.num_tokens} tokens")
        if (outcome is Outcome.OK) != (error is None):
            self._world.violation("named error", f"{self.name} ended {outcome} with {error!r}")
        if error is not None and not error.reason:
            self._world.violation("named error", f"{self.name} ended {outcome} without a reason")
        self.check_tokens()
        self.on_end()

    def check_tokens(self) -> None:
        """What came must be what the model says: all of it for OK, the beginning of it for everything else."""
        is_ok = self.outcome is Outcome.OK
        for index, child in enumerate(self._children):
            if not child.tokens and not is_ok:
                continue
            must = expected_answer(self.ask.task, index)
            tokens = tuple(child.tokens)
            fits = (
                (tokens, child.text, child.finish_reason) == (must.token_ids, must.text, must.finish_reason)
                if is_ok
                else tokens == must.token_ids[: len(tokens)] and must.text.startswith(child.text)
            )
            if not fits:
                self._world.violation(
                    "tokens",
                    f"{self.name} child {index} ({self.outcome}) got {tokens} {child.text!r} {child.finish_reason}, "
                    f"expected {must.token_ids} {must.text!r} {must.finish_reason}",
                )

    def _read(self, num_new: int, reads_per_s: float) -> None:
        """The caller has read since the last time what it could; what waits has a bound."""
        now_s = self._world.now_s
        self._num_waiting = max(0, self._num_waiting - int((now_s - self._read_at_s) * reads_per_s)) + num_new
        self._read_at_s = now_s
        if self._num_waiting > _ROOM_TOKENS:
            self._world.hit("slow_consumer")
            raise Overflow
