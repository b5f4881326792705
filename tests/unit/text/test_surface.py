"""The names and signatures that the router and the engine are written against."""

import inspect

import pytest

from tandem.core import types
from tandem.text import chat, detokenizer, stops, stream, tokenizer


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (tokenizer.Tokenizer.load, ["model_folder"]),
        (tokenizer.Tokenizer.encode, ["self", "text", "add_special_tokens"]),
        (tokenizer.Tokenizer.decode, ["self", "token_ids", "skip_special_tokens"]),
        (tokenizer.decode_utf8, ["data", "field"]),
        (detokenizer.IncrementalDetokenizer, ["tokenizer", "prompt_token_ids"]),
        (stops.StopMatcher, ["stop", "include_stop"]),
        (stream.TextStream, ["tokenizer", "prompt_token_ids", "stop", "include_stop"]),
        (stream.TextStream.feed, ["self", "token_id"]),
        (stream.TextStream.finish, ["self"]),
        (stream.TextStream.replay, ["self", "token_ids"]),
        (stream.TextStream.copy, ["self"]),
        (chat.ChatTemplate, ["source", "special_tokens", "now"]),
        (chat.ChatTemplate.render, ["self", "messages", "add_generation_prompt", "variables"]),
        (chat.ChatRenderer, ["template", "limits"]),
        (chat.ChatRenderer.render, ["self", "messages", "add_generation_prompt", "variables"]),
        (chat.ChatRenderer.close, ["self"]),
    ],
)
def test_signatures(function: object, parameters: list[str]) -> None:
    assert callable(function)
    assert list(inspect.signature(function).parameters) == parameters


def test_messages_are_the_core_s() -> None:
    assert chat.ChatMessage is types.ChatMessage


def test_what_chat_exports_exists() -> None:
    assert all(hasattr(chat, name) for name in chat.__all__)
