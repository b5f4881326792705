"""The tagged engine answers what the oracle says, and notices every byte of KV that is not the row's own."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tandem.chaos.tagged.expected import Oracle
from tandem.chaos.tagged.model import VOCAB_SIZE, Poison, read_shape
from tandem.core.clock import MonotonicClock
from tandem.core.errors import ModelError
from tandem.core.prepared_model import PreparedModel
from tandem.core.reasons import ENGINE, NUMERICS
from tandem.core.types import GenerationTask, SamplingParams, StopParams
from tandem.engine.config import EngineConfig
from tandem.worker_host.assembly import build_engine
from tests.fakes.prepared_tiny import prepare_tiny
from tests.unit.chaos.tagged_engines import TaggedStage, tagged_model, tagged_task

SAMPLED = SamplingParams(temperature=0.9, top_k=40, top_p=0.95, seed=7)
PENALISED = SamplingParams(
    temperature=0.7, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.4, seed=11,
    logit_bias={40: 3.0, 41: -5.0},
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreparedModel:
    return tagged_model(tmp_path_factory.mktemp("tagged"))


@pytest.fixture(scope="module")
def oracle(model: PreparedModel) -> Oracle:
    return Oracle(model.folder)


def _mixed_tasks(oracle: Oracle) -> list[GenerationTask]:
    generator = np.random.default_rng(5)
    tasks = []
    for index in range(24):
        length = (3, 4, 5, 8, 9, 16, 17)[index % 7]
        prompt = tuple(generator.integers(4, 300, length).tolist())
        sampling = (SamplingParams(), SAMPLED, PENALISED)[index % 3]
        tasks.append(
            tagged_task(
                f"r{index}", prompt=prompt, n=1 + index % 3, sampling=sampling, tenant=f"t{index % 2}", max_tokens=14
            )
        )
    said = oracle.expected(tasks[1])[0].text
    stop = StopParams(max_tokens=14, stop=(said[4:6],), ignore_eos=True)
    return [*tasks, tagged_task("stop", prompt=tasks[1].prompt_token_ids, sampling=SAMPLED, tenant="t1", stop=stop)]


def _assert_as_expected(stage: TaggedStage, tasks: list[GenerationTask], oracle: Oracle) -> None:
    for task, family in zip(tasks, oracle.expected_many(tasks), strict=True):
        for child, expected in enumerate(family):
            key = (task.request_id, child)
            assert stage.tokens[key] == list(expected.token_ids), key
            assert stage.texts[key] == expected.text, key


@pytest.mark.parametrize("num_blocks", [200, 28])
def test_the_engine_says_what_the_oracle_says(model: PreparedModel, oracle: Oracle, num_blocks: int) -> None:
    # 28 blocks: sequences are preempted and computed again.
    stage = TaggedStage(model, num_blocks=num_blocks, max_batched_tokens=16, growth_margin=0.0)
    tasks = _mixed_tasks(oracle)
    for task in tasks:
        stage.engine.start_local(task)
    stage.run()
    assert not stage.failures
    _assert_as_expected(stage, tasks, oracle)
    assert stage.evidence.verified.tag_mismatches == 0
    assert stage.evidence.verified.num_tokens > 1000
    stage.engine.check_integrity()


def test_answers_depend_on_the_tenant_the_prompt_and_the_order(model: PreparedModel, oracle: Oracle) -> None:
    variants = [
        tagged_task("a", prompt=(10, 20, 30)),
        tagged_task("b", prompt=(10, 20, 30), tenant="other"),
        tagged_task("c", prompt=(20, 10, 30)),
        tagged_task("d", prompt=(10, 20, 31)),
        tagged_task("e", prompt=(10, 10, 20, 30)),
    ]
    answers = {family[0].token_ids for family in oracle.expected_many(variants)}
    assert len(answers) == len(variants)


def test_many_at_once_are_answered_like_one(oracle: Oracle) -> None:
    tasks = _mixed_tasks(oracle)
    assert oracle.expected_many(tasks) == [oracle.expected(task) for task in tasks]


def test_answers_end_by_length_end_token_and_stop_string(oracle: Oracle) -> None:
    tasks = [tagged_task(f"r{i}", prompt=(10, i), max_tokens=40) for i in range(20)]
    ends = {family[0].finish_reason.value for family in oracle.expected_many(tasks)}
    assert ends == {"stop", "length"}


def _words(stage: TaggedStage) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return stage.engine.pool.data.numpy().view(np.uint8)


def _decoding(model: PreparedModel) -> TaggedStage:
    stage = TaggedStage(model)
    stage.engine.start_local(tagged_task("victim", stop=StopParams(max_tokens=30, ignore_eos=True)))
    for _ in range(4):
        stage.step()
    return stage


def _table(stage: TaggedStage, tenant: str = "local") -> list[int]:
    return next(s.block_ids for s in stage.engine._scheduler.decoding if s.attempt.task.tenant == tenant)


def test_one_flipped_bit_anywhere_in_a_context_is_found(model: PreparedModel) -> None:
    generator = np.random.default_rng(3)
    stage = TaggedStage(model)
    num_found = 0
    for number in range(16):
        name = f"victim{number}"
        stop = StopParams(max_tokens=30, ignore_eos=True)
        stage.engine.start_local(tagged_task(name, stop=stop))
        for _ in range(4):
            stage.step()
        block, layer, side, token = (int(generator.integers(0, end)) for end in (2, 2, 2, 4))
        is_read = block * 4 + token < 5 + 3
        slot = _words(stage)[_table(stage)[block], layer, side, token].reshape(-1)
        slot[generator.integers(0, len(slot))] ^= 1 << int(generator.integers(0, 6))  # low bits: it stays finite
        stage.step()
        assert bool(stage.failures) == is_read, (block, layer, side, token)
        if is_read:
            num_found += 1
            assert stage.failures.pop().reason == ENGINE
            found = stage.evidence.mismatches[-1]
            assert (found.request_id, found.position, found.num_wrong_slots) == (name, block * 4 + token, 1)
        stage.run()  # a bit that lies beyond the context is written over, and the request goes on
        assert not stage.failures
    assert stage.evidence.verified.tag_mismatches == num_found > 8


def test_kv_of_another_tenant_or_another_order_of_blocks_is_found(model: PreparedModel) -> None:
    stage = TaggedStage(model)
    for tenant in ("a", "b"):
        stop = StopParams(max_tokens=30, ignore_eos=True)
        stage.engine.start_local(tagged_task(tenant, tenant=tenant, stop=stop, prompt=tuple(range(10, 22))))
    for _ in range(3):
        stage.step()
    data = stage.engine.pool.data
    data[_table(stage, "a")[0]] = data[_table(stage, "b")[0]]  # same tokens, same positions, another tenant
    stage.step()
    assert [m.request_id for m in stage.evidence.mismatches] == ["a"]
    assert stage.evidence.mismatches[0].num_wrong_slots == 4

    stage = _decoding(model)
    data = stage.engine.pool.data
    first, second = _table(stage)[:2]
    data[[first, second]] = data[[second, first]]
    stage.step()
    assert stage.evidence.verified.tag_mismatches == 1


def test_a_zeroed_block_is_found(model: PreparedModel) -> None:
    stage = _decoding(model)
    stage.engine.pool.zero(_table(stage)[0])
    stage.step()
    assert stage.evidence.verified.tag_mismatches == 1


def test_nan_kv_fails_its_request_alone_and_is_no_mismatch(model: PreparedModel, oracle: Oracle) -> None:
    stage = TaggedStage(model)
    bystander = tagged_task("bystander", prompt=(60, 61, 62), n=2, sampling=SAMPLED)
    stage.engine.start_local(bystander)
    stage.engine.start_local(tagged_task("nan", prompt=(10, 11, Poison.NAN, 12, 13, 14)))
    stage.run()
    assert [(f.request_id, f.reason) for f in stage.failures] == [("nan", NUMERICS)]
    assert stage.evidence.verified.tag_mismatches == 0
    assert stage.evidence.verified.nan_rows > 0
    _assert_as_expected(stage, [bystander], oracle)
    assert np.isfinite(stage.engine.pool.data.numpy()).all(), "a failed request's blocks are cleared"


def test_poisons_raise_and_late_ones_wait_for_decoding(model: PreparedModel) -> None:
    stage = TaggedStage(model)
    stage.engine.start_local(tagged_task("raise", prompt=(10, Poison.RAISE)))
    stage.run()
    assert [f.reason for f in stage.failures] == [ENGINE]

    stage = TaggedStage(model)
    stop = StopParams(max_tokens=20, ignore_eos=True)
    stage.engine.start_local(tagged_task("late", prompt=(10, Poison.RAISE, Poison.LATE), stop=stop))
    stage.run()
    assert [f.reason for f in stage.failures] == [ENGINE]
    assert len(stage.tokens["late", 0]) == 3

    stage = TaggedStage(model)
    stage.engine.start_local(tagged_task("oom", prompt=(10, Poison.OUT_OF_MEMORY)))
    with pytest.raises(torch.OutOfMemoryError):
        stage.run()


def test_poison_is_never_said(oracle: Oracle) -> None:
    hot = SamplingParams(temperature=5.0, seed=1)
    tasks = [
        tagged_task(f"r{i}", prompt=(10, i), sampling=hot, stop=StopParams(max_tokens=100, ignore_eos=True))
        for i in range(20)
    ]
    said = {token for family in oracle.expected_many(tasks) for token in family[0].token_ids}
    assert not said & set(Poison)
    assert len(said) > VOCAB_SIZE // 2


def test_the_shape_is_part_of_the_layout(tmp_path: Path) -> None:
    wide, narrow = tagged_model(tmp_path / "wide", head_dim=64), tagged_model(tmp_path / "narrow")
    assert wide.digest != narrow.digest
    assert TaggedStage(wide, num_blocks=2).engine.pool.block_bytes == 8 * TaggedStage(narrow).engine.pool.block_bytes


def test_a_real_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not 'tagged'"):
        read_shape(prepare_tiny("llama", tmp_path / "llama"))


def test_the_real_engine_refuses_the_tagged_model(model: PreparedModel) -> None:
    with pytest.raises(ModelError):
        build_engine(model, EngineConfig(num_blocks=4), clock=MonotonicClock())
