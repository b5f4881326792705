"""From what a caller writes to request values, with checks that name the argument."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict, Unpack

from tandem.core.errors import InvalidArgument
from tandem.core.inference import (
    CachePin,
    ChatPrompt,
    GenerateRequest,
    Prompt,
    SamplingOptions,
    TemplateValue,
    TextPrompt,
    TokenizeRequest,
    TokenPrompt,
)
from tandem.core.types import ChatMessage, PriorityClass

Message = ChatMessage | Mapping[str, str]
"""One turn: a ChatMessage, or a mapping with ``role`` and ``content``."""

_UINT32 = 2**32 - 1
_UINT64 = 2**64 - 1


class ChatOptions(TypedDict, total=False):
    """Options of a conversation."""

    template_variables: Mapping[str, TemplateValue]
    add_generation_prompt: bool


class GenerateOptions(ChatOptions, total=False):
    """Options of a request; what is left out is the server's choice.

    ``seed`` makes sampling repeatable. ``logprobs`` is the number of alternatives per position (0 = the chosen token
    only). ``label`` is your own name for the request; it shows in the server's logs. ``idempotency_key`` is your own
    name for this one call, which the server then never runs twice; without one, each call gets a random key of its own,
    so that the client's retries are safe. ``cache_pin`` keeps the start of the prompt cached for a while, for later
    requests that begin with it; the usage of the answer says how much is pinned.
    """

    model: str
    n: int
    max_tokens: int
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    include_stop: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    seed: int
    logprobs: int
    priority: PriorityClass | str
    label: str
    idempotency_key: str
    cache_pin: CachePin


def build_generate(
    prompt: str | None,
    token_ids: Sequence[int] | None,
    messages: Sequence[Message] | None,
    **options: Unpack[GenerateOptions],
) -> GenerateRequest:
    """Build a request. Raises InvalidArgument naming the argument that can't be sent."""
    stop = options.get("stop", ())
    return GenerateRequest(
        prompt=_prompt(prompt, token_ids, messages, options),
        model=_text("model", options.get("model", "")),
        num_sequences=_unsigned("n", options.get("n", 1)),
        max_tokens=_max_tokens(options.get("max_tokens")),
        stop=tuple(_text("stop", text) for text in ((stop,) if isinstance(stop, str) else stop)),
        stop_token_ids=_token_ids("stop_token_ids", options.get("stop_token_ids", ())),
        ignore_eos=options.get("ignore_eos", False),
        include_stop=options.get("include_stop", False),
        sampling=_sampling(options),
        priority=_priority(options.get("priority", PriorityClass.STANDARD)),
        label=_text("label", options.get("label", "")),
        idempotency_key=_text("idempotency_key", options.get("idempotency_key", "")) or secrets.token_hex(16),
        cache_pin=_pin(options.get("cache_pin")),
    )


def build_tokenize(
    prompt: str | None, messages: Sequence[Message] | None, model: str, add_special_tokens: bool, options: ChatOptions
) -> TokenizeRequest:
    """Build a request for the tokens of a text or a conversation. Raises InvalidArgument."""
    _require_one(prompt=prompt, messages=messages)
    return TokenizeRequest(
        prompt=TextPrompt(text=_text("prompt", prompt)) if prompt is not None else _chat(messages or (), options),
        model=_text("model", model),
        add_special_tokens=add_special_tokens,
    )


def checked_token_ids(token_ids: Sequence[int]) -> tuple[int, ...]:
    """Return the ids as a tuple. Raises InvalidArgument when one can't be an id."""
    return _token_ids("token_ids", token_ids)


def _prompt(
    prompt: str | None,
    token_ids: Sequence[int] | None,
    messages: Sequence[Message] | None,
    options: ChatOptions,
) -> Prompt:
    _require_one(prompt=prompt, token_ids=token_ids, messages=messages)
    if prompt is not None:
        return TextPrompt(text=_text("prompt", prompt))
    if token_ids is not None:
        return TokenPrompt(token_ids=_token_ids("token_ids", token_ids))
    return _chat(messages or (), options)


def _require_one(**inputs: object) -> None:
    given = [name for name, value in inputs.items() if value is not None]
    if len(given) != 1:
        names = ", ".join(inputs)
        problem = f"is given together with {given[1]}" if given else "is missing"
        raise InvalidArgument(given[0] if given else "prompt", problem, remedy=f"give exactly one of {names}")


def _chat(messages: Sequence[Message], options: ChatOptions) -> ChatPrompt:
    return ChatPrompt(
        messages=tuple(_turn(index, message) for index, message in enumerate(messages)),
        template_variables={
            _text("template_variables", name): _scalar(name, value)
            for name, value in options.get("template_variables", {}).items()
        },
        add_generation_prompt=options.get("add_generation_prompt", True),
    )


def _turn(index: int, message: Message) -> ChatMessage:
    field = f"messages[{index}]"
    if isinstance(message, Mapping):
        if set(message) != {"role", "content"}:
            raise InvalidArgument(field, f"has the keys {sorted(message)}", remedy="give exactly role and content")
        message = ChatMessage(role=message["role"], content=message["content"])
    return ChatMessage(role=_text(f"{field}.role", message.role), content=_text(f"{field}.content", message.content))


def _sampling(options: GenerateOptions) -> SamplingOptions:
    bias = options.get("logit_bias", {})
    return SamplingOptions(
        temperature=options.get("temperature"),
        top_k=_optional_unsigned("top_k", options.get("top_k")),
        top_p=options.get("top_p"),
        min_p=options.get("min_p"),
        repetition_penalty=options.get("repetition_penalty"),
        presence_penalty=options.get("presence_penalty"),
        frequency_penalty=options.get("frequency_penalty"),
        logit_bias={_unsigned("logit_bias", token_id): value for token_id, value in bias.items()},
        seed=_optional_unsigned("seed", options.get("seed"), most=_UINT64),
        num_logprobs=_optional_unsigned("logprobs", options.get("logprobs")),
    )


def _pin(pin: CachePin | None) -> CachePin | None:
    if pin is None:
        return None
    if not isinstance(pin, CachePin):
        raise InvalidArgument("cache_pin", f"is a {type(pin).__name__}", remedy="give a tandem.client.CachePin")
    if not isinstance(pin.ttl_s, int | float):
        raise InvalidArgument("cache_pin.ttl_s", f"is {pin.ttl_s!r}", remedy="give seconds")
    if pin.num_tokens is not None and pin.num_messages is not None:
        raise InvalidArgument(
            "cache_pin.num_tokens", "is given together with num_messages", remedy="give one of the two, or neither"
        )
    _optional_unsigned("cache_pin.num_tokens", pin.num_tokens)
    _optional_unsigned("cache_pin.num_messages", pin.num_messages)
    return pin


def _priority(priority: PriorityClass | str) -> PriorityClass:
    try:
        return PriorityClass(priority)
    except ValueError:
        known = ", ".join(PriorityClass)
        raise InvalidArgument("priority", f"is {priority!r}", remedy=f"use one of {known}") from None


def _text(field: str, text: str) -> str:
    if not isinstance(text, str):
        raise InvalidArgument(field, f"is a {type(text).__name__}", remedy="give a text")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidArgument(
                field, f"has half a character at position {error.start}", remedy="give valid Unicode text"
            ) from None
    return text


def _scalar(name: str, value: TemplateValue) -> TemplateValue:
    field = f"template_variables[{name}]"
    if isinstance(value, str):
        return _text(field, value)
    if not isinstance(value, bool | int | float):
        raise InvalidArgument(field, f"is a {type(value).__name__}", remedy="give a text, a number or a truth value")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidArgument(field, f"is {value}", remedy="give a number of 64 bits")
    return value


def _token_ids(field: str, token_ids: Iterable[int]) -> tuple[int, ...]:
    return tuple(_unsigned(f"{field}[{index}]", token_id) for index, token_id in enumerate(token_ids))


def _max_tokens(value: int | None) -> int | None:
    """What is too much depends on the model and is the server's to say."""
    try:
        return _optional_unsigned("max_tokens", value)
    except InvalidArgument:
        remedy = "use a whole number of at least 1, or leave it out"
        raise InvalidArgument("max_tokens", f"is {value!r}", remedy=remedy) from None


def _optional_unsigned(field: str, value: int | None, most: int = _UINT32) -> int | None:
    return None if value is None else _unsigned(field, value, most)


def _unsigned(field: str, value: int, most: int = _UINT32) -> int:
    if not isinstance(value, int) or not 0 <= value <= most:
        raise InvalidArgument(field, f"is {value!r}", remedy=f"use a whole number from 0 to {most}")
    return value
