"""The paged path gives the tokens of ``transformers.generate``: every architecture, chunking, block size, batch mix."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tandem.core.prepared_model import PreparedModel
from tandem.engine.models.model import PathChoice
from tandem.engine.runner import RunRow
from tests.fakes.paged_models import PagedModel, load_paged, prepare_tiny
from tests.fakes.tiny_models import ARCHITECTURES

LEAN = ("llama", "qwen2", "qwen3", "mistral")
CASES: list[tuple[str, PathChoice]] = [(name, "transformers") for name in ARCHITECTURES] + [
    (name, "lean") for name in LEAN
]
CHUNKINGS = [(512,), (1,), (7,), (16,), (15, 1, 17), (33, 2, 5)]


def prompt(length: int, seed: int = 1) -> list[int]:
    """Draw ordinary token ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, 320, (length,), generator=generator).tolist()


def shuffled_blocks(count: int, seed: int = 3) -> list[int]:
    """Return block ids in no order."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def reference(prepared: PreparedModel) -> Any:
    """Load the same folder with transformers."""
    model = AutoModelForCausalLM.from_pretrained(prepared.folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    return model


def generate(model: Any, tokens: list[int], num_tokens: int) -> list[int]:
    """Greedy tokens by transformers."""
    ids = torch.tensor([tokens])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False)
    found: list[int] = out[0, len(tokens) :].tolist()
    return found


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreparedModel, PathChoice, Any]:
    """Return a model, the path that runs it, and the reference."""
    architecture, path = request.param
    prepared = prepare_tiny(architecture, tmp_path_factory.mktemp(architecture))
    return prepared, path, reference(prepared)


Case = tuple[PreparedModel, PathChoice, Any]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 33, 70])
def test_greedy_tokens_are_those_of_generate(case: Case, length: int) -> None:
    prepared, path, model = case
    tokens = prompt(length, seed=length)
    paged = load_paged(prepared, path=path)
    chunks = CHUNKINGS[length % len(CHUNKINGS)]
    found = paged.greedy(tokens, shuffled_blocks(64)[:8], num_tokens=24, chunks=chunks)
    assert found == generate(model, tokens, 24)
    assert len(set(found)) > 3, "a model that repeats itself proves little"


@pytest.mark.parametrize(
    ("block_size", "chunks"), [(16, (512,)), (16, (15, 1, 17)), (4, (7,)), (4, (33, 2, 5)), (1, (16,))]
)
def test_logits_of_every_position(case: Case, block_size: int, chunks: tuple[int, ...]) -> None:
    prepared, path, model = case
    tokens = prompt(67)
    paged = load_paged(prepared, path=path, block_size=block_size, num_blocks=80)
    found = paged.prefill(tokens, shuffled_blocks(80)[: -(-67 // block_size)], chunks)
    with torch.inference_mode():
        expected = model(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-4)


def test_mixed_batches(case: Case) -> None:
    """Sequences at different stages share every forward pass; each gives the tokens it gives alone."""
    prepared, path, model = case
    paged = load_paged(prepared, path=path, num_blocks=64)
    pool = shuffled_blocks(64)
    prompts = [prompt(length, seed=length) for length in (5, 16, 40, 64, 29, 1)]
    expected = [generate(model, tokens, 12) for tokens in prompts]
    assert _run_mixed(paged, prompts, pool, num_tokens=12) == expected


def _run_mixed(paged: PagedModel, prompts: list[list[int]], pool: list[int], *, num_tokens: int) -> list[list[int]]:
    """Start one sequence every second step, in chunks of 13; decode all that have finished prefill."""
    done = [0] * len(prompts)
    made: list[list[int]] = [[] for _ in prompts]
    for step in range(400):
        rows, owners = [], []
        for index, tokens in enumerate(prompts):
            if step < 2 * index or len(made[index]) >= num_tokens:
                continue
            part = tokens[done[index] : done[index] + 13] or made[index][-1:]
            blocks = pool[index * 8 : index * 8 + 8]
            rows.append(RunRow(token_ids=part, start_position=done[index], block_ids=blocks, num_logits=1))
            owners.append(index)
        if not rows:
            break
        picks = paged.forward(rows).argmax(-1).tolist()
        for row, index, pick in zip(rows, owners, picks, strict=True):
            done[index] += len(row.token_ids)
            if done[index] >= len(prompts[index]):
                made[index].append(pick)
    return made


def test_blocks_do_not_matter(case: Case) -> None:
    """Bit for bit the same logits, whatever blocks hold the KV and whatever else is in the pool."""
    prepared, path, _ = case
    tokens = prompt(50)
    plain = load_paged(prepared, path=path)
    first = plain.prefill(tokens, list(range(4)), (20, 30))
    dirty = load_paged(prepared, path=path)
    dirty.pool.data.normal_()
    second = dirty.prefill(tokens, [63, 0, 17, 5], (20, 30))
    assert torch.equal(first, second)


def test_prefix_written_by_another_run(case: Case) -> None:
    """KV blocks copied into another pool, as a hand-over does, continue to the same tokens."""
    prepared, path, model = case
    tokens = prompt(37)
    sender = load_paged(prepared, path=path)
    first = int(sender.prefill(tokens, [3, 9, 4], (37,))[-1].argmax())
    receiver = load_paged(prepared, path=path)
    for source, target in zip((3, 9, 4), (60, 1, 30), strict=True):
        receiver.pool.data[target] = sender.pool.data[source]
    found = [first]
    for step in range(10):
        row = RunRow(token_ids=found[-1:], start_position=37 + step, block_ids=[60, 1, 30], num_logits=1)
        found.append(int(receiver.forward([row])[0].argmax()))
    assert found == generate(model, tokens, 11)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_stays_close(case: Case, dtype: str) -> None:
    prepared, path, model = case
    tokens = prompt(40)
    found = load_paged(prepared, path=path, dtype=dtype).prefill(tokens, [5, 6, 7], (17, 23))
    with torch.inference_mode():
        expected = model(torch.tensor([tokens])).logits[0]
    assert found.dtype == torch.float32
    difference = (found - expected).abs().mean() / expected.abs().mean()
    assert difference < (0.15 if dtype == "bfloat16" else 0.03)
