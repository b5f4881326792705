"""NaN and infinity in the KV itself: they fail their request alone, are not handed over, and leave nothing behind.

Logits may be finite all the same (a window hides early tokens, an infinite key weighs nothing), and they come after the
first blocks have left: what is handed over is looked at itself (vLLM #50283 passed poison on through its cache).
"""

from pathlib import Path

import pytest
import torch

from tandem.core.messages import AttemptFailed
from tandem.core.prepared_model import PreparedModel
from tandem.core.reasons import NUMERICS
from tandem.core.types import SamplingParams, StopParams
from tandem.engine.batch import ForwardBatch
from tandem.engine.config import EngineConfig
from tandem.engine.engine import Engine
from tandem.engine.execution import Runner
from tandem.engine.kv.pool import KvPool
from tandem.engine.sampling.sampler import Sampler
from tandem.engine.text_output import text_factory
from tests.fakes.engine_driver import TOKENIZER, Collected, assert_idle, drive, key_of, make_task, run_local
from tests.fakes.fake_runner import FAKE_SPEC, FakeRunner, fake_pool, reference_tokens
from tests.fakes.paged_models import load_paged, prepare_tiny

LONG = StopParams(max_tokens=12, ignore_eos=True)
SAMPLED = SamplingParams(temperature=0.8, top_k=40, seed=3)
BAD_NUMBERS = [float("nan"), float("inf"), float("-inf")]


class Spoiler:
    """A Runner around another: after each pass one number of the KV of the marked request's token is spoilt."""

    def __init__(
        self, inner: Runner, *, mark: int, position: int, number: float = float("nan"), layer: int = 0
    ) -> None:
        self.spec, self.pool = inner.spec, inner.pool
        self._inner = inner
        self._mark, self._position, self._number, self._layer = mark, position, number, layer

    def forward(self, batch: ForwardBatch) -> torch.Tensor:
        """Compute, then spoil: these logits are finite, as those of a pass that does not look at the token."""
        logits = self._inner.forward(batch)
        for index, owner in enumerate(batch.owners):
            if owner is not None and self._mark in owner.prompt:
                rows = range(int(batch.query_starts[index]), int(batch.query_starts[index + 1]))
                for slot in (int(batch.slots[row]) for row in rows if int(batch.positions[row]) == self._position):
                    block, offset = divmod(slot, self.pool.block_size)
                    self.pool.layer(self._layer)[block, 1, offset, -1, -1] = self._number
        return logits


def engine_over(runner: Runner, **settings: object) -> Engine:
    return Engine(
        runner=runner,
        sampler=Sampler(),
        make_text=text_factory(TOKENIZER),
        config=EngineConfig(**settings),  # type: ignore[arg-type]
    )


def numerics(out: Collected) -> list[tuple[str, bool]]:
    return [(e.request_id, e.retryable) for e in out.events if isinstance(e, AttemptFailed) and e.reason == NUMERICS]


@pytest.mark.parametrize("number", BAD_NUMBERS)
@pytest.mark.parametrize("position", [0, 3, 5, 8, 9])
@pytest.mark.parametrize("chunk_tokens", [4, 512])
def test_a_prompt_whose_kv_is_not_finite_is_not_handed_over(number: float, position: int, chunk_tokens: int) -> None:
    bad, good = make_task("bad", prompt=[300, *range(10, 19)]), make_task("good", num_prompt=10)
    runner = Spoiler(FakeRunner(fake_pool(16)), mark=300, position=position, number=number)
    engine = engine_over(runner, max_batched_tokens=chunk_tokens)
    for task in (bad, good):
        engine.start_prefill(task)
    out = drive(engine)
    assert numerics(out) == [("bad", False)]
    assert [sealed.key for sealed in out.sealed] == [key_of(good)]
    announced = [ref for result in out.results for f in result.filled if f.key == key_of(bad) for ref in f.refs]
    assert len(announced) <= position // 4, "what is not finite was offered to the sender"
    assert not any(delta.request_id == "bad" for result in out.results for delta in result.tokens)
    assert torch.isfinite(runner.pool.data).all(), "what is not finite is cleared at once"
    assert out.tokens["good", 0] == reference_tokens(good)[:1]
    engine.release(key_of(good))
    assert_idle(engine)


def test_blocks_that_a_sender_may_be_reading_are_not_cleared_under_it() -> None:
    bad = make_task("bad", prompt=[300, *range(10, 19)])
    runner = Spoiler(FakeRunner(fake_pool(16)), mark=300, position=9)
    engine = engine_over(runner, max_batched_tokens=4)
    engine.start_prefill(bad)
    out = Collected()
    out.add(engine.step())
    (first,) = [ref for f in out.results[0].filled for ref in f.refs]
    assert engine.table.pin(first, key_of(bad))
    before = runner.pool.data[first.block_id].clone()
    drive(engine, out)
    assert numerics(out) == [("bad", False)]
    assert torch.equal(runner.pool.data[first.block_id], before)
    assert not engine.table.unpin(first), "and what was copied out does not count"
    assert_idle(engine)


@pytest.fixture(scope="module", params=["llama", "mistral", "gemma2"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreparedModel:
    folder: Path = tmp_path_factory.mktemp(request.param)
    return prepare_tiny(request.param, folder)


@pytest.mark.parametrize("layer", [0, -1])
def test_batch_mates_of_a_poisoned_sequence_get_the_same_tokens(prepared: PreparedModel, layer: int) -> None:
    """In any place of the pool, and whatever the attention pads with."""
    mates = [make_task(f"r{size}", num_prompt=size, sampling=SAMPLED, stop=LONG) for size in (3, 16, 17, 40)]
    bad = make_task("bad", prompt=[7, *range(20, 50)], stop=LONG)
    assert not any(7 in task.prompt_token_ids for task in mates)
    alone = run_local(engine_over(load_paged(prepared, num_blocks=64).runner), mates)
    inner = load_paged(prepared, num_blocks=64).runner
    layer %= len(inner.spec.layers)
    engine = engine_over(Spoiler(inner, mark=7, position=33, layer=layer))
    out = run_local(engine, [bad, *mates])  # the first to come gets block 0
    assert numerics(out) == [("bad", False)]
    assert len(out.tokens["bad", 0]) >= 3, "it was decoding in the same batch"
    for task in mates:
        assert out.tokens[task.request_id, 0] == alone.tokens[task.request_id, 0]
    assert torch.isfinite(inner.pool.data).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_number_among_all_of_a_block_is_enough(dtype: torch.dtype) -> None:
    pool = KvPool(FAKE_SPEC, num_blocks=6, block_size=4, device="cpu", dtype=dtype)
    pool.data.normal_()
    pool.data[2].fill_(torch.finfo(dtype).max)  # large is not infinite
    assert pool.is_finite([])
    assert pool.is_finite([4, 1, 2, 0])
    for number in BAD_NUMBERS:
        for place in ((3, 0, 0, 0, 0, 0), (3, -1, -1, -1, -1, -1)):
            before = pool.data[place].clone()
            pool.data[place] = number
            assert not pool.is_finite([1, 3, 5])
            assert not pool.is_finite([2, 3, 4])
            assert pool.is_finite([0, 1, 2, 4, 5])
            pool.data[place] = before
