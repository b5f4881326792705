"""Decisions as records: what a router or a controller chose, why in words, and the numbers behind it. Zero I/O.

One struct per kind of decision, told apart by ``kind``; ``Decision`` is the envelope. The same objects are kept in the
router's memory, written as JSON lines and sent to operators (``tandem.rpc.codec.decisions`` maps them by field name).
No record holds a prompt, an output, a label or a tenant's name: a tenant is a keyed hash (see docs/security.md).
Times are in seconds, and predicted ones come from the one latency model.
"""

from collections.abc import Mapping
from typing import Final

import msgspec


class _Detail(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", gc=False):
    """Base of what one kind of decision knows."""


class Admission(_Detail, frozen=True, kw_only=True, tag="admission"):
    """Whether a request may wait for a worker. ``cause`` is in lower snake case."""

    taken: bool
    cause: str
    client_attempt: int = 0  # how often its caller has tried before
    cost_tokens: float = 0.0
    num_queued: int = 0
    load_level: float = 0.0  # demand over capacity of the fuller stage
    brown_out: int = 0  # steps of the brown-out in force
    wait_s: float | None = None  # predicted; None: decided before anything was predicted
    prefill_wait_s: float | None = None
    slot_wait_s: float | None = None
    block_wait_s: float | None = None
    prefill_s: float | None = None
    error_s: float | None = None  # added for how late predictions were lately
    ttft_s: float | None = None
    bound_s: float | None = None  # on the wait, of its class
    limit_s: float | None = None  # on the time to first token
    retry_after_s: float | None = None
    displaces: str = ""  # request that loses its place


class Waiting(_Detail, frozen=True, kw_only=True, tag="waiting"):
    """A request at the head of the queue can't be placed now. Recorded when the reason changes, not at each look."""

    attempt: int
    num_waiting: int  # others in the queue
    waits_for: str = ""  # the one worker it waits for


class PrefillCandidate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A prefill worker that was looked at."""

    worker: str
    queued_s: float  # work before it
    compute_s: float  # its own prompt, without what is cached
    delay_s: float  # what its work costs those behind it; counts in the choice
    cached_tokens: int
    cost_s: float  # what was compared: queued + compute + delay


class DecodeCandidate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A decode worker with room that was looked at."""

    worker: str
    num_sequences: int
    free_blocks: int
    cached_tokens: int
    step_s: float  # with the request's sequences added, and the hand-over spread over its tokens
    handover_s: float
    local_s: float  # time to first token if it computed the prompt itself, with the harm to what it runs


class Placed(_Detail, frozen=True, kw_only=True, tag="placement"):
    """An attempt went to a pair, or to a decode worker alone (``prefill`` is empty). Candidates: the best first."""

    attempt: int
    cause: str
    decode: str
    prefill: str = ""
    prompt_tokens: int
    num_sequences: int
    growth_tokens: int  # expected output per sequence
    waited_s: float
    num_waiting: int  # others in the queue
    predicted_ttft_s: float  # from the dispatch
    predicted_prefill_s: float
    predicted_handover_s: float = 0.0
    cached_tokens: int = 0  # believed to be at the worker that computes
    num_blocks: int = 0
    prefills: tuple[PrefillCandidate, ...] = ()
    decodes: tuple[DecodeCandidate, ...] = ()
    num_prefills: int = 0  # looked at, listed or not
    num_decodes: int = 0
    avoided: tuple[str, ...] = ()
    own_prefill: str = ""  # what this router would have chosen without the others' reservations; empty = not asked
    asked_s: float = 0.0  # how long they were waited for


class Recovery(_Detail, frozen=True, kw_only=True, tag="recovery"):
    """An attempt failed, and another one is made. ``cause`` is a reason in upper snake case."""

    failed_attempt: int
    cause: str
    worker: str = ""  # who failed, or told of it
    lost: bool = False  # that worker died, or its stream broke
    emitted_tokens: int = 0  # which the caller has already: the answer goes on after them
    keeps_kv: bool = False  # the prefill worker still holds what it computed
    pause_s: float = 0.0
    avoid: tuple[str, ...] = ()
    avoid_pairs: tuple[str, ...] = ()


class HandoverFailed(_Detail, frozen=True, kw_only=True, tag="handover"):
    """A hand-over failed; the breaker of the pair judges it."""

    prefill: str
    decode: str
    cause: str
    state: str = ""  # of the pair from now on


class WorkerJudged(_Detail, frozen=True, kw_only=True, tag="worker"):
    """What the router believes of a worker from now on."""

    worker: str
    worker_epoch: int
    health: str


class Finished(_Detail, frozen=True, kw_only=True, tag="end"):
    """A request is over: its outcome, and predicted against measured. Milliseconds as in ``PhaseTimings``."""

    outcome: str
    cause: str = ""  # of a failure, in upper snake case
    num_attempts: int = 0
    prefill: str = ""
    decode: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    predicted_ttft_s: float | None = None  # of its first placement, from the dispatch
    predicted_prefill_s: float | None = None
    tokenize_ms: float | None = None
    queue_ms: float | None = None
    prefill_ms: float | None = None
    handover_ms: float | None = None
    first_decode_ms: float | None = None
    ttft_ms: float | None = None
    total_ms: float | None = None
    handover_bytes: int | None = None
    handover_skipped_bytes: int | None = None


class ControllerRound(_Detail, frozen=True, kw_only=True, tag="controller"):
    """One round of a controller: what it saw, wanted, held back and did. Splits are prefill : decode workers."""

    term: int
    policy: str
    verdict: str  # move, advise, hold, freeze, off
    current_prefill: int
    current_decode: int
    wished_prefill: int | None = None
    wished_decode: int | None = None
    move: str = ""  # in words; empty: none
    borrow_share: float = 0.0
    clamps: tuple[str, ...] = ()
    numbers: Mapping[str, float] = {}


Detail = (
    Admission | Waiting | Placed | Recovery | HandoverFailed | WorkerJudged | Finished | ControllerRound
)  # closed: the codec and the words know each of them
DETAILS: Final[Mapping[str, type[_Detail]]] = {
    "admission": Admission,
    "waiting": Waiting,
    "placement": Placed,
    "recovery": Recovery,
    "handover": HandoverFailed,
    "worker": WorkerJudged,
    "end": Finished,
    "controller": ControllerRound,
}
"""Kinds of decisions, by the name they have in filters, on the wire and in files."""

KINDS: Final = tuple(DETAILS)


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One decision. ``sequence`` counts the decisions of one life of one router, from 1."""

    sequence: int
    unix_s: float
    source: str  # router or controller that decided
    reason: str  # in words
    detail: Detail
    request_id: str = ""  # empty: about no single request
    tenant_hash: str = ""
    priority: str = ""

    @property
    def kind(self) -> str:
        """Name of the kind."""
        return str(type(self.detail).__struct_config__.tag)


class DecisionFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which decisions are wanted; what is empty or None does not filter. ``tenant`` is a name or a hash."""

    kinds: tuple[str, ...] = ()
    request_id: str = ""
    tenant: str = ""
    since_unix_s: float | None = None
    limit: int = 100


class DecisionPage(msgspec.Struct, frozen=True, kw_only=True):
    """Decisions in the order they were made, the latest ``limit`` of those that match."""

    decisions: tuple[Decision, ...] = ()
    num_forgotten: int = 0  # made by this life of the router and no longer in its memory
    num_unwritten: int = 0  # that the file lost, because its queue was full or the disk failed
