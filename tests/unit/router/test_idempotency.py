"""Keys of calls that must not run twice."""

from dataclasses import replace

import pytest

from tandem.core.errors import DuplicateRequest, InvalidArgument
from tandem.core.ids import RequestId, Tenant
from tandem.core.inference import ChatPrompt, GenerateRequest, SamplingOptions, TextPrompt, TokenPrompt
from tandem.core.types import ChatMessage
from tandem.router.idempotency import MAX_KEY_CHARS, Claim, IdempotencyKeys

REQUEST = GenerateRequest(prompt=TextPrompt(text="hello"), idempotency_key="k")
US, THEM = Tenant("us"), Tenant("them")


def keys(*, max_answered: int = 100, max_per_tenant: int = 100) -> IdempotencyKeys:
    return IdempotencyKeys(ttl_s=60.0, max_answered=max_answered, max_per_tenant=max_per_tenant)


def answer(table: IdempotencyKeys, tenant: Tenant, names: range, *, at_s: float = 0.0) -> None:
    for number in names:
        request = replace(REQUEST, idempotency_key=f"k{number}")
        table.answered(claim(table, request, at_s=at_s, tenant=tenant), at_s)


def remembered(table: IdempotencyKeys, tenant: Tenant, names: range, *, at_s: float = 0.0) -> list[int]:
    found = []
    for number in names:
        try:
            table.release(claim(table, replace(REQUEST, idempotency_key=f"k{number}"), at_s=at_s, tenant=tenant))
        except DuplicateRequest:
            found.append(number)
    return found


def claim(
    table: IdempotencyKeys, request: GenerateRequest = REQUEST, *, at_s: float = 0.0, tenant: Tenant = US
) -> Claim:
    claimed = table.claim(request, tenant=tenant, request_id=RequestId("id"), now_s=at_s)
    assert claimed is not None
    return claimed


def test_without_a_key_nothing_is_kept() -> None:
    table = keys()
    plain = replace(REQUEST, idempotency_key="")
    assert table.claim(plain, tenant=US, request_id=RequestId("id"), now_s=0.0) is None
    assert len(table) == 0


def test_a_key_that_runs_is_refused_and_may_be_tried_again_soon() -> None:
    table = keys()
    claim(table)
    with pytest.raises(DuplicateRequest) as caught:
        claim(table)
    assert caught.value.reason == "DUPLICATE_REQUEST"
    assert caught.value.retryable
    assert caught.value.retry_after_s is not None
    assert caught.value.metadata["running_request_id"] == "id"


def test_an_answered_key_is_refused_for_good_until_it_is_forgotten() -> None:
    table = keys()
    table.answered(claim(table), 1.0)
    with pytest.raises(DuplicateRequest) as caught:
        claim(table, at_s=60.9)
    assert (caught.value.reason, caught.value.retryable) == ("ALREADY_ANSWERED", False)
    claim(table, at_s=61.0)


def test_a_request_that_failed_or_was_cancelled_may_be_made_again() -> None:
    table = keys()
    table.release(claim(table))
    claim(table)


def test_release_after_the_answer_does_not_forget_it() -> None:
    table = keys()
    claimed = claim(table)
    table.answered(claimed, 0.0)
    table.release(claimed)
    with pytest.raises(DuplicateRequest):
        claim(table)


def test_keys_are_a_tenants_own() -> None:
    table = keys()
    claim(table, tenant=US)
    claim(table, tenant=THEM)


def test_a_key_names_one_request_only() -> None:
    table = keys()
    claim(table)
    with pytest.raises(InvalidArgument, match="another request"):
        claim(table, replace(REQUEST, max_tokens=5))


def test_the_order_of_maps_makes_no_other_request() -> None:
    table = keys()
    bias = SamplingOptions(logit_bias={1: 1.0, 2: 2.0})
    claim(table, replace(REQUEST, sampling=bias))
    with pytest.raises(DuplicateRequest):
        claim(table, replace(REQUEST, sampling=SamplingOptions(logit_bias={2: 2.0, 1: 1.0})))
    chat = ChatPrompt(messages=(ChatMessage(role="user", content="x"),), template_variables={"a": 1, "b": 2})
    claim(table, replace(REQUEST, prompt=chat, idempotency_key="c"))
    with pytest.raises(DuplicateRequest):
        turned = replace(chat, template_variables={"b": 2, "a": 1})
        claim(table, replace(REQUEST, prompt=turned, idempotency_key="c"))


@pytest.mark.parametrize("key", ["x" * (MAX_KEY_CHARS + 1), "ä", "a\n"])
def test_what_can_not_be_a_key(key: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        claim(keys(), replace(REQUEST, idempotency_key=key))
    assert caught.value.field == "idempotency_key"


def test_answered_keys_are_bounded_and_the_oldest_go_first() -> None:
    table = keys(max_answered=16)
    for number in range(100):
        table.answered(claim(table, replace(REQUEST, idempotency_key=f"k{number}")), 0.0)
    assert len(table) == 16
    claim(table, replace(REQUEST, idempotency_key="k83"))
    with pytest.raises(DuplicateRequest):
        claim(table, replace(REQUEST, idempotency_key="k84"))


def test_a_tenant_that_fills_its_share_loses_its_own_oldest() -> None:
    table = keys(max_answered=40, max_per_tenant=16)
    answer(table, THEM, range(3))
    answer(table, US, range(100))
    assert remembered(table, US, range(100)) == list(range(84, 100))
    assert remembered(table, THEM, range(3)) == [0, 1, 2]
    assert len(table) == 19


def test_when_all_is_full_whoever_has_most_gives_way() -> None:
    table = keys(max_answered=16, max_per_tenant=16)
    answer(table, US, range(16))
    answer(table, THEM, range(8))
    assert remembered(table, US, range(16)) == list(range(8, 16))
    assert remembered(table, THEM, range(8)) == list(range(8))
    answer(table, US, range(100, 200))
    assert remembered(table, THEM, range(8)) == list(range(8)), "an even share is safe"
    assert remembered(table, US, range(100, 200)) == list(range(192, 200))
    assert len(table) == 16


def test_what_is_over_makes_room_before_anyone_gives_way() -> None:
    table = keys(max_answered=16)
    answer(table, US, range(10))
    answer(table, THEM, range(6), at_s=50.0)
    answer(table, THEM, range(6, 12), at_s=61.0)
    assert remembered(table, THEM, range(12), at_s=61.0) == list(range(12))
    assert len(table) == 12


TOKENS = TokenPrompt(token_ids=(1, 2, 3))
CHAT = ChatPrompt(messages=(ChatMessage(role="user", content="ab"), ChatMessage(role="user", content="c")))
DIFFERENT = [
    replace(REQUEST, prompt=TOKENS),
    replace(REQUEST, prompt=TokenPrompt(token_ids=(1, 2, 4))),
    replace(REQUEST, prompt=TokenPrompt(token_ids=(1, 2, 3 + (1 << 32)))),
    replace(REQUEST, prompt=TokenPrompt(token_ids=())),
    replace(REQUEST, prompt=TextPrompt(text="")),
    replace(REQUEST, prompt=TextPrompt(text="hellp")),
    replace(REQUEST, prompt=CHAT),
    replace(REQUEST, prompt=replace(CHAT, add_generation_prompt=False)),
    replace(REQUEST, prompt=replace(CHAT, template_variables={"a": 1})),
    replace(REQUEST, prompt=replace(CHAT, template_variables={"a": True})),
    replace(REQUEST, prompt=ChatPrompt(messages=(replace(CHAT.messages[0], content="a"), CHAT.messages[1]))),
    replace(
        REQUEST,
        prompt=ChatPrompt(messages=(replace(CHAT.messages[0], content="a"), ChatMessage(role="b", content="c"))),
    ),
    replace(REQUEST, stop=("x",)),
    replace(REQUEST, sampling=SamplingOptions(seed=1)),
    replace(REQUEST, sampling=SamplingOptions(logit_bias={1: 2.0})),
    replace(REQUEST, label="x"),
]


@pytest.mark.parametrize("other", range(len(DIFFERENT)))
def test_every_difference_makes_another_request(other: int) -> None:
    for number, request in enumerate([REQUEST, *DIFFERENT]):
        table = keys()
        claim(table, DIFFERENT[other])
        with pytest.raises(DuplicateRequest if number == other + 1 else InvalidArgument):
            claim(table, request)
