"""A worker that is told to leave: nothing of what it runs is lost, and nothing keeps it from going.

Real processes with the tagged engine: every token is compared with the oracle's.
"""

import asyncio
import contextlib
import os
import re
import signal
import time

import pytest

from tandem.chaos.cluster import ChaosCluster, ChaosOptions, RequestSpec, WorkerChaos
from tandem.chaos.tagged.settings import TaggedCost
from tandem.core.types import SamplingParams, StopParams

DRAIN_S = 0.5
SAMPLED = SamplingParams(temperature=0.8, top_p=0.9, seed=11, presence_penalty=0.4)


def _streams(count: int, max_tokens: int) -> list[RequestSpec]:
    """Long answers, greedy and sampled; prompts around block edges."""
    return [
        RequestSpec(
            prompt=tuple(10 + (7 * number + position) % 200 for position in range(30 + number % 5)),
            sampling=SAMPLED if number % 2 else SamplingParams(),
            stop=StopParams(max_tokens=max_tokens, ignore_eos=True),
            n=1 + number % 2,
            label=f"s{number}",
        )
        for number in range(count)
    ]


async def _leave(cluster: ChaosCluster, worker_id: str) -> float:
    """Send SIGTERM in the middle of work; return how long the process took to go."""
    with contextlib.suppress(TimeoutError):  # a busy machine may look too seldom
        async with asyncio.timeout(5):
            while (await cluster.describe(worker_id)).holdings.num_attempts < 1:
                await asyncio.sleep(0.02)
    pid, began_s = cluster.pid(worker_id), time.monotonic()
    os.kill(pid, signal.SIGTERM)
    async with asyncio.timeout(60):
        while cluster.pids().get(worker_id) == pid:
            await asyncio.sleep(0.02)
    return time.monotonic() - began_s


async def test_a_drained_worker_loses_no_request(capsys: pytest.CaptureFixture[str]) -> None:
    """D in the middle of long streams, then P in the middle of prompts and hand-overs."""
    options = ChaosOptions(
        num_prefill=2,
        num_decode=2,
        cost=TaggedCost(step_s=0.02, prefill_token_s=0.01),
        all_workers=WorkerChaos(program={"drain_s": DRAIN_S}),
        warm_up=False,
        event_log=False,
        log_level="info",
    )
    async with ChaosCluster(options) as cluster:
        running = asyncio.create_task(cluster.run_requests(_streams(16, max_tokens=100)))
        took_s = [await _leave(cluster, "decode-0")]
        records = await running
        running = asyncio.create_task(cluster.run_requests(_streams(16, max_tokens=5)))
        took_s.append(await _leave(cluster, "prefill-0"))
        records += await running
        last_words = [cluster.log_text(name) for name in ("decode-0", "prefill-0")]
        left = [(await cluster.describe(name)).holdings for name in ("prefill-1", "decode-1")]
    assert [(r.ending, r.verdict, r.reason, r.problem) for r in records] == [("ok", "equal", "", "")] * 32
    assert max(record.attempts for record in records[:16]) >= 2, "no stream was continued elsewhere"
    # A router would also go on after a death; these workers did not die.
    assert all(re.search(r"drained .*num_lost=0", text) for text in last_words)
    assert re.search(r"drained .*num_handed_over=[1-9]", last_words[0])
    # In the words of whoever starts them again.
    ends = re.findall(r"([a-z]+-\d+) ended early \(([^)]*)\)", capsys.readouterr().out)
    assert ends == [("decode-0", "exit status 0"), ("prefill-0", "exit status 0")]
    assert max(took_s) < DRAIN_S + 15.0  # of which a busy machine takes most
    assert cluster.mismatches() == []
    assert [(held.num_attempts, held.num_handovers) for held in left] == [(0, 0)] * 2
