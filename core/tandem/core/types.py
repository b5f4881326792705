"""Values that cross components. Frozen, without behaviour beyond small derived properties."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tandem.core.ids import Epoch, RequestId, Tenant, WorkerId


class Role(StrEnum):
    """What a worker does at present."""

    PREFILL = "prefill"
    DECODE = "decode"


class KvSource(StrEnum):
    """Where a decode worker's prompt KV comes from."""

    HANDOVER = "handover"
    LOCAL = "local"


class FinishReason(StrEnum):
    """Why one sequence ended."""

    STOP = "stop"  # a stop token or a stop string
    LENGTH = "length"  # max_tokens, or the context is full
    CANCELLED = "cancelled"


class Outcome(StrEnum):
    """The one terminal state of a request."""

    OK = "ok"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    SHED = "shed"
    FAILED = "failed"


class PriorityClass(StrEnum):
    """Order between requests: interactive before standard before batch."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen. Defaults are greedy decoding.

    The stages are applied in this order: logit bias, penalties, temperature, top-k, top-p, min-p, draw.
    ``temperature == 0`` takes the argmax of the logits after bias and penalties.
    """

    temperature: float = 0.0
    top_k: int = 0  # 0 = off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # over prompt and output tokens
    presence_penalty: float = 0.0  # over output tokens
    frequency_penalty: float = 0.0  # over output tokens
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0  # the router draws one when the caller gives none
    num_logprobs: int | None = None  # None = no logprobs; 0 = only the chosen token's


@dataclass(frozen=True, slots=True, kw_only=True)
class StopParams:
    """When a sequence ends."""

    max_tokens: int
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()  # in addition to the model's own end tokens
    ignore_eos: bool = False
    include_stop: bool = False  # keep the matched stop string in the text


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixPin:
    """Keep the first ``num_tokens`` of a prompt cached for ``ttl_s`` seconds."""

    num_tokens: int
    ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationTask:
    """All a worker needs to run one attempt of one request.

    ``emitted[c]`` are the output tokens child ``c`` has already sent to the client (recovery); the next position of
    child ``c`` is ``len(emitted[c])``. A child in ``done_children`` has ended and must not run again.
    """

    request_id: RequestId
    attempt: int
    tenant: Tenant
    prompt_token_ids: tuple[int, ...]
    num_sequences: int
    sampling: SamplingParams
    stop: StopParams
    emitted: tuple[tuple[int, ...], ...] = ()
    done_children: frozenset[int] = frozenset()
    deadline_left_s: float | None = None
    priority: PriorityClass = PriorityClass.STANDARD
    traceparent: str = ""
    pin: PrefixPin | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """Natural-log probability of one token under the model (after bias and penalties, before temperature)."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionLogprobs:
    """Log-probabilities at one output position: the chosen token and the most likely ones, best first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDelta:
    """New output of one child. ``position`` is the output index of the first of ``token_ids`` (0-based)."""

    request_id: RequestId
    attempt: int
    child: int
    position: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[PositionLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    matched_stop: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoad:
    """What a worker reports about itself, with each step message and each beat."""

    num_running: int = 0  # sequences in the batch
    num_waiting: int = 0  # sequences accepted, not yet running
    waiting_prefill_tokens: int = 0  # prompt tokens accepted and not yet computed
    running_context_tokens: int = 0  # sum of context lengths in the decode batch
    free_blocks: int = 0  # can be had now
    total_blocks: int = 0
    receiving_blocks: int = 0
    cached_blocks: int = 0  # of the prefix cache; those that nobody reads are among ``free_blocks`` too
    pinned_blocks: int = 0  # of the cached ones, those that stay because a request pinned them
    step_ms: float = 0.0  # wall time of the last forward step


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """One registered worker. A new process of the same ``worker_id`` has a new ``epoch``."""

    worker_id: WorkerId
    epoch: Epoch
    role: Role
    address: str  # host:port of the worker's gRPC service
    model: str  # served name
    model_digest: str
    layout_fingerprint: str
    block_size: int
    total_blocks: int
    max_context_tokens: int
    max_sequences: int
    pid: int
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTimings:
    """Where one request's time went, in milliseconds, and what its hand-over moved; None where a phase did not happen.

    TTFT = tokenize + queue + prefill (P sends the first token at once, so the hand-over is not part of it).
    """

    tokenize_ms: float | None = None
    queue_ms: float | None = None
    prefill_ms: float | None = None
    handover_ms: float | None = None  # after the prefill: what streaming KV during it could not hide
    first_decode_ms: float | None = None  # from commit at D to D's first token
    ttft_ms: float | None = None
    total_ms: float | None = None
    handover_bytes: int | None = None  # KV that went from P to D
    handover_skipped_bytes: int | None = None  # … that did not, because D had it in its cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts for accounting."""

    prompt_tokens: int
    cached_tokens: int  # of the prompt: their KV was there already
    output_tokens: int
    pinned_tokens: int = 0  # of the prompt: kept cached because the request asked for it
    prompt_computed: bool = True  # to its end, or it was cached; a request that failed before has cost no prompt

    @property
    def uncached_tokens(self) -> int:
        """Prompt tokens that were computed."""
        return max(self.prompt_tokens - self.cached_tokens, 0) if self.prompt_computed else 0
