"""Small values the router's unit tests build on."""

from tandem.core.ids import Epoch, RequestId, Tenant, WorkerId
from tandem.core.latency import LatencyCoefficients, LatencyModel
from tandem.core.types import (
    FinishReason,
    GenerationTask,
    PriorityClass,
    Role,
    SamplingParams,
    StopParams,
    TokenDelta,
    WorkerInfo,
)
from tandem.router.actions import WorkerKey
from tandem.router.admission.pressure import BrownOut
from tandem.router.admission.terms import AdmissionCause, AdmissionDecision
from tandem.router.live import Admitted
from tandem.router.placement import WorkerView
from tandem.router.queue import QueueEntry

REQUEST = RequestId("r" * 32)


def key(name: str, epoch: int = 1) -> WorkerKey:
    return WorkerKey(worker_id=WorkerId(name), epoch=Epoch(epoch))


P, D, P2, D2 = key("prefill-0"), key("decode-0"), key("prefill-1"), key("decode-1")


def make_task(
    *,
    request_id: RequestId = REQUEST,
    n: int = 1,
    max_tokens: int = 8,
    prompt: int = 10,
    tenant: str = "local",
    priority: PriorityClass = PriorityClass.STANDARD,
) -> GenerationTask:
    return GenerationTask(
        request_id=request_id,
        attempt=0,
        tenant=Tenant(tenant),
        prompt_token_ids=tuple(range(prompt)),
        num_sequences=n,
        sampling=SamplingParams(),
        stop=StopParams(max_tokens=max_tokens),
        priority=priority,
    )


def make_delta(
    position: int,
    *,
    child: int = 0,
    attempt: int = 0,
    num_tokens: int = 1,
    finish: FinishReason | None = None,
    request_id: RequestId = REQUEST,
    text: str | None = None,
) -> TokenDelta:
    positions = range(position, position + num_tokens)
    return TokenDelta(
        request_id=request_id,
        attempt=attempt,
        child=child,
        position=position,
        token_ids=tuple(token_of(child, p) for p in positions),
        text="".join(text_of(child, p) for p in positions) if text is None else text,
        finish_reason=finish,
    )


def token_of(child: int, position: int) -> int:
    return 1000 * child + position


def text_of(child: int, position: int) -> str:
    """Of varying length, sometimes empty: as when half a character is held back."""
    return "" if position % 5 == 3 else f"{position}." * (1 + position % 3)


def make_info(name: str, role: Role, *, epoch: int = 1, total_blocks: int = 1000, max_sequences: int = 8) -> WorkerInfo:
    return WorkerInfo(
        worker_id=WorkerId(name),
        epoch=Epoch(epoch),
        role=role,
        address="127.0.0.1:1",
        model="m",
        model_digest="d",
        layout_fingerprint="l",
        block_size=16,
        total_blocks=total_blocks,
        max_context_tokens=4096,
        max_sequences=max_sequences,
        pid=1,
        host="h",
    )


def make_view(
    name: str,
    role: Role,
    *,
    num_sequences: int = 0,
    free_blocks: int = 1000,
    total_blocks: int = 1000,
    max_sequences: int = 8,
    context_tokens: int = 0,
    queued_prefill_s: float = 0.0,
    layout: str = "l",
) -> WorkerView:
    return WorkerView(
        key=key(name),
        role=role,
        model=LatencyModel(coefficients=LatencyCoefficients(prefill=(0.01, 1e-3, 0.0), step=(0.02, 1e-3, 1e-6))),
        block_size=16,
        total_blocks=total_blocks,
        free_blocks=free_blocks,
        max_sequences=max_sequences,
        num_sequences=num_sequences,
        context_tokens=context_tokens,
        queued_prefill_s=queued_prefill_s,
        layout_fingerprint=layout,
    )


class SteppedClock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.time_s = 100.0

    def now_s(self) -> float:
        return self.time_s


def make_admitted(task: GenerationTask, entry: QueueEntry) -> Admitted:
    """Taken because nothing was ahead."""
    decision = AdmissionDecision(
        request_id=task.request_id,
        tenant=task.tenant,
        priority=task.priority,
        attempt=0,
        cause=AdmissionCause.ROOM,
        cost_tokens=entry.cost_tokens,
        num_queued=0,
        load_level=0.0,
        brown_out=BrownOut.NONE,
    )
    return Admitted(task=task, entry=entry, decision=decision, limit_tokens=0.0)
