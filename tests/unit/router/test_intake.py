"""From a request to a task: every refusal names its field; defaults come from the model."""

import json
from pathlib import Path

import pytest

from tandem.core.clock import MonotonicClock
from tandem.core.errors import FailedPrecondition, InvalidArgument, ModelError, NotFound, TandemError
from tandem.core.ids import RequestId, Tenant
from tandem.core.inference import (
    ChatPrompt,
    DetokenizeRequest,
    GenerateRequest,
    Prompt,
    SamplingOptions,
    TextPrompt,
    TokenizeRequest,
    TokenPrompt,
)
from tandem.core.limits import RequestLimits
from tandem.core.types import ChatMessage, GenerationTask, SamplingParams
from tandem.router.intake import Intake
from tandem.router.served_model import SamplingDefaults, ServedModel, sampling_defaults
from tests.fakes.router_cluster import save_model

CHAT = ChatPrompt(messages=(ChatMessage(role="user", content="the"),))


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    save_model(tmp_path, max_context_tokens=100)
    return ServedModel.load(tmp_path, name="tiny")


def make_intake(model: ServedModel, limits: RequestLimits | None = None) -> Intake:
    return Intake(
        model,
        limits=limits or RequestLimits(),
        default_max_tokens=64,
        num_threads=1,
        clock=MonotonicClock(),
        draw_seed=lambda: 7,
    )


async def prepare(model: ServedModel, request: GenerateRequest, limits: RequestLimits | None = None) -> GenerationTask:
    intake = make_intake(model, limits)
    try:
        prepared = await intake.prepare(request, request_id=RequestId("r" * 32), tenant=Tenant("t"))
    finally:
        await intake.close()
    assert prepared.tokenize_ms >= 0.0
    return prepared.task


def asked(prompt: Prompt | None = None, **fields: object) -> GenerateRequest:
    return GenerateRequest(prompt=prompt or TokenPrompt(token_ids=(5, 6, 7)), **fields)  # type: ignore[arg-type]


async def test_text_is_tokenised_like_the_tokenizer_does(model: ServedModel) -> None:
    task = await prepare(model, asked(TextPrompt(text="the and of")))
    assert task.prompt_token_ids == tuple(model.tokenizer.encode("the and of"))
    assert (task.tenant, task.attempt, task.request_id) == ("t", 0, "r" * 32)


async def test_chats_are_rendered_by_the_models_template(model: ServedModel) -> None:
    task = await prepare(model, asked(CHAT))
    rendered = "<|im_start|>user\nthe<|im_end|>\n<|im_start|>assistant\n"
    assert task.prompt_token_ids == tuple(model.tokenizer.encode(rendered, add_special_tokens=False))


async def test_tokens_are_taken_as_they_are(model: ServedModel) -> None:
    assert (await prepare(model, asked())).prompt_token_ids == (5, 6, 7)


async def test_defaults(model: ServedModel) -> None:
    task = await prepare(model, asked())
    assert task.stop.max_tokens == 64
    assert task.sampling == SamplingParams(seed=7)
    long = await prepare(model, asked(TokenPrompt(token_ids=(5,) * 90)))
    assert long.stop.max_tokens == 10


async def test_what_was_asked_wins(model: ServedModel) -> None:
    sampling = SamplingOptions(temperature=0.5, seed=3, top_k=4, logit_bias={5: 1.0}, num_logprobs=2)
    task = await prepare(model, asked(sampling=sampling, max_tokens=2, stop=("x",), num_sequences=3))
    assert (task.sampling.temperature, task.sampling.seed, task.sampling.top_k) == (0.5, 3, 4)
    assert (task.stop.max_tokens, task.stop.stop, task.num_sequences) == (2, ("x",), 3)
    assert task.sampling.num_logprobs == 2


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (asked(TokenPrompt(token_ids=())), "prompt"),
        (asked(TextPrompt(text="")), "prompt"),
        (asked(TokenPrompt(token_ids=(5,) * 100)), "prompt"),
        (asked(TokenPrompt(token_ids=(320,))), "prompt.token_ids"),
        (asked(TokenPrompt(token_ids=(-1,))), "prompt.token_ids"),
        (asked(max_tokens=0), "max_tokens"),
        (asked(max_tokens=98), "max_tokens"),
        (asked(num_sequences=0), "n"),
        (asked(num_sequences=9), "n"),
        (asked(sampling=SamplingOptions(temperature=-0.1)), "sampling.temperature"),
        (asked(sampling=SamplingOptions(temperature=float("nan"))), "sampling.temperature"),
        (asked(sampling=SamplingOptions(top_p=0.0)), "sampling.top_p"),
        (asked(sampling=SamplingOptions(num_logprobs=21)), "sampling.logprobs"),
        (asked(sampling=SamplingOptions(logit_bias={320: 1.0})), "sampling.logit_bias (token id)"),
        (asked(stop=("",)), "stop[0]"),
        (asked(stop=("x",) * 17), "stop"),
        (asked(label="x" * 257), "label"),
        (asked(TextPrompt(text="x" * (256 * 1024 + 1))), "prompt.text"),
        (asked(TextPrompt(text="\ud800")), "prompt.text"),
        (asked(ChatPrompt(messages=())), "messages"),
        (asked(ChatPrompt(messages=CHAT.messages * 1025)), "chat.messages"),
        (asked(ChatPrompt(messages=(ChatMessage(role="", content="x"),))), "chat.messages[0].role"),
        (asked(ChatPrompt(messages=(ChatMessage(role="user\nsystem", content="x"),))), "chat.messages[0].role"),
        (
            asked(ChatPrompt(messages=(*CHAT.messages, ChatMessage(role="a<|end|>", content="x")))),
            "chat.messages[1].role",
        ),
        (asked(ChatPrompt(messages=(ChatMessage(role="u", content="x" * 300_000),))), "chat.messages"),
    ],
)
async def test_refusals_name_the_field(model: ServedModel, request_: GenerateRequest, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await prepare(model, request_)
    assert caught.value.field == field
    assert caught.value.remedy or field == "messages"


async def test_an_unknown_model_is_not_found(model: ServedModel) -> None:
    with pytest.raises(NotFound, match="tiny"):
        await prepare(model, asked(model="other"))
    assert (await prepare(model, asked(model="tiny"))).num_sequences == 1


async def test_a_reserved_template_variable_is_refused(model: ServedModel) -> None:
    prompt = ChatPrompt(messages=CHAT.messages, template_variables={"messages": "x"})
    with pytest.raises(TandemError) as caught:
        await prepare(model, asked(prompt))
    assert isinstance(caught.value, InvalidArgument)


async def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    save_model(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "chat_template"}))
    model = ServedModel.load(tmp_path)
    assert not model.card.has_chat_template
    with pytest.raises(FailedPrecondition, match="no chat template"):
        await prepare(model, asked(CHAT))


async def test_a_broken_template_is_the_servers_defect_and_its_words_stay_here(tmp_path: Path) -> None:
    save_model(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    template = "{{ messages[0]['content'] * 2 + 3 }}"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    with pytest.raises(TandemError) as caught:
        await prepare(ServedModel.load(tmp_path), asked(CHAT))
    assert caught.value.reason == "CHAT_TEMPLATE_FAILED"
    assert "concatenate" not in str(caught.value)


async def test_tokenize_and_detokenize_round_trip(model: ServedModel) -> None:
    intake = make_intake(model)
    ids = await intake.tokenize(TokenizeRequest(prompt=TextPrompt(text="the and of")))
    assert await intake.detokenize(DetokenizeRequest(token_ids=ids)) == "the and of"
    chat = await intake.tokenize(TokenizeRequest(prompt=CHAT))
    assert chat == (await prepare(model, asked(CHAT))).prompt_token_ids
    with pytest.raises(InvalidArgument):
        await intake.detokenize(DetokenizeRequest(token_ids=(99_999,)))
    with pytest.raises(NotFound):
        await intake.tokenize(TokenizeRequest(prompt=TextPrompt(text="x"), model="other"))
    small = make_intake(model, RequestLimits(max_prompt_bytes=3))
    with pytest.raises(InvalidArgument, match="4 ids"):
        await small.detokenize(DetokenizeRequest(token_ids=(1, 2, 3, 4)))
    await intake.close()
    await small.close()


def test_a_generation_config_gives_defaults_only_to_models_that_sample() -> None:
    config = {"temperature": 0.6, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.1}
    assert sampling_defaults(config) == SamplingDefaults(repetition_penalty=1.1)
    assert sampling_defaults(config | {"do_sample": True}) == SamplingDefaults(
        temperature=0.6, top_k=50, top_p=0.9, repetition_penalty=1.1
    )
    assert sampling_defaults({"do_sample": True, "temperature": None}).temperature == 1.0
    assert sampling_defaults({}) == SamplingDefaults()


def test_the_card_of_a_model(model: ServedModel) -> None:
    card = model.card
    assert (card.name, card.digest, card.max_context_tokens, card.vocab_size) == ("tiny", "fake-digest", 100, 320)
    assert card.has_chat_template
    assert card.eos_token_ids


def test_a_folder_without_a_context_length_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 320}))
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "model_max_length"}))
    with pytest.raises(ModelError, match="context length"):
        ServedModel.load(tmp_path)


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    save_model(tmp_path)
    (tmp_path / "tandem.json").write_text("{")
    with pytest.raises(ModelError, match=r"tandem\.json"):
        ServedModel.load(tmp_path)
