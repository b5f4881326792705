"""What the cached equality runs ask: conversations of several tenants whose prompts share as much as prompts can.

Prompts are put together from few chunks of one block each, so that the same block stands at different places and behind
different beginnings, and each chunk has a twin that differs in its last token only: a name that forgot where a block
stands, or one of its tokens, finds wrong KV here. All tenants hold the same conversations. Zero I/O.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from benchmarks.equality_cases import Answer, make_task
from tandem.core.ids import RequestId, Tenant
from tandem.core.types import GenerationTask, KvSource, PrefixPin

BLOCK = 16
TENANTS = (Tenant("a"), Tenant("b"), Tenant("c"))
_NUM_CHUNKS = 3
_PIN_TTL_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request and what must be said. ``turn`` orders: a turn is asked after all earlier ones are answered."""

    task: GenerationTask
    source: KvSource
    expected: tuple[tuple[int, ...], ...]
    turn: int

    def texts(self) -> list[tuple[int, ...]]:
        """What may be cached once it ran."""
        return [(*self.task.prompt_token_ids, *said) for said in self.expected]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """All cases of a group, in order, and a beginning that many prompts share."""

    cases: tuple[Case, ...]
    shared: tuple[int, ...]


def make_script(
    *,
    seed: int,
    vocab_size: int,
    answer: Callable[[GenerationTask], Answer],
    num_talks: int = 4,
    num_turns: int = 3,
    max_tokens: int = 12,
) -> Script:
    """Return the conversations. ``answer`` says what a single process without a cache answers."""
    draw = random.Random(seed)
    chunks = [[draw.randrange(4, vocab_size) for _ in range(BLOCK)] for _ in range(_NUM_CHUNKS)]
    twins = [[*chunk[:-1], 4 + (chunk[-1] - 3) % (vocab_size - 4)] for chunk in chunks]
    turns: list[list[Case]] = [[] for _ in range(num_turns)]
    for talk in range(num_talks):
        history = list(chunks[0])
        for turn in range(num_turns):
            history += _said_by_user(draw, chunks + twins, vocab_size)
            task = replace(
                make_task(
                    len(history),
                    vocab_size=vocab_size,
                    num_sequences=1 + (talk + turn) % 3,
                    sampled=talk % 2 == 1,
                    max_tokens=max_tokens,
                    seed=seed + 10 * talk + turn,
                ),
                prompt_token_ids=tuple(history),
            )
            expected = tuple(answer(task))
            for tenant in TENANTS:
                own = replace(task, tenant=tenant, request_id=RequestId(f"{tenant}-{talk}-{turn}"))
                source = KvSource.LOCAL if draw.random() < 0.2 else KvSource.HANDOVER
                turns[turn].append(Case(task=own, source=source, expected=expected, turn=turn))
            history += expected[0]
    for cases in turns:
        draw.shuffle(cases)
    return Script(cases=tuple(case for cases in turns for case in cases), shared=tuple(chunks[0]))


def _said_by_user(draw: random.Random, chunks: Sequence[Sequence[int]], vocab_size: int) -> list[int]:
    whole = [token for chunk in draw.choices(chunks, k=draw.randrange(0, 4)) for token in chunk]
    return whole + [draw.randrange(4, vocab_size) for _ in range(draw.randrange(1, BLOCK + 4))]


def pinned(case: Case) -> Case:
    """Return the case, asking to keep the first half of its prompt."""
    num_tokens = max(len(case.task.prompt_token_ids) // 2, 1)
    return replace(case, task=replace(case.task, pin=PrefixPin(num_tokens=num_tokens, ttl_s=_PIN_TTL_S)))


def batches(cases: Sequence[Case], size: int) -> Iterable[tuple[Case, ...]]:
    """Yield cases that run together: never two turns at once."""
    for _, group in itertools.groupby(cases, key=lambda case: case.turn):
        turn = tuple(group)
        yield from (turn[start : start + size] for start in range(0, len(turn), size))


class Witness:
    """Knows what each tenant could have cached, and so how much of a prompt may be found at most."""

    def __init__(self, public: Sequence[int] = ()) -> None:
        self._public = tuple(public)
        self._texts: dict[Tenant, list[tuple[RequestId, tuple[int, ...]]]] = {}

    def runs(self, case: Case) -> None:
        """The case runs now or ran: what it says may be found from now on."""
        texts = self._texts.setdefault(case.task.tenant, [])
        texts += [(case.task.request_id, text) for text in case.texts()]

    def most_cached(self, case: Case) -> int:
        """Tokens of the case's prompt that its tenant's other requests, or a public prefix, can have left at most."""
        prompt = case.task.prompt_token_ids
        texts = [text for name, text in self._texts.get(case.task.tenant, []) if name != case.task.request_id]
        longest = max((_num_common(prompt, text) for text in [*texts, self._public]), default=0)
        return min(longest, len(prompt) - 1) // BLOCK * BLOCK


def _num_common(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
