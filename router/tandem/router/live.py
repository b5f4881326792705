"""What the dispatcher keeps per request, and what placing one asks of workers. Zero I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tandem.core.types import GenerationTask
from tandem.router.actions import Pair, WorkerKey
from tandem.router.admission.cost import request_cost
from tandem.router.admission.terms import AdmissionDecision, AdmissionPolicy
from tandem.router.cache.names import PromptNames
from tandem.router.client_stream import Sink
from tandem.router.credits import Charge
from tandem.router.ledger import RequestLedger
from tandem.router.lengths import OutputLengths
from tandem.router.pairs import PairPolicy
from tandem.router.placement import CachedPrefix, Demand, Placement, PlacementPolicy
from tandem.router.queue import QueueEntry
from tandem.router.recovery import RecoveryPolicy
from tandem.router.sharing import SharingPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class OvertakingPolicy:
    """How far to look beyond the head of the queue while it waits for one prefill worker; see ``overtaking``."""

    max_look: int = 8
    max_overtakes: int = 1024  # of any one head


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatcherPolicy:
    """Bounds and knobs of the parts the dispatcher joins."""

    placement: PlacementPolicy = field(default_factory=PlacementPolicy)
    overtaking: OvertakingPolicy = field(default_factory=OvertakingPolicy)
    sharing: SharingPolicy = field(default_factory=SharingPolicy)
    recovery: RecoveryPolicy = field(default_factory=RecoveryPolicy)
    pairs: PairPolicy = field(default_factory=PairPolicy)
    admission: AdmissionPolicy = field(default_factory=AdmissionPolicy)
    max_queue_wait_s: float = 120.0
    no_worker_wait_s: float = 15.0
    keep_alive_s: float = 5.0
    gap_timeout_s: float = 6.0


def entry_of(
    task: GenerationTask,
    *,
    expected_tokens: int,
    work_s: float,
    deadline_s: float | None,
    arrived_s: float,
    num_cached_tokens: int = 0,
    kv_tokens: int = 0,
) -> QueueEntry:
    """What the queue has to know of a request; ``expected_tokens`` are those of all its sequences."""
    return QueueEntry(
        request_id=task.request_id,
        tenant=task.tenant,
        priority=task.priority,
        cost_tokens=request_cost(len(task.prompt_token_ids), expected_tokens, num_cached_tokens=num_cached_tokens),
        work_s=work_s,
        deadline_s=deadline_s,
        arrived_s=arrived_s,
        num_sequences=task.num_sequences,
        kv_tokens=kv_tokens,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A request that was taken: as it is served, as it waits, and why."""

    task: GenerationTask
    entry: QueueEntry
    decision: AdmissionDecision
    limit_tokens: float  # charged to its tenant's token limit, until it is settled


@dataclass(frozen=True, slots=True)
class CachedThen:
    """What the workers held of a request's prompt when it was last looked up."""

    cached: Mapping[WorkerKey, CachedPrefix]
    at_s: float


@dataclass(slots=True, kw_only=True, eq=False)
class Live:
    """One request that has not ended."""

    ledger: RequestLedger
    sink: Sink
    entry: QueueEntry
    admitted: Admitted
    admitted_s: float
    arrived_s: float
    last_put_s: float
    waiting_since_s: float  # in the queue, for the present attempt
    avoid: frozenset[WorkerKey] = frozenset()
    avoid_pairs: frozenset[Pair] = frozenset()
    placement: Placement | None = None
    names: PromptNames | None = None  # of its prompt's blocks; None = nothing can be cached
    cached_then: CachedThen | None = None
    dispatched_s: float | None = None  # the last attempt
    has_yielded: bool = False


def open_live(
    ledger: RequestLedger, sink: Sink, admitted: Admitted, *, now_s: float, names: PromptNames | None
) -> Live:
    """A request that was admitted just now."""
    return Live(
        ledger=ledger,
        sink=sink,
        entry=admitted.entry,
        admitted=admitted,
        admitted_s=now_s,
        arrived_s=admitted.entry.arrived_s,
        last_put_s=now_s,
        waiting_since_s=now_s,
        names=names,
    )


def demand_of(
    task: GenerationTask, *, avoid: frozenset[WorkerKey], avoid_pairs: frozenset[Pair], lengths: OutputLengths
) -> Demand:
    """What the next attempt of ``task`` needs; tokens emitted before count as prompt."""
    num_emitted = max((len(tokens) for tokens in task.emitted), default=0)
    left = max(task.stop.max_tokens - num_emitted, 1)
    return Demand(
        num_prompt_tokens=len(task.prompt_token_ids) + num_emitted,
        num_sequences=task.num_sequences - len(task.done_children),
        growth_tokens=lengths.expected_tokens(task.tenant, left),
        avoid=avoid,
        avoid_pairs=avoid_pairs,
        only_local=num_emitted > 0 and task.num_sequences > 1,
    )


def charges_of(demand: Demand, placement: Placement) -> dict[WorkerKey, Charge]:
    """What a placement adds to the in-flight estimates: the prompt where it is computed, the rest at D."""
    local = placement.prefill is None
    held = Charge(
        prefill_s=placement.predicted_prefill_s if local else 0.0,
        prefill_tokens=demand.num_prompt_tokens if local else 0,
        num_sequences=demand.num_sequences,
        num_blocks=placement.num_blocks,
        context_tokens=demand.num_sequences * demand.num_prompt_tokens,
    )
    charges = {placement.decode: held}
    if placement.prefill is not None:
        charges[placement.prefill] = Charge(
            prefill_s=placement.predicted_prefill_s, prefill_tokens=demand.num_prompt_tokens
        )
    return charges
