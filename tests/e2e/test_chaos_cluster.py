"""The chaos cluster itself: what it says of its processes is so, and what happens to them shows."""

import asyncio
import os
import signal
from pathlib import Path

from tandem.chaos.cluster import ChaosCluster, ChaosOptions, Ending, Verdict, random_specs, summarise
from tandem.chaos.leaks import check_leaks, check_usage
from tandem.chaos.tagged.model import Poison
from tandem.chaos.tagged.settings import TaggedCost
from tandem.chaos.trace import check


async def test_faults_show_in_records_and_leave_nothing(tmp_path: Path) -> None:
    options = ChaosOptions(num_prefill=1, num_decode=2, cost=TaggedCost(step_s=0.005), folder=tmp_path)
    async with ChaosCluster(options) as cluster:
        specs = random_specs(60, seed=5, deadline_s=60.0)
        before = await cluster.worker("decode-0")
        assert before.info.pid == cluster.pid("decode-0")

        # One decode worker dies under load: every answer is right or a named error.
        os.kill(cluster.pid("decode-0"), signal.SIGKILL)
        records = await cluster.run_requests(specs, concurrency=32)
        summary = summarise(records)
        assert (summary.wrong_tokens, summary.num_hangs, summary.num_broken) == (0, 0, 0), summary
        assert summary.num_ok >= 50, summary
        after = await cluster.restarted("decode-0", since=before.info.epoch, timeout_s=60.0)
        assert after.info.epoch != before.info.epoch
        assert cluster.num_restarts("decode-0") == 1

        # The router dies and comes back on its old ports; clients made before go on working.
        os.kill(cluster.router_pid, signal.SIGKILL)
        assert await cluster.restart_router() == cluster.pids()["router"]
        records += await cluster.run_requests(specs[:20])
        assert all(record.verdict is Verdict.EQUAL for record in records[-20:])

        # The blocking SDK says what the oracle says.
        with cluster.sync_client() as client:
            said = await asyncio.to_thread(client.generate, token_ids=specs[0].prompt, **specs[0].options())
        assert said.token_ids == cluster.oracle.expected(specs[0].task())[0].token_ids

        # A poisoned prompt fails with a named error.
        poisoned = random_specs(1, seed=6)[0]
        poisoned = type(poisoned)(prompt=(5, 6, Poison.NAN, 7), label="poisoned")
        (record,) = await cluster.run_requests([poisoned])
        assert (record.ending, record.reason) == (Ending.ERROR, "NUMERICS")

        assert await check_leaks(cluster) == []
        assert check_usage(cluster.event_logs(), records) == []
        assert cluster.mismatches() == []
        assert cluster.verified().num_tokens > 5000
    report = check(cluster.event_logs(), check_serving=False)
    assert report.violations == []
