"""What router and workers say to each other on the Attach stream, as plain values (the codec in ``tandem.rpc`` maps
them to protobuf).

Every message about a request carries (request_id, attempt); a receiver drops what names another attempt than its own.
"""

from dataclasses import dataclass

from tandem.core.ids import Epoch, RequestId
from tandem.core.types import GenerationTask, KvSource, Role, TokenDelta, WorkerLoad

PROTOCOL_VERSION = 1
"""Version of the Attach protocol; router and workers of one cluster speak the same."""

# --- router → worker ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First message on the stream, once: who attaches."""

    router_id: str
    protocol_version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class StartPrefill:
    """To P: compute the prompt's KV, sample the first token of each child, hand over when a grant comes.

    With ``reuse_attempt`` P computes nothing: it hands over what it still holds of that earlier attempt of the same
    task, and fails the attempt with KV_NOT_HELD when it holds nothing of it any more.
    """

    task: GenerationTask
    reuse_attempt: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveDecode:
    """To D: reserve a slot and blocks; with LOCAL, also compute the prompt here."""

    task: GenerationTask
    source: KvSource


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardGrant:
    """To P: D's grant, opaque to the router (``tandem.kvtransfer`` makes and reads it)."""

    request_id: RequestId
    attempt: int
    grant: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """To anyone, idempotent: stop working on this attempt and free everything it holds.

    ``child`` limits it to one sequence.
    """

    request_id: RequestId
    attempt: int
    reason: str
    child: int | None = None


Command = StartPrefill | ReserveDecode | ForwardGrant | Abort
AttachCommand = Hello | Command

# --- worker → router ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """From D: blocks are reserved. ``grant`` is empty when the prompt is computed locally."""

    request_id: RequestId
    attempt: int
    grant: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillDone:
    """From whoever prefilled: the prompt is computed and the first tokens were sampled."""

    request_id: RequestId
    attempt: int
    wait_ms: float  # from arrival at the worker to the first forward step with this request
    compute_ms: float  # from there to the sampled first token
    num_cached_tokens: int
    num_pinned_tokens: int = 0  # kept cached because the task asked for it


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoverDone:
    """From D: the KV is complete and verified; decoding begins."""

    request_id: RequestId
    attempt: int
    num_bytes: int
    transport: str
    handover_ms: float  # from the grant to the verified seal, on D's clock
    exposed_ms: float  # the part after P sealed: what streaming during prefill could not hide
    num_skipped_blocks: int = 0  # D had them in its cache: they were not sent
    num_skipped_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed:
    """From any worker: this attempt (or this child of it) can't go on here; nothing of it is held any more.

    With ``held`` only its hand-over failed: P keeps what it computed for a short time, for a StartPrefill with
    ``reuse_attempt``, and says AttemptReleased (or AttemptFailed again) when that is over.
    """

    request_id: RequestId
    attempt: int
    reason: str  # upper snake case, from tandem.core.reasons
    message: str
    retryable: bool
    child: int | None = None
    held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptReleased:
    """From any worker: nothing of this attempt is held here any more (after an Abort, a finish, a hand-over)."""

    request_id: RequestId
    attempt: int


RequestEvent = Granted | PrefillDone | HandoverDone | AttemptFailed | AttemptReleased


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One message per engine step: everything that happened, for all requests of this router.

    Receivers apply ``events`` in order, and those before ``tokens``.
    """

    worker_epoch: Epoch
    sequence: int  # +1 per report on this stream
    tokens: tuple[TokenDelta, ...] = ()
    events: tuple[RequestEvent, ...] = ()
    load: WorkerLoad | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """Sign of life, once a second, from a thread of its own: a long forward step must not look like death."""

    worker_epoch: Epoch
    role: Role
    draining: bool
    load: WorkerLoad
    step_age_ms: float  # how long the current forward step has been running; 0 when idle


WorkerMessage = StepReport | Beat
