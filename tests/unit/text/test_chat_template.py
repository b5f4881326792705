"""What templates see and may do, rendered in this process. The limits of time are in test_chat_renderer.py."""

from datetime import datetime

import jinja2
import pytest

from tandem.core.errors import InvalidArgument
from tandem.text.chat import ChatMessage, ChatTemplate
from tandem.text.chat_template import OutputTooLarge, TemplateRefused, check_variables, max_output_bytes

HELLO = [ChatMessage(role="user", content="hello")]


def render(source: str, messages: list[ChatMessage] = HELLO, **variables: str | int | float | bool) -> str:
    template = ChatTemplate(source, {"bos_token": "<s>"}, now=lambda: datetime(2031, 5, 6))
    return template.render(messages, variables=variables)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0]['role'] }}:{{ messages[0].content }}", "<s>user:hello"),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("{{ {'a': '<b>&', 'é': 1} | tojson }}", '{"a": "<b>&", "é": 1}'),
        ("{{ {'b': 1, 'a': [1]} | tojson(indent=1, sort_keys=true) }}", '{\n "a": [\n  1\n ],\n "b": 1\n}'),
        ("{{ strftime_now('%d %b %Y') }}", "06 May 2031"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),  # trim_blocks and lstrip_blocks
        (
            "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}"
            "{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "013",
        ),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "1"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "hello!"),
        (
            "{{ dict(a=1).a }}{{ dict.fromkeys('ab', 0) }}{{ tools is none }}{{ documents is none }}",
            "1{'a': 0, 'b': 0}TrueTrue",
        ),
        ("[{{ no_such_variable }}]{{ eos_token is defined }}", "[]False"),
        ("{{ messages[0].content | upper | trim }}", "HELLO"),
    ],
)
def test_renders_as_transformers_does(source: str, expected: str) -> None:
    assert render(source) == expected


def test_variables_reach_the_template() -> None:
    assert render("{{ think }}{{ budget + 1 }}{{ name }}", think=False, budget=2, name="n") == "False3n"


def test_add_generation_prompt_off() -> None:
    template = ChatTemplate("{{ add_generation_prompt }}", {})
    assert template.render(HELLO, add_generation_prompt=False) == "False"


def test_the_template_s_own_refusal_carries_its_words() -> None:
    with pytest.raises(TemplateRefused, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ (messages | attr('__class__')).__base__ }}",
        "{{ dict.mro() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ '%s' | format(1) }}{{ '{0.__class__}'.format(1) }}{{ ''.__init__() }}",
        "{% set ns = namespace(__class__=1) %}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ range(10**6) | list }}",
        "{{ lipsum() }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_the_sandbox_gives_nothing_away(source: str) -> None:
    with pytest.raises((jinja2.TemplateError, OverflowError, TypeError)):
        render(source)


@pytest.mark.parametrize(
    "expression",
    ["messages.__class__", "raise_exception.__globals__", "strftime_now.__globals__", "self.__init__"],
)
def test_what_the_sandbox_hides_prints_nothing(expression: str) -> None:
    assert render("[{{ " + expression + " }}]") == "[]"
    with pytest.raises(jinja2.TemplateError):
        render("{{ " + expression + ".x }}")


def test_building_a_template_compiles_nothing() -> None:
    template = ChatTemplate("{{ 'a' * 10**12 }}{% broken", {})
    with pytest.raises(jinja2.TemplateSyntaxError):
        template.compile()


def test_output_bound() -> None:
    template = "{% for _ in range(2000) %}{{ messages[0].content }}{% endfor %}"
    assert max_output_bytes(HELLO, {"x": "éé", "n": 5}) == 4 * (4 + 5 + 4) + 65536
    assert len(render(template, [ChatMessage(role="user", content="x" * 30)])) == 60_000
    with pytest.raises(OutputTooLarge):
        render(template, [ChatMessage(role="user", content="x" * 50)])
    with pytest.raises(OutputTooLarge):  # bytes count, not characters
        render(template, [ChatMessage(role="user", content="é" * 30)])


@pytest.mark.parametrize(
    "name",
    [
        "messages",
        "tools",
        "documents",
        "tokenize",
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "bos_token",
        "image_token",
        "raise_exception",
        "range",
        "loop",
        "self",
        "true",
        "__class__",
        "_x",
        "a b",
        "",
        "é",
        "x" * 65,
    ],
)
def test_names_that_mean_something_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="template_variables"):
        check_variables({name: 1}, {"bos_token": "<s>"})


@pytest.mark.parametrize("value", [None, [], {}, b"", (1,), object()])
def test_only_scalars_are_allowed(value: object) -> None:
    with pytest.raises(InvalidArgument, match=r"template_variables\.x: is a"):
        check_variables({"x": value}, {})


def test_too_many_variables() -> None:
    with pytest.raises(InvalidArgument, match="has 33 entries"):
        check_variables({f"v{i}": i for i in range(33)}, {})
