"""The same tokens come out whatever the schedule: batching policy, chunk size, preemption, one worker or two."""

import pytest

from tandem.core.types import SamplingParams, StopParams
from tests.fakes.engine_driver import make_engine, make_task, run_local, run_split
from tests.fakes.fake_runner import reference_tokens

SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, seed=11, repetition_penalty=1.1, frequency_penalty=0.2)


@pytest.mark.parametrize("batching", ["continuous", "dynamic", "static"])
@pytest.mark.parametrize("sampling", [SamplingParams(), SAMPLED], ids=["greedy", "sampled"])
def test_local_equals_reference(batching: str, sampling: SamplingParams) -> None:
    stop = StopParams(max_tokens=12, ignore_eos=True)
    tasks = [make_task(f"r{i}", num_prompt=3 + 5 * i, n=1 + i % 4, sampling=sampling, stop=stop) for i in range(6)]
    engine = make_engine(256, batching=batching, batch_size=4, batch_timeout_s=0.0, max_batched_tokens=16)
    out = run_local(engine, tasks)
    for task in tasks:
        for child in range(task.num_sequences):
            assert out.tokens[task.request_id, child] == reference_tokens(task, child)


@pytest.mark.parametrize("num_prompt", [1, 3, 4, 5, 7, 8, 9, 31, 32, 33])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_split_equals_reference(num_prompt: int, n: int) -> None:
    task = make_task(num_prompt=num_prompt, n=n, max_tokens=9, sampling=SAMPLED)
    source, target = (make_engine(64, max_batched_tokens=7) for _ in range(2))
    out = run_split(source, target, [task])
    assert [out.tokens["r0", c] for c in range(n)] == [reference_tokens(task, c) for c in range(n)]
