"""A chat whose decode worker has most of each turn cached, while workers die in the middle of handing over the rest.

Real processes; their engines compare the KV of every context, borrowed blocks included, with f(tenant, prefix,
position) in every step, so one wrong block shows at the first token.
"""

from pathlib import Path

import pytest

from tandem.chaos.cluster import ChaosCluster, ChaosOptions, RequestSpec
from tandem.chaos.cluster.options import WorkerChaos
from tandem.chaos.faults.failpoint_faults import FailpointDesk
from tandem.chaos.leaks import check_leaks
from tandem.chaos.trace import check
from tandem.client import Generation
from tandem.core.types import StopParams
from tandem.kvtransfer.grant import TransportName

BLOCK = 16
SYSTEM = tuple(4 + (7 * index) % 250 for index in range(8 * BLOCK))


class Chat:
    """One conversation: every turn's prompt is all that was said before, and some new tokens."""

    def __init__(self, cluster: ChaosCluster) -> None:
        self._cluster = cluster
        self._said = SYSTEM
        self.num_turns = 0

    async def turn(self) -> Generation:
        """Say the next thing; the answer must be the oracle's."""
        self.num_turns += 1
        prompt = (*self._said, *(200 + self.num_turns + index for index in range(3 * BLOCK + 3)))
        stop = StopParams(max_tokens=BLOCK + 5, ignore_eos=True)
        answer = await self._cluster.client().generate(
            token_ids=prompt, max_tokens=stop.max_tokens, ignore_eos=True, temperature=0.0
        )
        (expected,) = self._cluster.oracle.expected(RequestSpec(prompt=prompt, stop=stop).task())
        assert answer.sequences[0].token_ids == expected.token_ids
        self._said = (*prompt, *expected.token_ids)
        return answer


@pytest.mark.parametrize("transport", ["shm", "tcp"])
async def test_a_chat_goes_on_through_deaths_in_the_middle_of_a_delta(transport: TransportName, tmp_path: Path) -> None:
    desk = FailpointDesk(tmp_path / "failpoints")
    options = ChaosOptions(
        num_prefill=2,
        num_decode=1,
        transports=(transport,),
        folder=tmp_path / "cluster",
        all_workers=WorkerChaos(variables=desk.variables()),
        router={
            "placement": {"mode": "split"},  # else D, which holds the prefix as well, computes the rest itself
            "queue": {"no_worker_wait_s": 60.0},  # a busy machine starts the only D again in its own time
        },
    )
    # The cluster's warm-up links each P with D: a link that comes later is a leak until it has been idle for 30 s.
    async with ChaosCluster(options) as cluster:
        chat = Chat(cluster)
        first, second = await chat.turn(), await chat.turn()
        for _ in range(4):
            await cluster.client().models()  # every connection of the client stands
        await cluster.take_baseline()
        assert first.timings.handover_skipped_bytes == 0
        sent, skipped = second.timings.handover_bytes, second.timings.handover_skipped_bytes
        assert sent is not None
        assert skipped is not None
        assert skipped > 2 * sent > 0, "turn two brings few new blocks"

        # P dies with a part of the delta sent: D gives back what it borrowed, and the next P sends the rest again.
        assert second.workers.prefill_worker is not None
        prefill = second.workers.prefill_worker
        lost = desk.arm(prefill, "p.before_chunk_send", action="exit", after=2, pid=cluster.pid(prefill))
        third = await chat.turn()
        assert lost.verify().took_effect
        assert third.attempts == 2
        assert third.workers.prefill_worker != second.workers.prefill_worker
        assert third.timings.handover_skipped_bytes, "also then only the rest was sent"

        # D dies with half of the delta received, and its cache with it: its next life lacks everything.
        assert third.workers.decode_worker is not None
        decode = third.workers.decode_worker
        lost = desk.arm(decode, "d.received_half", action="exit", pid=cluster.pid(decode))
        fourth = await chat.turn()
        assert lost.verify().took_effect
        assert fourth.attempts >= 2
        assert fourth.timings.handover_skipped_bytes == 0
        fifth = await chat.turn()
        assert fifth.timings.handover_skipped_bytes

        await cluster.settled()
        assert await check_leaks(cluster) == []
        assert cluster.mismatches() == []
        assert cluster.verified().num_tokens > 1000
    report = check(cluster.event_logs(), check_serving=False)
    assert report.violations == []
    assert report.counts["blocks_borrowed"] > 0
