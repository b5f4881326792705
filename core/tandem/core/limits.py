"""The one static limits object, and the checks every front end *and* every worker make with it.

Zero I/O. The router checks a request to refuse it early with a good message; a worker checks the same task again,
because what comes over an internal socket is input too.
"""

import math
from dataclasses import dataclass

from tandem.core.errors import InvalidArgument
from tandem.core.types import GenerationTask, SamplingParams, StopParams


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """Upper bounds on one request. Every field is inclusive."""

    max_prompt_bytes: int = 256 * 1024
    max_messages: int = 1024
    max_sequences: int = 8
    max_stop_strings: int = 16
    max_stop_string_bytes: int = 64
    max_stop_token_ids: int = 64
    max_logit_bias: int = 300
    max_abs_logit_bias: float = 100.0
    max_logprobs: int = 20
    max_temperature: float = 10.0
    max_penalty: float = 10.0
    max_label_bytes: int = 256
    max_request_bytes: int = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What the served model itself allows."""

    vocab_size: int
    max_context_tokens: int


def _require(holds: bool, field: str, problem: str, remedy: str) -> None:
    if not holds:
        raise InvalidArgument(field, problem, remedy=remedy)


def _require_between(value: float, field: str, low: float, high: float) -> None:
    # A NaN fails both comparisons, so it is caught here as well.
    _require(low <= value <= high, field, f"is {value}", f"use a value from {low:g} to {high:g}")


def check_sampling(sampling: SamplingParams, model: ModelLimits, limits: RequestLimits) -> None:
    """Raise InvalidArgument naming the first sampling field that is out of range."""
    _require_between(sampling.temperature, "sampling.temperature", 0.0, limits.max_temperature)
    _require_between(sampling.top_k, "sampling.top_k", 0, model.vocab_size)
    _require(0.0 < sampling.top_p <= 1.0, "sampling.top_p", f"is {sampling.top_p}", "use a value above 0 and up to 1")
    _require_between(sampling.min_p, "sampling.min_p", 0.0, 1.0)
    _require(
        0.0 < sampling.repetition_penalty <= limits.max_penalty,
        "sampling.repetition_penalty",
        f"is {sampling.repetition_penalty}",
        f"use a value above 0 and up to {limits.max_penalty:g} (1 = off)",
    )
    _require_between(sampling.presence_penalty, "sampling.presence_penalty", -limits.max_penalty, limits.max_penalty)
    _require_between(sampling.frequency_penalty, "sampling.frequency_penalty", -limits.max_penalty, limits.max_penalty)
    _require_between(sampling.seed, "sampling.seed", 0, 2**64 - 1)
    if sampling.num_logprobs is not None:
        _require_between(sampling.num_logprobs, "sampling.logprobs", 0, min(limits.max_logprobs, model.vocab_size))
    _require(
        len(sampling.logit_bias) <= limits.max_logit_bias,
        "sampling.logit_bias",
        f"has {len(sampling.logit_bias)} entries",
        f"use at most {limits.max_logit_bias}",
    )
    for token_id, bias in sampling.logit_bias.items():
        _require_between(token_id, "sampling.logit_bias (token id)", 0, model.vocab_size - 1)
        _require(
            math.isfinite(bias) and abs(bias) <= limits.max_abs_logit_bias,
            f"sampling.logit_bias[{token_id}]",
            f"is {bias}",
            f"use a value from -{limits.max_abs_logit_bias:g} to {limits.max_abs_logit_bias:g}",
        )


def check_stop(stop: StopParams, model: ModelLimits, limits: RequestLimits) -> None:
    """Raise InvalidArgument naming the first stop field that is out of range."""
    _require(stop.max_tokens >= 1, "max_tokens", f"is {stop.max_tokens}", "ask for at least 1 token")
    _require(
        len(stop.stop) <= limits.max_stop_strings,
        "stop",
        f"has {len(stop.stop)} strings",
        f"use at most {limits.max_stop_strings}",
    )
    for index, text in enumerate(stop.stop):
        _require(bool(text), f"stop[{index}]", "is empty", "leave it out")
        size_bytes = len(text.encode("utf-8", errors="surrogatepass"))
        _require(
            size_bytes <= limits.max_stop_string_bytes,
            f"stop[{index}]",
            f"is {size_bytes} bytes long",
            f"use at most {limits.max_stop_string_bytes} bytes",
        )
    _require(
        len(stop.stop_token_ids) <= limits.max_stop_token_ids,
        "stop_token_ids",
        f"has {len(stop.stop_token_ids)} ids",
        f"use at most {limits.max_stop_token_ids}",
    )
    for token_id in stop.stop_token_ids:
        _require_between(token_id, "stop_token_ids", 0, model.vocab_size - 1)


def check_task(task: GenerationTask, model: ModelLimits, limits: RequestLimits) -> None:
    """Raise InvalidArgument naming the first field of ``task`` that can't be served by ``model``."""
    num_prompt = len(task.prompt_token_ids)
    _require(num_prompt > 0, "prompt", "is empty", "send at least one token")
    _require(
        num_prompt < model.max_context_tokens,
        "prompt",
        f"has {num_prompt} tokens",
        f"this model's context holds {model.max_context_tokens} tokens, at least one of them for the answer",
    )
    low, high = min(task.prompt_token_ids), max(task.prompt_token_ids)
    bad = low if low < 0 else high
    _require(
        low >= 0 and high < model.vocab_size,
        "prompt.token_ids",
        f"holds the id {bad}",
        f"ids of this model go from 0 to {model.vocab_size - 1}",
    )
    _require_between(task.num_sequences, "n", 1, limits.max_sequences)
    check_stop(task.stop, model, limits)
    _require(
        num_prompt + task.stop.max_tokens <= model.max_context_tokens,
        "max_tokens",
        f"is {task.stop.max_tokens} after a prompt of {num_prompt} tokens",
        f"ask for at most {model.max_context_tokens - num_prompt}: the context holds {model.max_context_tokens} tokens",
    )
    check_sampling(task.sampling, model, limits)
    _check_emitted(task, model)


def _check_emitted(task: GenerationTask, model: ModelLimits) -> None:
    _require(
        len(task.emitted) in (0, task.num_sequences),
        "emitted",
        f"lists {len(task.emitted)} sequences",
        f"list all {task.num_sequences} or none",
    )
    for child, tokens in enumerate(task.emitted):
        _require(
            len(tokens) <= task.stop.max_tokens and all(0 <= t < model.vocab_size for t in tokens),
            f"emitted[{child}]",
            "has too many tokens or an id out of range",
            "send back exactly the tokens that were emitted",
        )
