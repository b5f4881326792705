"""Keys of calls that must not run twice."""

from dataclasses import replace

import pytest

from tandem.core.errors import DuplicateRequest, InvalidArgument
from tandem.core.ids import RequestId, Tenant
from tandem.core.inference import ChatPrompt, GenerateRequest, SamplingOptions, TextPrompt
from tandem.core.types import ChatMessage
from tandem.router.idempotency import MAX_KEY_CHARS, Claim, IdempotencyKeys

REQUEST = GenerateRequest(prompt=TextPrompt(text="hello"), idempotency_key="k")
US, THEM = Tenant("us"), Tenant("them")


def keys(*, max_answered: int = 100) -> IdempotencyKeys:
    return IdempotencyKeys(ttl_s=60.0, max_answered=max_answered)


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
