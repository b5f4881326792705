"""A worker on virtual time: steps that take what the tagged engine's cost model says, told as a worker tells them."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tandem.chaos.tagged.settings import TaggedCost
from tandem.core.ids import RequestId
from tandem.core.messages import AttemptReleased, HandoverDone, PrefillDone, RequestEvent
from tandem.core.types import FinishReason, TokenDelta, WorkerInfo, WorkerLoad

HAND_OVER_S = 0.02
_BATCHED = 512
Later = Callable[[float, Callable[[], None]], None]
Told = Callable[["Worker", Sequence[RequestEvent], Sequence[TokenDelta]], None]


@dataclass(slots=True, kw_only=True, eq=False)
class Running:
    """One request at its workers; a request of this benchmark has one attempt."""

    request_id: RequestId
    num_prompt: int
    num_output: int  # nobody but this knows
    left: int  # prompt tokens to compute
    decode: "Worker"
    num_done: int = 0
    begun_s: float | None = None
    is_aborted: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to say."""
        return self.num_done >= self.num_output

    def next_token(self) -> TokenDelta:
        """Say the next one."""
        self.num_done += 1
        finish = FinishReason.STOP if self.is_over else None
        return TokenDelta(
            request_id=self.request_id, attempt=0, child=0, position=self.num_done - 1, token_ids=(5,), text="",
            finish_reason=finish,
        )  # fmt: skip

    def released(self) -> AttemptReleased:
        """Nothing of it is held any more."""
        return AttemptReleased(request_id=self.request_id, attempt=0)


@dataclass(slots=True, kw_only=True, eq=False)
class Worker:
    """One worker of either role. ``later`` runs something after so many seconds, ``told`` takes what it reports."""

    info: WorkerInfo
    cost: TaggedCost
    now_s: Callable[[], float]
    later: Later
    told: Told
    dice: random.Random
    prompts: list[Running] = field(default_factory=list)
    rows: list[Running] = field(default_factory=list)
    reserved: dict[RequestId, Running] = field(default_factory=dict)  # computed elsewhere, or on their way
    is_stepping: bool = False
    step_s: float = 0.0
    busy_s: float = 0.0

    def load(self) -> WorkerLoad:
        """What it tells of itself."""
        held = [*self.rows, *self.prompts, *self.reserved.values()]
        used = sum(math.ceil((each.num_prompt + each.num_done) / self.info.block_size) for each in held)
        return WorkerLoad(
            num_running=len(self.rows),
            num_waiting=len(self.prompts) + len(self.reserved),
            waiting_prefill_tokens=sum(each.left for each in self.prompts),
            running_context_tokens=sum(each.num_prompt + each.num_done for each in self.rows),
            free_blocks=self.info.total_blocks - used,
            total_blocks=self.info.total_blocks,
            step_ms=1e3 * self.step_s,
        )

    def compute(self, request: Running) -> None:
        """Take a prompt."""
        self.prompts.append(request)
        self._step()

    def abort(self, request: Running) -> None:
        """Let go of it."""
        request.is_aborted = True
        for held in (self.prompts, self.rows):
            if request in held:
                held.remove(request)
        self.reserved.pop(request.request_id, None)
        self.told(self, (request.released(),), ())

    def _step(self) -> None:
        if self.is_stepping or not (self.prompts or self.rows):
            return
        self.is_stepping = True
        rows, left, num_prompt, complete = list(self.rows), _BATCHED - len(self.rows), 0, list[Running]()
        while self.prompts and left > 0:
            request = self.prompts[0]
            request.begun_s = self.now_s() if request.begun_s is None else request.begun_s
            chunk = min(request.left, left)
            request.left, left, num_prompt = request.left - chunk, left - chunk, num_prompt + chunk
            if request.left:
                break
            complete.append(self.prompts.pop(0))
        seconds = self.cost.seconds(num_prefill_tokens=num_prompt, num_decode_rows=len(rows))
        seconds *= self.dice.uniform(1.0, 1.05)
        self.step_s, self.busy_s = seconds, self.busy_s + seconds
        self.later(seconds, lambda: self._stepped(rows, complete))

    def _stepped(self, rows: Sequence[Running], complete: Sequence[Running]) -> None:
        self.is_stepping = False
        events: list[RequestEvent] = []
        tokens: list[TokenDelta] = []
        for request in rows:
            if request in self.rows:
                tokens.append(request.next_token())
                if request.is_over:
                    self.rows.remove(request)
                    events.append(request.released())
        for request in complete:
            if not request.is_aborted:
                events.append(self._prefill_done(request))
                tokens.append(request.next_token())
                self._go_on(request, events)
        self.told(self, events, tokens)
        self._step()

    def _prefill_done(self, request: Running) -> PrefillDone:
        begun_s = request.begun_s or 0.0
        return PrefillDone(
            request_id=request.request_id, attempt=0, wait_ms=0.0, compute_ms=1e3 * (self.now_s() - begun_s),
            num_cached_tokens=0,
        )  # fmt: skip

    def _go_on(self, request: Running, events: list[RequestEvent]) -> None:
        target = request.decode
        if request.is_over:
            target.reserved.pop(request.request_id, None)
            events.append(request.released())
            if target is not self:
                target.told(target, (request.released(),), ())
        elif target is self:
            self.rows.append(request)
        else:
            self.later(HAND_OVER_S, lambda: self._handed_over(request))

    def _handed_over(self, request: Running) -> None:
        self.told(self, (request.released(),), ())
        if request.decode.reserved.pop(request.request_id, None) is not None:
            request.decode.take_over(request)

    def take_over(self, request: Running) -> None:
        """Its KV is here: decode."""
        self.rows.append(request)
        done = HandoverDone(
            request_id=request.request_id, attempt=0, num_bytes=1, transport="virtual", handover_ms=1e3 * HAND_OVER_S,
            exposed_ms=5.0,
        )  # fmt: skip
        self.told(self, (done,), ())
        self._step()
