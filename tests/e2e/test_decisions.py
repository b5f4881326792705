"""`tandem explain`, `decisions` and `top` on a live cluster: split, local, shed and recovered requests explained."""

import asyncio
import contextlib
import json
import os
import re
import signal
from pathlib import Path

import pytest

from tandem.chaos.cluster import ChaosCluster, ChaosOptions
from tandem.chaos.tagged.settings import TaggedCost
from tandem.client import NotFound, Overloaded, PriorityClass
from tandem.cluster.commands.connection import Connection
from tandem.cluster.commands.decisions import filter_of, run_decisions, run_explain
from tandem.cluster.commands.top import run_top
from tandem.core.decisions import Finished, Placed, Recovery
from tandem.core.inference import OutputDelta, StreamStarted

PROMPT = tuple(range(4, 304))
SLOTS = 4


async def explained(cluster: ChaosCluster, request_id: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What `tandem explain` prints."""
    capsys.readouterr()
    await asyncio.to_thread(run_explain, [Connection(address=cluster.internal_address)], request_id, as_json=False)
    return capsys.readouterr().out


async def shed_request(cluster: ChaosCluster) -> str:
    """Fill every slot, let one request wait, and ask for what is promised too soon."""
    begun = asyncio.Event()
    num_begun = 0

    async def occupy() -> None:
        nonlocal num_begun
        async with cluster.client().stream(
            token_ids=PROMPT, max_tokens=400, ignore_eos=True, priority=PriorityClass.INTERACTIVE
        ) as stream:
            async for event in stream:
                if isinstance(event, StreamStarted):
                    num_begun += 1
                    begun.set()

    tasks = []
    try:
        for count in range(1, 2 * SLOTS + 1):
            tasks.append(asyncio.ensure_future(occupy()))
            async with asyncio.timeout(10.0):
                while num_begun < count:
                    begun.clear()
                    await begun.wait()
        tasks.append(asyncio.ensure_future(occupy()))  # nothing is ahead of it: it waits
        async with asyncio.timeout(10.0):
            while (await cluster.status()).num_queued < 1:
                await asyncio.sleep(0.02)
        with pytest.raises(Overloaded) as caught:
            await cluster.client().generate(token_ids=PROMPT, max_tokens=4, priority=PriorityClass.INTERACTIVE)
        return caught.value.metadata["request_id"]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def recovered_request(cluster: ChaosCluster) -> str:
    """Kill the decode worker of a running request, whose answer goes on elsewhere."""
    request_id, killed, num_tokens = "", "", 0
    async with cluster.client().stream(token_ids=PROMPT, max_tokens=60, ignore_eos=True) as stream:
        async for event in stream:
            if isinstance(event, StreamStarted):
                request_id = event.request_id
            elif isinstance(event, OutputDelta):
                num_tokens += len(event.token_ids)
            if num_tokens >= 5 and not killed:
                page = await cluster.operator().explain(request_id)
                (placed,) = [one.detail for one in page.decisions if isinstance(one.detail, Placed)]
                killed = placed.decode
                os.kill(cluster.pid(killed), signal.SIGKILL)
    assert num_tokens == 60
    return request_id


async def test_requests_tell_their_lives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ChaosOptions(
        num_prefill=1,
        num_decode=2,
        cost=TaggedCost(prefill_token_s=0.0001, step_s=0.01),
        engine={"max_sequences": SLOTS},
        router={
            "placement": {"min_split_tokens": 64, "min_gain_s": 1.0},
            "admission": {"interactive_ttft_s": 0.05, "batch_yields": False},
            "decisions": {"folder": str(tmp_path / "decisions")},
        },
        folder=tmp_path / "cluster",
        event_log=False,
    )
    lives: dict[str, str] = {}
    async with ChaosCluster(options) as cluster:
        client = cluster.client()
        split = await client.generate(token_ids=PROMPT, max_tokens=8)
        again = await client.generate(token_ids=PROMPT, max_tokens=8)
        local = await client.generate(token_ids=PROMPT[:20], max_tokens=8)
        lives["split"] = await explained(cluster, split.request_id, capsys)
        lives["again"] = await explained(cluster, again.request_id, capsys)
        lives["local"] = await explained(cluster, local.request_id, capsys)
        shed = await shed_request(cluster)
        lives["shed"] = await explained(cluster, shed, capsys)
        await cluster.settled()
        recovered = await recovered_request(cluster)
        lives["recovered"] = await explained(cluster, recovered, capsys)

        # The same as records, and followed as they come.
        page = await cluster.operator().explain(recovered)
        kinds = [decision.kind for decision in page.decisions]
        assert kinds == ["admission", "placement", "recovery", "placement", "end"]
        again_at = [one.detail for one in page.decisions if isinstance(one.detail, Recovery)]
        assert (again_at[0].cause, again_at[0].lost) == ("WORKER_LOST", True)
        assert again_at[0].emitted_tokens >= 5
        connection = Connection(address=cluster.internal_address)
        wanted = filter_of(kinds=["worker"], request="", tenant="", since="1m", limit=50)
        await asyncio.to_thread(run_decisions, [connection], wanted, follow=False, as_json=True)
        judged = [json.loads(line)["detail"] for line in capsys.readouterr().out.splitlines()]
        assert any(one["health"] != "alive" for one in judged)
        ends = filter_of(kinds=["end"], request="", tenant="local", since="", limit=1)
        follower = cluster.operator().follow_decisions(ends)
        async with contextlib.aclosing(follower) as pages:
            assert len((await anext(pages)).decisions) == 1
            one_more = await client.generate(token_ids=PROMPT, max_tokens=2)
            (ended,) = (await anext(pages)).decisions
            assert ended.request_id == one_more.request_id
            assert isinstance(ended.detail, Finished)
        await asyncio.sleep(2.5)  # for a sample
        await asyncio.to_thread(run_top, connection, once=True, interval_s=1.0)
        lives["top"] = capsys.readouterr().out
        with pytest.raises(NotFound, match="knows no decision about request"):
            await cluster.operator().explain("0" * 32)

    assert "prompt on prefill-" in lives["split"]
    assert "(pair)" in lives["split"]
    assert re.search(r"otherwise: decode-\d alone, first token [\d.]+ ms", lives["split"])
    assert re.search(r"first token +[\d.]+ +[\d.]+\n", lives["split"]), "predicted beside measured"
    assert "300 tokens to read, none of them cached" in lives["split"]
    assert re.search(r"300 tokens to read, \d+ of them cached at prefill-\d", lives["again"])
    assert re.search(r"300 prompt tokens, [1-9]\d* from the cache", lives["again"])
    assert "prompt and answer on decode-" in lives["local"]
    assert "(short prompt)" in lives["local"]
    assert re.search(r"otherwise: prefill-\d with decode-\d", lives["local"])
    assert "not admitted (slo)" in lives["shed"]
    assert re.search(r"the first token is predicted after [\d.]+ s; interactive", lives["shed"])
    assert "may come again in" in lives["shed"]
    assert "attempt 1 is over (WORKER_LOST): the answer goes on after the tokens" in lives["recovered"]
    assert "died, or its stream broke" in lives["recovered"]
    assert "attempt 2, prompt" in lives["recovered"]
    for word in ("prefill-0", "decode-1", "prefill : decode", "1 : ", "tokens/s written", "standard"):
        assert word in lives["top"]
    lines = [json.loads(line) for path in (tmp_path / "decisions").iterdir() for line in path.read_text().splitlines()]
    assert {recovered, shed} <= {line["request_id"] for line in lines}
    assert [line["sequence"] for line in lines] == list(range(1, len(lines) + 1))
    assert not any(line["tenant_hash"] == "local" for line in lines)
