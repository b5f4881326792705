"""Public requests: generate, tokenize, detokenize."""

from collections.abc import Mapping

from tandem.core.errors import InvalidArgument
from tandem.core.inference import (
    CachePin,
    ChatPrompt,
    DetokenizeRequest,
    GenerateRequest,
    Prompt,
    SamplingOptions,
    TemplateValue,
    TextPrompt,
    TokenizeRequest,
    TokenPrompt,
)
from tandem.core.types import ChatMessage, PriorityClass
from tandem.inference.v1 import inference_pb2 as pb
from tandem.rpc.codec.enums import EnumCodec

PRIORITY = EnumCodec(
    {
        PriorityClass.INTERACTIVE: pb.PRIORITY_CLASS_INTERACTIVE,
        PriorityClass.STANDARD: pb.PRIORITY_CLASS_STANDARD,
        PriorityClass.BATCH: pb.PRIORITY_CLASS_BATCH,
    }
)


def encode_generate_request(request: GenerateRequest) -> pb.GenerateRequest:
    """Core to protobuf."""
    message = pb.GenerateRequest(
        model=request.model,
        n=request.num_sequences,
        max_tokens=request.max_tokens,
        stop=request.stop,
        stop_token_ids=request.stop_token_ids,
        ignore_eos=request.ignore_eos,
        include_stop=request.include_stop,
        sampling=_encode_sampling(request.sampling),
        priority=PRIORITY.encode(request.priority),
        label=request.label,
        idempotency_key=request.idempotency_key,
        cache_pin=None if request.cache_pin is None else _encode_pin(request.cache_pin),
    )
    match request.prompt:
        case TextPrompt(text=text):
            message.text = text
        case TokenPrompt(token_ids=token_ids):
            message.tokens.CopyFrom(pb.TokenIds(ids=token_ids))
        case ChatPrompt():
            message.chat.CopyFrom(_encode_chat(request.prompt))
    return message


def decode_generate_request(message: pb.GenerateRequest) -> GenerateRequest:
    """Protobuf to core. Raises InvalidArgument when there is no input or a number means nothing."""
    return GenerateRequest(
        prompt=_decode_prompt(message),
        model=message.model,
        num_sequences=message.n if message.HasField("n") else 1,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        include_stop=message.include_stop,
        sampling=_decode_sampling(message.sampling),
        priority=PRIORITY.decode(message.priority, field="priority", default=PriorityClass.STANDARD),
        label=message.label,
        idempotency_key=message.idempotency_key,
        cache_pin=_decode_pin(message.cache_pin) if message.HasField("cache_pin") else None,
    )


def encode_tokenize_request(request: TokenizeRequest) -> pb.TokenizeRequest:
    """Core to protobuf."""
    message = pb.TokenizeRequest(model=request.model, add_special_tokens=request.add_special_tokens)
    match request.prompt:
        case TextPrompt(text=text):
            message.text = text
        case ChatPrompt():
            message.chat.CopyFrom(_encode_chat(request.prompt))
    return message


def decode_tokenize_request(message: pb.TokenizeRequest) -> TokenizeRequest:
    """Protobuf to core. Raises InvalidArgument when there is no input."""
    prompt: TextPrompt | ChatPrompt
    match message.WhichOneof("input"):
        case "text":
            prompt = TextPrompt(text=message.text)
        case "chat":
            prompt = _decode_chat(message.chat)
        case _:
            raise InvalidArgument("input", "is not set", remedy="set text or chat")
    return TokenizeRequest(
        prompt=prompt,
        model=message.model,
        add_special_tokens=message.add_special_tokens if message.HasField("add_special_tokens") else True,
    )


def encode_detokenize_request(request: DetokenizeRequest) -> pb.DetokenizeRequest:
    """Core to protobuf."""
    return pb.DetokenizeRequest(
        model=request.model, token_ids=request.token_ids, skip_special_tokens=request.skip_special_tokens
    )


def decode_detokenize_request(message: pb.DetokenizeRequest) -> DetokenizeRequest:
    """Protobuf to core."""
    return DetokenizeRequest(
        token_ids=tuple(message.token_ids),
        model=message.model,
        skip_special_tokens=message.skip_special_tokens if message.HasField("skip_special_tokens") else True,
    )


def _decode_prompt(message: pb.GenerateRequest) -> Prompt:
    match message.WhichOneof("input"):
        case "text":
            return TextPrompt(text=message.text)
        case "tokens":
            return TokenPrompt(token_ids=tuple(message.tokens.ids))
        case "chat":
            return _decode_chat(message.chat)
        case _:
            raise InvalidArgument("input", "is not set", remedy="set text, tokens or chat")


def _encode_pin(pin: CachePin) -> pb.CachePin:
    if pin.num_messages is not None:
        return pb.CachePin(num_messages=pin.num_messages, ttl_s=pin.ttl_s)
    return pb.CachePin(num_tokens=pin.num_tokens, ttl_s=pin.ttl_s)


def _decode_pin(message: pb.CachePin) -> CachePin:
    prefix = message.WhichOneof("prefix")
    return CachePin(
        ttl_s=message.ttl_s,
        num_tokens=message.num_tokens if prefix == "num_tokens" else None,
        num_messages=message.num_messages if prefix == "num_messages" else None,
    )


def _encode_chat(prompt: ChatPrompt) -> pb.Chat:
    return pb.Chat(
        messages=[pb.ChatMessage(role=turn.role, content=turn.content) for turn in prompt.messages],
        template_variables={name: _encode_scalar(value) for name, value in prompt.template_variables.items()},
        add_generation_prompt=prompt.add_generation_prompt,
    )


def _decode_chat(message: pb.Chat) -> ChatPrompt:
    return ChatPrompt(
        messages=tuple(ChatMessage(role=turn.role, content=turn.content) for turn in message.messages),
        template_variables=_decode_variables(message.template_variables),
        add_generation_prompt=message.add_generation_prompt if message.HasField("add_generation_prompt") else True,
    )


def _encode_scalar(value: TemplateValue) -> pb.Scalar:
    match value:
        case bool():  # before int: True is an int as well
            return pb.Scalar(bool_value=value)
        case int():
            return pb.Scalar(int_value=value)
        case float():
            return pb.Scalar(double_value=value)
        case str():
            return pb.Scalar(string_value=value)


def _decode_variables(variables: Mapping[str, pb.Scalar]) -> dict[str, TemplateValue]:
    values: dict[str, TemplateValue] = {}
    for name, scalar in variables.items():
        chosen = scalar.WhichOneof("value")
        if chosen is None:
            raise InvalidArgument(f"template_variables[{name}]", "has no value", remedy="set one of its fields")
        values[name] = getattr(scalar, chosen)
    return values


def _encode_sampling(options: SamplingOptions) -> pb.Sampling:
    return pb.Sampling(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        logit_bias=dict(options.logit_bias),
        seed=options.seed,
        logprobs=options.num_logprobs,
    )


def _decode_sampling(message: pb.Sampling) -> SamplingOptions:
    return SamplingOptions(
        temperature=message.temperature if message.HasField("temperature") else None,
        top_k=message.top_k if message.HasField("top_k") else None,
        top_p=message.top_p if message.HasField("top_p") else None,
        min_p=message.min_p if message.HasField("min_p") else None,
        repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else None,
        presence_penalty=message.presence_penalty if message.HasField("presence_penalty") else None,
        frequency_penalty=message.frequency_penalty if message.HasField("frequency_penalty") else None,
        logit_bias=dict(message.logit_bias),
        seed=message.seed if message.HasField("seed") else None,
        num_logprobs=message.logprobs if message.HasField("logprobs") else None,
    )
