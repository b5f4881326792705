"""The callers of `benchmarks.overload` on virtual time: the same shape, patience and retries, the SDK's own policy."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.overload_callers import VOCABULARY, Attempt, Caller, Shape
from benchmarks.overload_sim.world import VirtualRouter
from tandem.client.retry import RetryBudget, next_retry
from tandem.core.errors import TandemError
from tandem.core.ids import RequestId, Tenant
from tandem.core.types import GenerationTask, PriorityClass, SamplingParams, StopParams, TokenDelta
from tandem.router.actions import Ended, Started

_ANY_NUMBER = 1000


@dataclass(slots=True, kw_only=True, eq=False)
class _Sink:
    """What one attempt gets."""

    callers: "VirtualCallers"
    caller: Caller
    attempt: Attempt
    is_over: bool = False

    def put_started(self, started: Started) -> None:
        """Nothing."""

    def put_delta(self, delta: TokenDelta) -> None:
        """Note the times."""
        now_s = self.callers.world.clock.now_s()
        self.attempt.first_token_s = self.attempt.first_token_s or now_s
        self.attempt.last_token_s = now_s
        self.attempt.num_tokens += len(delta.token_ids)

    def put_ended(self, ended: Ended) -> None:
        """Go on, but not within the router's own step."""
        self.is_over, self.attempt.is_whole = True, ended.error is None
        self.callers.world.later(0.0, partial(self.callers.over, self.caller, self.attempt, ended.error))

    def put_keep_alive(self) -> None:
        """Nothing."""


@dataclass(kw_only=True)
class VirtualCallers:
    """All callers of one tenant."""

    world: VirtualRouter
    shape: Shape
    seed: int
    callers: list[Caller] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._budget = RetryBudget()
        self._closed_until_s = 0.0

    def arrive(self, *, per_s: float, seconds: float) -> Sequence[Caller]:
        """Poisson arrivals for so long. Returns those that came."""
        world, first = self.world, len(self.callers)
        end_s = world.clock.now_s() + seconds
        next_s = world.clock.now_s() + self._dice.expovariate(per_s)
        while next_s < end_s:
            world.run(next_s)
            self._come(is_rude=self._dice.random() < self.shape.rude_share, most_attempts=self.shape.most_attempts)
            next_s += self._dice.expovariate(per_s)
        world.run(end_s)
        return self.callers[first:]

    def saturate(self, *, num_callers: int, seconds: float) -> Sequence[Caller]:
        """So many at a time, each followed by another."""
        first = len(self.callers)
        self._closed_until_s = self.world.clock.now_s() + seconds
        for index in range(num_callers):
            self.world.later(index / num_callers, partial(self._come, is_rude=True, most_attempts=_ANY_NUMBER))
        self.world.run(self._closed_until_s)
        return self.callers[first:]

    def over(self, caller: Caller, attempt: Attempt, error: TandemError | None) -> None:
        """One attempt is over."""
        if error is None:
            self._budget.note_success()
            self._next()
            return
        attempt.reason = attempt.reason or error.reason
        number = len(caller.attempts)
        left_s = caller.arrived_s + self.shape.patience_s - self.world.clock.now_s()
        if caller.is_rude:
            pause_s = 0.1 + 0.4 * self._dice.random() if number < caller.most_attempts else None
        else:
            retry = next_retry(
                error, num_retries_done=number - 1, max_retries=caller.most_attempts - 1, left_s=left_s,
                budget=self._budget, jitter=self._dice.random(),
            )  # fmt: skip
            pause_s = None if retry is None else retry.delay_s
        if pause_s is None or pause_s >= left_s:
            self._next()
        else:
            self.world.later(pause_s, partial(self._ask, caller))

    def _next(self) -> None:
        if self.world.clock.now_s() < self._closed_until_s:
            self._come(is_rude=True, most_attempts=_ANY_NUMBER)

    def _come(self, *, is_rude: bool, most_attempts: int) -> None:
        caller = Caller(
            tenant="a",
            arrived_s=self.world.clock.now_s(),
            num_prompt_tokens=self._dice.randint(*self.shape.prompt_tokens),
            is_rude=is_rude,
            most_attempts=most_attempts,
        )
        self.callers.append(caller)
        self._ask(caller)

    def _ask(self, caller: Caller) -> None:
        world, shape = self.world, self.shape
        now_s = world.clock.now_s()
        attempt = Attempt(began_s=now_s)
        caller.attempts.append(attempt)
        request_id = RequestId(f"{self._dice.getrandbits(128):032x}")
        world.outputs[request_id] = self._length()
        task = GenerationTask(
            request_id=request_id, attempt=0, tenant=Tenant(caller.tenant),
            prompt_token_ids=tuple(range(caller.num_prompt_tokens)), num_sequences=1, sampling=SamplingParams(),
            stop=StopParams(max_tokens=shape.most_tokens), priority=PriorityClass.STANDARD,
        )  # fmt: skip
        sink = _Sink(callers=self, caller=caller, attempt=attempt)
        number = 0 if caller.is_rude else len(caller.attempts) - 1
        try:
            world.dispatcher.submit(
                task, sink, deadline_s=caller.arrived_s + shape.patience_s, arrived_s=now_s, caller_attempt=number
            )
        except TandemError as error:
            attempt.refused_s = 0.0
            self.over(caller, attempt, error)
            return
        world.later(shape.first_token_patience_s, partial(self._lose_patience, sink, request_id))

    def _lose_patience(self, sink: _Sink, request_id: RequestId) -> None:
        if not sink.is_over and sink.attempt.first_token_s is None:
            sink.attempt.reason = "GAVE_UP"
            self.world.dispatcher.cancel(request_id)

    def _length(self) -> int:
        """Geometric, as sampling until one of some tokens comes."""
        share = round(VOCABULARY / self.shape.mean_tokens) / VOCABULARY
        length = 1
        while length < self.shape.most_tokens and self._dice.random() >= share:
            length += 1
        return length
