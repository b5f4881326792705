"""What a caller asks for and what it gets back: the public vocabulary of generation, shared by client and router.

An option that is None was not given: the server decides. Ids in here are made by the server; ``label`` is the caller's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tandem.core.ids import RequestId, WorkerId
from tandem.core.types import ChatMessage, FinishReason, PhaseTimings, PositionLogprobs, PriorityClass, Usage

TemplateValue = str | int | float | bool

# --- what is asked for -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPrompt:
    """Text, tokenised by the server."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrompt:
    """Token ids, taken as they are."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt:
    """A conversation, rendered by the model's own chat template."""

    messages: tuple[ChatMessage, ...]
    template_variables: Mapping[str, TemplateValue] = field(default_factory=dict)
    add_generation_prompt: bool = True


Prompt = TextPrompt | TokenPrompt | ChatPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """The sampling fields a caller set; see ``SamplingParams`` for their meaning."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    num_logprobs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePin:
    """Keep the start of the prompt cached for ``ttl_s`` seconds, for later requests that begin with it.

    The first ``num_tokens`` tokens, or the first ``num_messages`` messages of a conversation; neither = all of it.
    """

    ttl_s: float
    num_tokens: int | None = None
    num_messages: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One request, for a single answer or a stream."""

    prompt: Prompt
    model: str = ""  # "" = the only one served
    num_sequences: int = 1
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop: bool = False
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    priority: PriorityClass = PriorityClass.STANDARD
    label: str = ""
    idempotency_key: str = ""  # "" = none: the same call made again is another request
    cache_pin: CachePin | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeRequest:
    """Asks for the tokens of a text or a conversation."""

    prompt: TextPrompt | ChatPrompt
    model: str = ""
    add_special_tokens: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DetokenizeRequest:
    """Asks for the text of tokens."""

    token_ids: tuple[int, ...]
    model: str = ""
    skip_special_tokens: bool = True


# --- what comes back ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedBy:
    """Which workers served a request at its end; the same one twice when the prompt was computed where it decoded."""

    prefill_worker: WorkerId
    decode_worker: WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedSequence:
    """One finished output. ``logprobs`` has one entry per token when asked for, else none."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    matched_stop: str | None = None
    logprobs: tuple[PositionLogprobs, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """The answer to one request: ``sequences`` are ordered by index, one per requested sequence."""

    request_id: RequestId
    sequences: tuple[GeneratedSequence, ...]
    usage: Usage
    timings: PhaseTimings
    workers: ServedBy
    attempts: int = 1

    @property
    def text(self) -> str:
        """Text of the first sequence."""
        return self.sequences[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Tokens of the first sequence."""
        return self.sequences[0].token_ids

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first sequence ended."""
        return self.sequences[0].finish_reason


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStarted:
    """First event of a stream: the request was accepted and its prompt read."""

    request_id: RequestId
    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDelta:
    """New output of sequence ``index``; ``position`` is the output index of the first of ``token_ids`` (0-based)."""

    index: int
    position: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[PositionLogprobs, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceFinished:
    """Sequence ``index`` ended."""

    index: int
    finish_reason: FinishReason
    matched_stop: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCompleted:
    """Last event of a stream that did not fail."""

    usage: Usage
    timings: PhaseTimings
    workers: ServedBy
    attempts: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAlive:
    """Nothing happened for a while; the request is alive."""


StreamEvent = StreamStarted | OutputDelta | SequenceFinished | StreamCompleted | KeepAlive


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One served model."""

    name: str
    digest: str
    max_context_tokens: int
    vocab_size: int
    has_chat_template: bool
    eos_token_ids: tuple[int, ...] = ()
