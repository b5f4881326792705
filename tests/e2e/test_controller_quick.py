"""A controller on a real cluster: switches in place, a worker more and a worker less, its own death; nothing is lost.

One cluster for the whole story, since it takes seconds to start. `benchmarks.controller` is the long form.
"""

import asyncio
import random
from pathlib import Path

from tandem.chaos.cluster import ChaosCluster, ChaosOptions, Ending, RequestSpec, Verdict
from tandem.chaos.faults.failpoint_faults import FailpointDesk
from tandem.chaos.tagged.settings import TaggedCost
from tandem.chaos.trace import check
from tandem.client import WorkerState
from tandem.core.decisions import ControllerRound, DecisionFilter
from tandem.core.types import Role, StopParams


def policy(prefill: int, decode: int) -> str:
    return f"""
metadata: {{name: quick}}
spec:
  strategy: Fixed
  interval: 300ms
  budget: {{min: {prefill + decode}, max: {prefill + decode}}}
  damping: {{dwell: 300ms, reverseDwell: 300ms, cooldown: 1s}}
  fallback: {{staleAfter: 5s}}
  pools:
    prefill: {{maxReplicas: 3, replicas: {prefill}, drain: {{timeout: 3s, onTimeout: Recover}}}}
    decode: {{maxReplicas: 4, replicas: {decode}, drain: {{timeout: 3s, onTimeout: Recover}},
      behavior: {{scaleUp: {{stabilizationWindowSeconds: 0}}, scaleDown: {{stabilizationWindowSeconds: 0}}}}}}
"""


def specs(seconds: float) -> list[RequestSpec]:
    dice = random.Random(5)
    return [
        RequestSpec(
            prompt=tuple(dice.randint(4, 313) for _ in range(dice.randint(20, 120))),
            stop=StopParams(max_tokens=dice.randint(4, 40), ignore_eos=True),
            deadline_s=40.0,
            start_after_s=0.2 * index,
            label=str(index),
        )
        for index in range(int(5 * seconds))
    ]


async def reached(cluster: ChaosCluster, prefill: int, decode: int, *, timeout_s: float = 25.0) -> None:
    """Wait until the router uses this many of each, and says so."""
    async with asyncio.timeout(timeout_s):
        while True:
            roles = [w.info.role for w in (await cluster.status()).workers if w.state is WorkerState.READY]
            if (roles.count(Role.PREFILL), roles.count(Role.DECODE)) == (prefill, decode):
                return
            await asyncio.sleep(0.1)


async def test_the_controllers_story(tmp_path: Path) -> None:
    desk = FailpointDesk(tmp_path / "failpoints")
    options = ChaosOptions(
        num_prefill=2,
        num_decode=2,
        cost=TaggedCost(prefill_token_s=0.001, step_s=0.01),
        cluster={"controller": {"enabled": True}},
        controller_variables=desk.variables(),
        warm_up=False,
        folder=tmp_path / "cluster",
    )
    async with ChaosCluster(options) as cluster:
        operator = cluster.operator()
        weights = {w.info.worker_id: w.info.pid for w in (await cluster.status()).workers}
        sending = asyncio.create_task(cluster.run_requests(specs(10.0)))
        assert await operator.apply_policy(policy(1, 3)) == 1
        await reached(cluster, 1, 3)
        assert {w.info.worker_id: w.info.pid for w in (await cluster.status()).workers} == weights, "the same processes"

        armed = await asyncio.to_thread(desk.arm, "controller-0", "c.after_drain", action="exit")
        await operator.apply_policy(policy(2, 2))
        assert await asyncio.to_thread(armed.wait_hit, 15.0) is not None
        armed.disarm()
        await reached(cluster, 2, 2)  # its next life called the drained one back, or switched it

        await operator.apply_policy(policy(2, 3))
        await reached(cluster, 2, 3)
        await operator.apply_policy(policy(2, 2))
        await reached(cluster, 2, 2)

        records = await sending
        page = await operator.decisions(DecisionFilter(kinds=("controller",), limit=500))
        rounds = [d.detail for d in page.decisions if isinstance(d.detail, ControllerRound)]
    assert [(r.ending, r.verdict) for r in records] == [(Ending.OK, Verdict.EQUAL)] * len(records)
    moves = [one.move for one in rounds if one.verdict == "move"]
    assert [move.split()[0] for move in moves][:1] == ["switch"]
    assert {"add", "remove"} <= {move.split()[0] for move in moves}
    assert len({one.term for one in rounds}) >= 2, "the second life had a term of its own"
    report = await asyncio.to_thread(check, cluster.event_logs())
    assert report.violations == []
