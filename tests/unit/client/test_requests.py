"""What a caller writes becomes the right request, or an error that names the argument."""

from typing import Any

import pytest

from tandem.client import ChatMessage, InvalidArgument, PriorityClass
from tandem.client.requests import build_generate, build_tokenize, checked_token_ids
from tandem.core.inference import ChatPrompt, TextPrompt, TokenPrompt


def _build(prompt: Any = None, token_ids: Any = None, messages: Any = None, **options: Any) -> Any:
    return build_generate(prompt, token_ids, messages, **options)


def test_the_three_inputs() -> None:
    assert _build("hé").prompt == TextPrompt(text="hé")
    assert _build(token_ids=[1, 2]).prompt == TokenPrompt(token_ids=(1, 2))
    turns = [{"role": "user", "content": "hi"}, ChatMessage(role="assistant", content="yo")]
    assert _build(messages=turns, template_variables={"a": True}, add_generation_prompt=False).prompt == ChatPrompt(
        messages=(ChatMessage(role="user", content="hi"), ChatMessage(role="assistant", content="yo")),
        template_variables={"a": True},
        add_generation_prompt=False,
    )


def test_empty_inputs_are_the_servers_to_refuse() -> None:
    """One place decides what is too little: the server, which every client meets."""
    assert _build("").prompt == TextPrompt(text="")
    assert _build(token_ids=[]).prompt == TokenPrompt(token_ids=())
    assert _build("x", max_tokens=0, n=0).max_tokens == 0


@pytest.mark.parametrize("stop", ["END", ["END"], ("END",)])
def test_one_stop_string_or_many(stop: Any) -> None:
    assert _build("x", stop=stop).stop == ("END",)


@pytest.mark.parametrize("priority", ["batch", PriorityClass.BATCH])
def test_priority_by_name(priority: Any) -> None:
    assert _build("x", priority=priority).priority is PriorityClass.BATCH


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "prompt"),
        ({"prompt": "x", "token_ids": [1]}, "prompt"),
        ({"token_ids": [1], "messages": []}, "token_ids"),
        ({"prompt": "half \ud83d"}, "prompt"),
        ({"prompt": b"bytes"}, "prompt"),
        ({"token_ids": [1, -1]}, "token_ids[1]"),
        ({"token_ids": [2**32]}, "token_ids[0]"),
        ({"token_ids": ["1"]}, "token_ids[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "\udc00"}]}, "messages[0].content"),
        ({"messages": [{"role": 1, "content": "x"}]}, "messages[0].role"),
        ({"messages": [], "template_variables": {"v": [1]}}, "template_variables[v]"),
        ({"messages": [], "template_variables": {"v": 2**63}}, "template_variables[v]"),
        ({"messages": [], "template_variables": {"v": "\udc00"}}, "template_variables[v]"),
        ({"prompt": "x", "n": -1}, "n"),
        ({"prompt": "x", "max_tokens": -5}, "max_tokens"),
        ({"prompt": "x", "max_tokens": 1.5}, "max_tokens"),
        ({"prompt": "x", "stop": ["\ud83d"]}, "stop"),
        ({"prompt": "x", "stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"prompt": "x", "top_k": -1}, "top_k"),
        ({"prompt": "x", "seed": 2**64}, "seed"),
        ({"prompt": "x", "logprobs": -1}, "logprobs"),
        ({"prompt": "x", "logit_bias": {-1: 0.0}}, "logit_bias"),
        ({"prompt": "x", "priority": "now"}, "priority"),
        ({"prompt": "x", "label": "\udc00"}, "label"),
    ],
)
def test_what_cannot_be_sent_is_named(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        _build(**arguments)
    assert caught.value.field == field


def test_tokenize_takes_text_or_a_conversation() -> None:
    request = build_tokenize("x", None, "m", False, {})
    assert (request.prompt, request.model, request.add_special_tokens) == (TextPrompt(text="x"), "m", False)
    chat = build_tokenize(None, [{"role": "user", "content": "hi"}], "", True, {"add_generation_prompt": False})
    assert isinstance(chat.prompt, ChatPrompt)
    assert not chat.prompt.add_generation_prompt
    for prompt, messages in ((None, None), ("x", [])):
        with pytest.raises(InvalidArgument):
            build_tokenize(prompt, messages, "", True, {})


def test_token_ids_are_checked_everywhere() -> None:
    assert checked_token_ids([0, 2**32 - 1]) == (0, 2**32 - 1)
    with pytest.raises(InvalidArgument):
        checked_token_ids([-1])


def test_no_tokens_at_all_is_answered_with_a_number_that_helps() -> None:
    with pytest.raises(InvalidArgument, match="at least 1"):
        _build("x", max_tokens=-3)
