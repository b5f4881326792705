"""The event log of a real router over workers that die: nothing wrong is found, and there is much to look at."""

import asyncio
from pathlib import Path

from tandem.chaos.trace import check
from tandem.core.types import Role
from tandem.inference.v1 import inference_pb2 as pb
from tandem.router.config import RouterConfig, TimersSection
from tests.fakes.fake_worker import FakeWorker, Pace
from tests.fakes.router_cluster import EOF, Cluster, cluster, until


def _workers() -> list[FakeWorker]:
    return [FakeWorker(f"prefill-{index}", Role.PREFILL) for index in range(2)] + [
        FakeWorker(f"decode-{index}", Role.DECODE, Pace(step_s=0.004)) for index in range(2)
    ]


async def _read(found: Cluster, number: int) -> None:
    """Read a stream to its end, or leave it in the middle."""
    call = found.stream(pb.GenerateRequest(text="the and", max_tokens=10 + 5 * number, n=1 + number % 3))
    num_messages = 0
    while await call.read() is not EOF:
        num_messages += 1
        if number % 4 == 3 and num_messages > 5:
            call.cancel()
            return


async def test_requests_that_end_are_left_and_move_to_another_worker(tmp_path: Path) -> None:
    events = tmp_path / "events"
    config = RouterConfig(
        port=0, timers=TimersSection(suspect_after_s=0.6, dead_after_s=1.0, gap_timeout_s=0.5), event_log=events
    )
    async with cluster(tmp_path, _workers(), config) as found:
        readers = [asyncio.create_task(_read(found, number)) for number in range(16)]
        await until(lambda: any(w.num_running for w in found.workers.values() if w.role is Role.DECODE))
        await asyncio.sleep(0.1)
        victim = next(w for w in found.workers.values() if w.role is Role.DECODE and w.num_running)
        await victim.stop()
        await asyncio.gather(*readers)
        await until(lambda: found.router.dispatcher.num_live == 0)
    report = check([events])
    assert [str(violation) for violation in report.violations] == []
    assert report.is_complete
    assert (report.num_processes, report.num_killed) == (1, 0)
    assert report.counts["request_accepted"] == report.counts["request_ended"] == report.counts["usage_recorded"] == 16
    assert report.counts["requeued"] > 0
    assert report.counts["dispatched"] == 16 + report.counts["requeued"]
    assert report.counts["worker_judged"] >= 5
    assert report.num_checks["I5"] > 300
