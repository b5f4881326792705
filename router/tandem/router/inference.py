"""The public services: generate, stream, tokenize, detokenize, models. No policy; errors are Tandem's."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from tandem.core import reasons
from tandem.core.cache import Flushed
from tandem.core.clock import Clock
from tandem.core.errors import Cancelled, DeadlineExceeded, TandemError
from tandem.core.inference import (
    DetokenizeRequest,
    GenerateRequest,
    Generation,
    ModelCard,
    StreamEvent,
    TokenizeRequest,
)
from tandem.router.cache.desk import CacheDesk
from tandem.router.cache.naming import PromptNaming
from tandem.router.client_stream import ClientStream, Collector, Sink, StreamBounds
from tandem.router.decisions.log import DecisionLog
from tandem.router.decisions.refused import note_refusal
from tandem.router.dispatcher import Dispatcher
from tandem.router.idempotency import Claim, IdempotencyKeys
from tandem.router.intake import Intake
from tandem.router.tracing import Tracing
from tandem.router.traffic import TrafficMeter
from tandem.router.write_gate import WriteGate
from tandem.rpc.context import CallContext


class InferenceFront:
    """Handler of InferenceService and ModelService."""

    def __init__(
        self,
        *,
        intake: Intake,
        dispatcher: Dispatcher,
        bounds: StreamBounds,
        clock: Clock,
        tracing: Tracing,
        gate: WriteGate,
        keys: IdempotencyKeys,
        naming: PromptNaming,
        cache: CacheDesk,
        meter: TrafficMeter,
        decisions: DecisionLog | None = None,
    ) -> None:
        self._intake = intake
        self._dispatcher = dispatcher
        self._bounds = bounds
        self._clock = clock
        self._tracing = tracing
        self._gate = gate
        self._keys = keys
        self._naming = naming
        self._cache = cache
        self._meter = meter
        self._decisions = decisions

    async def generate(self, request: GenerateRequest, call: CallContext) -> Generation:
        """Run a request to its end."""
        sink = Collector(call.request_id, max(request.num_sequences, 0))
        with self._claimed(request, call) as claim:
            await self._submit(request, call, sink)
            try:
                answer = await sink.result()
                self._note_answer(claim)
                return answer
            finally:
                self._dispatcher.cancel(call.request_id)

    async def stream_generate(self, request: GenerateRequest, call: CallContext) -> AsyncIterator[StreamEvent]:
        """Run a request and yield its events. Leaving the iterator cancels the request."""
        task = asyncio.current_task()
        give_up = task.cancel if task is not None else None
        sink = ClientStream(call.request_id, self._bounds, gate=self._gate, on_overflow=give_up)
        with self._claimed(request, call) as claim:
            await self._submit(request, call, sink)
            try:
                while True:
                    await sink.wait()
                    taken = sink.take()
                    for event in taken.events:
                        yield event
                    if taken.ended is not None:
                        if taken.ended.error is not None:
                            raise taken.ended.error
                        self._note_answer(claim)
                        return
            finally:
                self._dispatcher.cancel(call.request_id)
                if sink.overflowed:
                    # Whoever waited on a write to a slow caller was cancelled by the overflow: it gets the reason.
                    if task is not None:
                        task.uncancel()
                    raise sink.error or Cancelled("the caller reads too slowly", reason=reasons.SLOW_CONSUMER)

    async def tokenize(self, request: TokenizeRequest, call: CallContext) -> Sequence[int]:
        """Tokens of a text or a conversation."""
        return await self._intake.tokenize(request)

    async def detokenize(self, request: DetokenizeRequest, call: CallContext) -> str:
        """Text of tokens."""
        return await self._intake.detokenize(request)

    async def flush_prefix_cache(self, call: CallContext) -> Flushed:
        """Forget every cached prefix of the caller's tenant."""
        return await self._cache.flush_prefix_cache(call.tenant, call)

    async def list_models(self, call: CallContext) -> Sequence[ModelCard]:
        """The one served model."""
        return [self._intake.model.card]

    async def get_model(self, name: str, call: CallContext) -> ModelCard:
        """One model. Raises NotFound."""
        self._intake.model.require(name)
        return self._intake.model.card

    @contextmanager
    def _claimed(self, request: GenerateRequest, call: CallContext) -> Iterator[Claim | None]:
        """Hold the request's idempotency key while it runs."""
        claim = None
        try:
            claim = self._keys.claim(request, tenant=call.tenant, request_id=call.request_id, now_s=self._clock.now_s())
            yield claim
        except TandemError as error:
            error.metadata.setdefault("tokens_emitted", "0")  # what fails before it is taken has emitted nothing
            note_refusal(self._decisions, call, request.priority, error)
            raise
        finally:
            if claim is not None:
                self._keys.release(claim)

    def _note_answer(self, claim: Claim | None) -> None:
        if claim is not None:
            self._keys.answered(claim, self._clock.now_s())

    async def _submit(self, request: GenerateRequest, call: CallContext, sink: Sink) -> None:
        arrived_s = self._clock.now_s()
        deadline_s = None if call.deadline_left_s is None else arrived_s + call.deadline_left_s
        if call.deadline_left_s is not None and call.deadline_left_s <= 0.0:
            raise DeadlineExceeded("the deadline had passed when the request arrived", stage="arrival")
        self._dispatcher.admitting.turn_away(
            call.request_id, call.tenant, request.priority, caller_attempt=call.attempt, now_s=arrived_s
        )
        prepared = await self._intake.prepare(request, request_id=call.request_id, tenant=call.tenant)
        names = await self._naming.names_of(prepared.task)
        if deadline_s is not None and self._clock.now_s() >= deadline_s:
            raise DeadlineExceeded("the deadline passed while the prompt was read", stage="tokenize")
        task = self._tracing.begin(prepared.task, parent=call.traceparent, label=request.label)
        try:
            self._dispatcher.submit(
                task,
                self._meter.watch(sink, task, arrived_s=arrived_s),
                deadline_s=deadline_s,
                arrived_s=arrived_s,
                tokenize_ms=prepared.tokenize_ms,
                names=names,
                caller_attempt=call.attempt,
            )
        except TandemError as error:
            self._tracing.refuse(task.request_id, error.reason)
            raise
