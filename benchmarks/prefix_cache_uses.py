"""The three uses of the published prompt-caching table, at lengths that a small machine can hold.

A use has an opening that all its asks share. In a conversation each ask follows all earlier ones and their answers; in
the other two each ask follows the opening alone.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tandem.core.types import ChatMessage
from tandem.text.tokenizer import Tokenizer

_ROOT = Path(__file__).parents[1]
_TEXTS = ("LICENSE", "ARCHITECTURE.md", "README.md", "docs/*.md")  # long English text that every clone has

_QUESTIONS = (
    "What is it about?",
    "Who is it for?",
    "Name its main parts.",
    "What must never happen?",
    "What is granted?",
    "Sum it up.",
)
_TURNS = (
    "Who are you, and what can you do for me?",
    "What should I read first?",
    "Explain that in one sentence.",
    "Is there an example?",
    "And what if it fails?",
    "Who decides that?",
    "How long does it take?",
    "What does it cost?",
    "Can it be undone?",
    "Thank you. What did we talk about?",
)
_SUBJECTS = ("The parcel", "My new phone", "The invoice", "Your colleague", "The app", "This lamp", "The refund")
_VERDICTS = (
    ("arrived two days early and in perfect shape", "praise"),
    ("was broken when I opened the box", "complaint"),
    ("shows a number that I do not understand", "question"),
    ("answered everything at once, many thanks", "praise"),
    ("has been missing for three weeks now", "complaint"),
    ("should be sent to my other address, please", "request"),
    ("stops working whenever it rains", "complaint"),
    ("needs to be changed to monthly payments", "request"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of each. Lengths are tokens of the model's own tokenizer."""

    document_tokens: int = 7000
    num_questions: int = 4
    instruction_tokens: int = 2500
    num_shots: int = 6
    system_tokens: int = 2500
    num_turns: int = 10
    max_tokens: int = 16


QUICK_SIZES = Sizes(
    document_tokens=1500, num_questions=3, instruction_tokens=500, num_shots=3, system_tokens=500, num_turns=4
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the published table says was saved; fractions."""

    ttft_saved: float
    cost_saved: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One row of the table."""

    name: str
    opening: tuple[ChatMessage, ...]
    asks: tuple[str, ...]
    is_conversation: bool
    num_warming: int  # asks at the beginning that only warm the cache and are left out of the figures
    max_tokens: int
    goal: Goal


def make_uses(sizes: Sizes, tokenizer: Tokenizer) -> tuple[Use, ...]:
    """Return the uses, in the order of the table."""
    document, system = _long_text(tokenizer, sizes.document_tokens), _long_text(tokenizer, sizes.system_tokens)
    return (
        Use(
            name="document",
            opening=(ChatMessage(role="system", content=document),),
            asks=_QUESTIONS[: 1 + sizes.num_questions],
            is_conversation=False,
            num_warming=1,
            max_tokens=sizes.max_tokens,
            goal=Goal(ttft_saved=0.79, cost_saved=0.90),
        ),
        Use(
            name="manyshot",
            opening=(ChatMessage(role="system", content=_instructions(tokenizer, sizes.instruction_tokens)),),
            asks=tuple(sentence for sentence, _ in _examples(random.Random(2), 1 + sizes.num_shots)),
            is_conversation=False,
            num_warming=1,
            max_tokens=sizes.max_tokens // 2,
            goal=Goal(ttft_saved=0.31, cost_saved=0.86),
        ),
        Use(
            name="chat",
            # Another beginning than the document's: else its cached blocks would serve the chat as well.
            opening=(ChatMessage(role="system", content=f"You know all of this by heart.\n\n{system}"),),
            asks=_TURNS[: sizes.num_turns],
            is_conversation=True,
            num_warming=0,
            max_tokens=2 * sizes.max_tokens,
            goal=Goal(ttft_saved=0.75, cost_saved=0.53),
        ),
    )


def _long_text(tokenizer: Tokenizer, num_tokens: int) -> str:
    files = [path for pattern in _TEXTS for path in sorted(_ROOT.glob(pattern))]
    tokens = tokenizer.encode("\n\n".join(path.read_text(encoding="utf-8") for path in files))
    if len(tokens) < num_tokens:
        raise ValueError(f"the texts of this clone have {len(tokens)} tokens, not {num_tokens}")
    return tokenizer.decode(tokens[:num_tokens])


def _instructions(tokenizer: Tokenizer, num_tokens: int) -> str:
    """Return a task and as many worked examples as fit."""
    lines = ["Say for each message of a customer whether it is praise, a complaint, a question or a request."]
    used = len(tokenizer.encode(lines[0]))
    for sentence, verdict in _forever(random.Random(1)):
        line = f"Message: {sentence}\nKind: {verdict}"
        used += len(tokenizer.encode(line)) + 1
        if used > num_tokens:
            break
        lines.append(line)
    return "\n".join(lines)


def _examples(draw: random.Random, count: int) -> Sequence[tuple[str, str]]:
    source = _forever(draw)
    return [next(source) for _ in range(count)]


def _forever(draw: random.Random) -> Iterator[tuple[str, str]]:
    while True:
        what, verdict = draw.choice(_VERDICTS)
        yield f"{draw.choice(_SUBJECTS)} with number {draw.randrange(1000, 9999)} {what}.", verdict
