"""What a caller may ask to be pinned, in tokens or in messages; and what the answer says of it."""

import json
from pathlib import Path

import pytest

from tandem.core.errors import InvalidArgument
from tandem.core.ids import RequestId, Tenant
from tandem.core.inference import CachePin, ChatPrompt, GenerateRequest, Prompt, TokenPrompt
from tandem.core.messages import PrefillDone
from tandem.core.types import ChatMessage, FinishReason, GenerationTask, PrefixPin, Usage
from tandem.router.pins import check_pin, num_common
from tandem.router.served_model import ServedModel
from tests.fakes.router_cluster import save_model
from tests.unit.router.builders import D, P
from tests.unit.router.test_intake import make_intake, prepare
from tests.unit.router.world import World, failed, handed, token

TOKENS = TokenPrompt(token_ids=tuple(range(5, 25)))
CHAT = ChatPrompt(messages=tuple(ChatMessage(role=role, content="the") for role in ("system", "user", "user")))
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }} {% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    save_model(tmp_path, max_context_tokens=200)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": TEMPLATE}))
    return ServedModel.load(tmp_path, name="tiny")


async def pin_of(model: ServedModel, prompt: Prompt, pin: CachePin) -> PrefixPin:
    task = await prepare(model, GenerateRequest(prompt=prompt, cache_pin=pin))
    assert task.pin is not None
    assert task.pin.num_tokens <= len(task.prompt_token_ids)
    return task.pin


async def test_a_pin_is_so_many_tokens_or_all(model: ServedModel) -> None:
    assert await pin_of(model, TOKENS, CachePin(ttl_s=5.0, num_tokens=7)) == PrefixPin(num_tokens=7, ttl_s=5.0)
    assert await pin_of(model, TOKENS, CachePin(ttl_s=5.0)) == PrefixPin(num_tokens=20, ttl_s=5.0)
    assert (await prepare(model, GenerateRequest(prompt=TOKENS))).pin is None


async def test_a_pin_of_messages_ends_where_they_end_in_the_prompt(model: ServedModel) -> None:
    intake = make_intake(model)

    async def task_of(prompt: Prompt, pin: CachePin | None = None) -> GenerationTask:
        request = GenerateRequest(prompt=prompt, cache_pin=pin)
        return (await intake.prepare(request, request_id=RequestId("r" * 32), tenant=Tenant("t"))).task

    try:
        whole = (await task_of(CHAT)).prompt_token_ids
        pins = [(await task_of(CHAT, CachePin(ttl_s=5.0, num_messages=count))).pin for count in (1, 2, 3)]
        other = ChatPrompt(messages=(CHAT.messages[0], ChatMessage(role="user", content="other")))
        again = (await task_of(other)).prompt_token_ids
    finally:
        await intake.close()
    sizes = [pin.num_tokens for pin in pins if pin is not None]
    assert 0 < sizes[0] < sizes[1] < sizes[2] < len(whole), "the opening of the answer is not part of a message"
    assert again[: sizes[0]] == whole[: sizes[0]], "what is pinned is what another conversation begins with"


@pytest.mark.parametrize(
    ("prompt", "pin", "field"),
    [
        (TOKENS, CachePin(ttl_s=0.0), "ttl_s"),
        (TOKENS, CachePin(ttl_s=-1.0), "ttl_s"),
        (TOKENS, CachePin(ttl_s=float("nan")), "ttl_s"),
        (TOKENS, CachePin(ttl_s=3601.0), "ttl_s"),
        (TOKENS, CachePin(ttl_s=1.0, num_tokens=0), "num_tokens"),
        (TOKENS, CachePin(ttl_s=1.0, num_tokens=21), "num_tokens"),
        (TOKENS, CachePin(ttl_s=1.0, num_messages=1), "num_messages"),
        (CHAT, CachePin(ttl_s=1.0, num_messages=0), "num_messages"),
        (CHAT, CachePin(ttl_s=1.0, num_messages=4), "num_messages"),
    ],
)
def test_what_can_not_be_meant_is_refused_by_field(prompt: Prompt, pin: CachePin, field: str) -> None:
    with pytest.raises(InvalidArgument, match=f"cache_pin.{field}"):
        check_pin(pin, prompt, num_tokens=20, max_ttl_s=3600.0)


def test_num_common() -> None:
    assert num_common((1, 2, 3), (1, 2, 4)) == 2
    assert num_common((1, 2), (1, 2, 4)) == 2
    assert num_common((), (1,)) == 0


# --- usage -------------------------------------------------------------------------------------------------------


def computed(cached: int, pinned: int = 0, attempt: int = 0) -> PrefillDone:
    return PrefillDone(
        request_id=token(0).request_id,
        attempt=attempt,
        wait_ms=0.0,
        compute_ms=1.0,
        num_cached_tokens=cached,
        num_pinned_tokens=pinned,
    )


def test_usage_says_what_was_cached_and_what_is_pinned() -> None:
    world = World(P, D)
    sink = world.submit(prompt=20)
    world.report(P, events=(computed(16, pinned=16),), tokens=(token(0),))
    world.report(D, events=(handed(),), tokens=(token(1, finish=FinishReason.STOP),))
    usage = sink.ends[0].usage
    assert usage == Usage(prompt_tokens=20, cached_tokens=16, output_tokens=2, pinned_tokens=16)
    assert usage.uncached_tokens == 4


def test_an_attempt_that_is_lost_costs_the_caller_nothing_more() -> None:
    world = World(P, D)
    sink = world.submit(prompt=20)
    world.report(P, events=(computed(16),), tokens=(token(0),))
    world.report(D, events=(failed("KV_TIMEOUT"),))
    world.wait(1.0, alive=(P, D))
    for worker in (P, D):  # whoever computes it now
        world.report(worker, events=(computed(0, attempt=1),))
    world.report(D, events=(handed(attempt=1),), tokens=(token(1, attempt=1, finish=FinishReason.STOP),))
    assert sink.started[0].num_cached_tokens == 16
    assert sink.ends[0].usage.cached_tokens == 16, "as the caller was told at the start"


def test_more_than_the_prompt_is_never_cached() -> None:
    world = World(P, D)
    sink = world.submit(prompt=20)
    world.report(P, events=(computed(500),), tokens=(token(0, finish=FinishReason.STOP),))
    assert sink.ends[0].usage.cached_tokens == 20
    assert sink.ends[0].usage.uncached_tokens == 0
