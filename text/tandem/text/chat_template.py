"""A model's chat template, rendered by Jinja in a sandbox the way transformers does. No limits of time or memory here.

A template is a program from the internet: even *compiling* one may take all memory (`{{ "a" * 10**10 }}` is folded at
compile time). So building a `ChatTemplate` compiles nothing, and servers render through
`tandem.text.chat_renderer.ChatRenderer`, which calls this code in a process it can kill.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

from tandem.core.errors import InvalidArgument
from tandem.core.types import ChatMessage

Scalar = str | int | float | bool

OUTPUT_FACTOR = 4
OUTPUT_ALLOWANCE_BYTES = 64 * 1024

_MAX_VARIABLES = 32
_MAX_NAME_CHARS = 64
# Names a template or its surroundings give a meaning to; a caller that could set them could change the prompt's frame.
_RESERVED = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "tokenize",
     "chat_template", "conversation", "padding", "truncation", "max_length", "return_tensors", "return_dict",
     "return_assistant_tokens_mask", "tokenizer_kwargs", "raise_exception", "strftime_now", "namespace",
     "range", "dict", "lipsum", "cycler", "joiner", "loop", "self", "super", "caller", "varargs", "kwargs",
     "true", "false", "none", "True", "False", "None"}
)  # fmt: skip


class TemplateRefused(jinja2.TemplateError):
    """The template itself called ``raise_exception``: these messages don't suit the model."""


class OutputTooLarge(Exception):
    """The rendered text passed the bound."""


class ChatTemplate:
    """Source of one template and the special tokens it may name (``bos_token`` and so on)."""

    def __init__(
        self, source: str, special_tokens: dict[str, str], *, now: Callable[[], datetime] = datetime.now
    ) -> None:
        """``now`` is the local time that ``strftime_now`` tells the template. Compiles nothing."""
        self.source = source
        self.special_tokens = special_tokens
        self._now = now

    @cached_property
    def _compiled(self) -> jinja2.Template:
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals.pop("lipsum")
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: self._now().strftime(form)
        environment.globals["namespace"] = _Namespace
        environment.globals["dict"] = _Dict()
        return environment.from_string(self.source)

    def compile(self) -> None:
        """Compile now instead of at the first render. Raises jinja2.TemplateError, MemoryError and the like."""
        _ = self._compiled

    def render(
        self,
        messages: Sequence[ChatMessage],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Scalar] | None = None,
    ) -> str:
        """The prompt's text. Runs the template in this process, without a time limit: for trusted templates only.

        Raises:
            InvalidArgument: a variable has a reserved name or no scalar value.
            TemplateRefused: the template refuses these messages; its message says why.
            OutputTooLarge: the text passes 4 times the input plus 64 KiB.
            jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, MemoryError: the template failed.
        """
        extra = check_variables(variables or {}, self.special_tokens)
        max_chars = max_output_bytes(messages, extra)
        parts: list[str] = []
        num_bytes = 0
        for part in self._compiled.generate(
            messages=[{"role": message.role, "content": message.content} for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self.special_tokens,
            **extra,
        ):
            num_bytes += len(part.encode("utf-8", "surrogatepass"))
            if num_bytes > max_chars:
                raise OutputTooLarge
            parts.append(part)
        return "".join(parts)


def check_variables(variables: Mapping[str, object], special_tokens: Mapping[str, str]) -> dict[str, Scalar]:
    """The caller's template variables if all of them are allowed: plain names, scalar values, no reserved name.

    Raises:
        InvalidArgument: names the first that is not.
    """
    if len(variables) > _MAX_VARIABLES:
        raise InvalidArgument(
            "template_variables", f"has {len(variables)} entries", remedy=f"use at most {_MAX_VARIABLES}"
        )
    checked: dict[str, Scalar] = {}
    for name, value in variables.items():
        if not (name.isascii() and name.isidentifier() and len(name) <= _MAX_NAME_CHARS) or name.startswith("_"):
            raise InvalidArgument(
                "template_variables",
                f"has the name {name[:_MAX_NAME_CHARS]!r}",
                remedy=f"use letters, digits and inner underscores, at most {_MAX_NAME_CHARS}",
            )
        if name in _RESERVED or name in special_tokens or name.endswith("_token"):
            raise InvalidArgument(f"template_variables.{name}", "is a reserved name", remedy="choose another name")
        if type(value) not in (str, int, float, bool):
            raise InvalidArgument(
                f"template_variables.{name}",
                f"is a {type(value).__name__}",
                remedy="use a string, a number or a boolean",
            )
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InvalidArgument(f"template_variables.{name}", "is too large", remedy="use a 64-bit integer")
        checked[name] = value  # type: ignore[assignment]
    return checked


def max_output_bytes(messages: Sequence[ChatMessage], variables: Mapping[str, Scalar]) -> int:
    """Bound on the rendered text in UTF-8: 4 times what the caller sent, plus 64 KiB for the template's own text."""
    sent = sum(_size(message.role) + _size(message.content) for message in messages)
    sent += sum(_size(value) for value in variables.values() if isinstance(value, str))
    return OUTPUT_FACTOR * sent + OUTPUT_ALLOWANCE_BYTES


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _raise_exception(message: object) -> None:
    raise TemplateRefused(str(message))


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own filter this escapes no HTML: the model must see the characters themselves."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Dict:
    """``dict(...)`` for templates: the call alone, not the class with its attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(jinja2.utils.Namespace):
    """``namespace(...)`` that takes no underscored names, which the sandbox guards on other objects."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # Jinja's own signature: ``self`` may be one of the names.
        self, rest = args[0], args[1:]
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _require_plain(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: object) -> None:
        _require_plain(name)
        super().__setitem__(name, value)


def _require_plain(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace takes no name with a leading underscore, such as {name!r}")


class _GenerationBlock(jinja2.ext.Extension):
    """``{% generation %}...{% endgeneration %}`` marks the answer for training; for serving it is its body."""

    tags = {"generation"}  # noqa: RUF012  (Jinja declares it as an instance variable)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
