"""The public wire format, byte for byte: a renumbered or retyped field breaks clients that are out there."""

from collections.abc import Callable
from typing import Any

import pytest

from tandem.core.ids import RequestId, WorkerId
from tandem.core.inference import (
    ChatPrompt,
    DetokenizeRequest,
    GeneratedSequence,
    GenerateRequest,
    Generation,
    KeepAlive,
    ModelCard,
    OutputDelta,
    SamplingOptions,
    SequenceFinished,
    ServedBy,
    StreamCompleted,
    StreamStarted,
    TextPrompt,
    TokenizeRequest,
    TokenPrompt,
)
from tandem.core.types import (
    ChatMessage,
    FinishReason,
    PhaseTimings,
    PositionLogprobs,
    PriorityClass,
    TokenLogprob,
    Usage,
)
from tandem.rpc.codec import requests, responses

LOGPROBS = (
    PositionLogprobs(chosen=TokenLogprob(token_id=1, logprob=-0.5), top=(TokenLogprob(token_id=2, logprob=-1.0),)),
)
USAGE = Usage(prompt_tokens=1, cached_tokens=2, output_tokens=3)
TIMINGS = PhaseTimings(
    tokenize_ms=1.0, queue_ms=2.0, prefill_ms=3.0, handover_ms=4.0, first_decode_ms=5.0, ttft_ms=6.0, total_ms=7.0
)
SERVED_BY = ServedBy(prefill_worker=WorkerId("p"), decode_worker=WorkerId("d"))

GOLDEN: list[tuple[Callable[[Any], Any], Any, str]] = [
    (
        requests.encode_generate_request,
        GenerateRequest(
            prompt=TextPrompt(text="hi"),
            model="m",
            num_sequences=2,
            max_tokens=3,
            stop=("s",),
            stop_token_ids=(4, 5),
            ignore_eos=True,
            include_stop=True,
            sampling=SamplingOptions(
                temperature=1.0,
                top_k=2,
                top_p=0.5,
                min_p=0.25,
                repetition_penalty=1.5,
                presence_penalty=2.0,
                frequency_penalty=3.0,
                logit_bias={7: -1.0},
                seed=8,
                num_logprobs=9,
            ),
            priority=PriorityClass.BATCH,
            label="l",
        ),
        (
            "0a016d12026869280230033a017342020405480150015a4909000000000000f03f100219000000000000e03f21000000"
            "000000d03f29000000000000f83f310000000000000040390000000000000840420b080711000000000000f0bf480850"
            "0960036a016c"
        ),
    ),
    (
        requests.encode_generate_request,
        GenerateRequest(prompt=TokenPrompt(token_ids=(1, 300))),
        "1a050a0301ac0228015a006002",
    ),
    (
        requests.encode_generate_request,
        GenerateRequest(
            prompt=ChatPrompt(messages=(ChatMessage(role="user", content="hi"),), template_variables={"a": True})
        ),
        "22170a0a0a04757365721202686912070a016112022001180128015a006002",
    ),
    (
        requests.encode_tokenize_request,
        TokenizeRequest(prompt=TextPrompt(text="hi"), add_special_tokens=False),
        "120268692000",
    ),
    (
        requests.encode_detokenize_request,
        DetokenizeRequest(token_ids=(1, 2), skip_special_tokens=False),
        "120201021800",
    ),
    (
        responses.encode_generation,
        Generation(
            request_id=RequestId("r"),
            sequences=(
                GeneratedSequence(
                    index=1,
                    text="t",
                    token_ids=(5,),
                    finish_reason=FinishReason.LENGTH,
                    matched_stop="s",
                    logprobs=LOGPROBS,
                ),
            ),
            usage=USAGE,
            timings=TIMINGS,
            workers=SERVED_BY,
            attempts=2,
        ),
        (
            "0a0172122908011201741a0105221a0a0b080111000000000000e0bf120b080211000000000000f0bf28023201731a06"
            "080110021803223f09000000000000f03f11000000000000004019000000000000084021000000000000104029000000"
            "0000001440310000000000001840390000000000001c402a060a01701201643002"
        ),
    ),
    (
        responses.encode_stream_event,
        StreamStarted(request_id=RequestId("r"), prompt_tokens=1, cached_tokens=2),
        "0a070a017210011802",
    ),
    (
        responses.encode_stream_event,
        OutputDelta(index=1, position=2, text="t", token_ids=(3,), logprobs=LOGPROBS),
        "1226080110021a01742201032a1a0a0b080111000000000000e0bf120b080211000000000000f0bf",
    ),
    (
        responses.encode_stream_event,
        SequenceFinished(index=1, finish_reason=FinishReason.STOP, matched_stop="s"),
        "1a07080110011a0173",
    ),
    (
        responses.encode_stream_event,
        StreamCompleted(usage=USAGE, timings=TIMINGS, workers=SERVED_BY, attempts=2),
        (
            "22530a06080110021803123f09000000000000f03f110000000000000040190000000000000840210000000000001040"
            "290000000000001440310000000000001840390000000000001c401a060a01701201642002"
        ),
    ),
    (
        responses.encode_stream_event,
        KeepAlive(),
        "2a00",
    ),
    (
        responses.encode_model_card,
        ModelCard(name="m", digest="d", max_context_tokens=1, vocab_size=2, has_chat_template=True, eos_token_ids=(3,)),
        "0a016d120164180120022801320103",
    ),
]


@pytest.mark.parametrize(("encode", "value", "expected"), GOLDEN)
def test_golden_bytes(encode: Callable[[Any], Any], value: Any, expected: str) -> None:
    assert encode(value).SerializeToString(deterministic=True).hex() == expected
