"""On a CPU in float32 a token's KV and logits have the same bits, however its prompt was cut and whoever was beside it.

That is what makes a cached prefix invisible: computed in one pass, in chunks, or token by token while decoding, it is
the same KV, and what follows it is computed as if nothing had been cached.
"""

from itertools import pairwise

import pytest
import torch

from tandem.core.prepared_model import PreparedModel
from tandem.engine.models.model import PathChoice
from tandem.engine.runner import RunRow
from tests.fakes.paged_models import PagedModel, load_paged, prepare_tiny
from tests.fakes.tiny_models import ARCHITECTURES

CASES: list[tuple[str, PathChoice]] = [(name, "transformers") for name in ARCHITECTURES] + [
    (name, "lean") for name in ("llama", "qwen2", "qwen3", "mistral")
]
NUM_TOKENS = 150
CUTS = {
    "token by token": (0, *range(60, 84), NUM_TOKENS),
    "chunks of 7": (*range(0, NUM_TOKENS, 7), NUM_TOKENS),
    "after a cached block": (0, 16, NUM_TOKENS),
    "after most of it": (0, 144, NUM_TOKENS),
    "the last token alone": (0, NUM_TOKENS - 1, NUM_TOKENS),
    "two and three rows": (0, 64, 66, 129, 132, NUM_TOKENS),
}


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreparedModel, PathChoice, torch.Tensor, torch.Tensor]:
    """Return a model, its path, and the logits and KV of one pass over the prompt."""
    architecture, path = request.param
    prepared = prepare_tiny(architecture, tmp_path_factory.mktemp(architecture))
    paged = load_paged(prepared, path=path, num_blocks=40)
    blocks = list(range(10))
    logits = paged.forward([_row(_prompt(), blocks, 0, NUM_TOKENS)])
    return prepared, path, logits, _kv(paged, blocks)


Case = tuple[PreparedModel, PathChoice, torch.Tensor, torch.Tensor]


def _prompt(seed: int = 5) -> list[int]:
    return torch.randint(4, 320, (NUM_TOKENS,), generator=torch.Generator().manual_seed(seed)).tolist()


def _row(tokens: list[int], blocks: list[int], start: int, end: int) -> RunRow:
    return RunRow(token_ids=tokens[start:end], start_position=start, block_ids=blocks, num_logits=end - start)


def _kv(paged: PagedModel, blocks: list[int]) -> torch.Tensor:
    """KV by position: [tokens, layers, 2, heads, dim]."""
    return paged.pool.data[blocks].permute(0, 3, 1, 2, 4, 5).flatten(0, 1)[:NUM_TOKENS].clone()


@pytest.mark.parametrize("cut", CUTS)
def test_however_a_prompt_is_cut(case: Case, cut: str) -> None:
    prepared, path, expected, expected_kv = case
    paged, blocks = load_paged(prepared, path=path, num_blocks=40), [33, 2, 17, 5, 39, 8, 0, 21, 11, 30]
    logits = torch.cat([paged.forward([_row(_prompt(), blocks, *part)]) for part in pairwise(CUTS[cut])])
    assert torch.equal(logits, expected)
    assert torch.equal(_kv(paged, blocks), expected_kv)


def test_whoever_is_beside_it(case: Case) -> None:
    """Decode rows and chunks of others, of many lengths, in every pass."""
    prepared, path, expected, expected_kv = case
    paged, blocks = load_paged(prepared, path=path, num_blocks=40), list(range(10))
    other = _prompt(seed=9)
    logits = []
    for index, part in enumerate(pairwise((0, 40, 100, 101, 102, 103, 130, NUM_TOKENS))):
        beside = [_row(other, list(range(10 + 7 * i, 17 + 7 * i)), 31 * i, 31 * i + 1 + index % 2) for i in range(4)]
        mine = _row(_prompt(), blocks, *part)
        rows = [*beside[: index % 4], mine, *beside[index % 4 :]]
        first = sum(row.num_logits for row in rows[: index % 4])
        logits.append(paged.forward(rows)[first : first + mine.num_logits])
    assert torch.equal(torch.cat(logits), expected)
    assert torch.equal(_kv(paged, blocks), expected_kv)
