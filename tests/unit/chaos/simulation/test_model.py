"""The simulated model accuses every byte that is not the context's own."""

from collections.abc import Sequence

import pytest
import torch

from tandem.chaos.simulation.model import BLOCK_SIZE, SIM_SPEC, SimRunner, SimSampler, SimText, expected_answer
from tandem.core.types import FinishReason, SamplingParams, StopParams
from tandem.engine.config import EngineConfig
from tandem.engine.engine import Engine
from tandem.engine.kv.pool import KvPool
from tandem.engine.sequence import Sequence as EngineSequence
from tests.fakes.engine_driver import SettableClock, make_task


class _Bench:
    def __init__(self) -> None:
        self.accused: list[str] = []
        self.spoiled: set[int] = set()
        self.pool = KvPool(SIM_SPEC, num_blocks=16, block_size=BLOCK_SIZE, device="cpu", dtype=torch.float32)
        self.engine = Engine(
            runner=SimRunner(
                self.pool, spend=lambda prefill, decode: None, accuse=self.accused.append, on_pass=self._on_pass
            ),
            sampler=SimSampler(),
            make_text=lambda task: SimText(),
            config=EngineConfig(block_size=BLOCK_SIZE, num_blocks=16),
            clock=SettableClock(),
        )

    def _on_pass(self, owners: Sequence[EngineSequence]) -> set[int]:
        return self.spoiled

    def run(self, *, most_steps: int = 100) -> tuple[dict[int, list[int]], dict[int, str], dict[int, FinishReason]]:
        tokens: dict[int, list[int]] = {}
        texts: dict[int, str] = {}
        ends: dict[int, FinishReason] = {}
        for _ in range(most_steps):
            if not self.engine.has_work():
                break
            for delta in self.engine.step().tokens:
                tokens.setdefault(delta.child, []).extend(delta.token_ids)
                texts[delta.child] = texts.get(delta.child, "") + delta.text
                if delta.finish_reason is not None:
                    ends[delta.child] = delta.finish_reason
        return tokens, texts, ends


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_an_engine_says_what_is_expected(temperature: float) -> None:
    bench = _Bench()
    task = make_task(
        "r", prompt=range(1, 12), n=3, max_tokens=14, sampling=SamplingParams(temperature=temperature, seed=7)
    )
    bench.engine.start_local(task)
    tokens, texts, ends = bench.run()
    for child in range(3):
        must = expected_answer(task, child)
        assert (tuple(tokens[child]), texts[child], ends[child]) == (must.token_ids, must.text, must.finish_reason)
    assert bench.accused == []


def test_children_of_a_sampled_request_differ() -> None:
    task = make_task("r", prompt=(1, 2), n=3, max_tokens=12, sampling=SamplingParams(temperature=1.0, seed=3))
    assert len({expected_answer(task, child).token_ids for child in range(3)}) == 3


@pytest.mark.parametrize("side", [0, 1])
def test_one_changed_bit_anywhere_in_the_context_is_accused(side: int) -> None:
    bench = _Bench()
    bench.engine.start_local(make_task("r", prompt=range(1, 10), stop=StopParams(max_tokens=8, ignore_eos=True)))
    bench.engine.step()
    (sequence,) = bench.engine._scheduler.decoding
    view = bench.pool.bytes_view(sequence.block_ids[1])
    view[side * len(view) // 2 + 5] ^= 1
    bench.engine.step()
    (accused,) = bench.accused
    assert "positions [4]" in accused


def test_another_tenants_kv_is_accused() -> None:
    task = make_task("r", prompt=range(1, 10), max_tokens=4)
    bench, other = _Bench(), _Bench()
    bench.engine.start_local(task)
    other.engine.start_local(make_task("r", prompt=range(2, 11), max_tokens=4))
    bench.engine.step()
    other.engine.step()
    bench.pool.data.copy_(other.pool.data)
    bench.engine.step()
    assert bench.accused
