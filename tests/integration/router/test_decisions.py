"""Decisions over the wire: a controller's rounds join the router's own, who follows gets them, bounds hold."""

from contextlib import aclosing
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tandem.client import AsyncClient
from tandem.core.decisions import ControllerRound, Decision, DecisionFilter
from tandem.core.errors import FailedPrecondition, InvalidArgument, NotFound
from tandem.core.types import Role
from tandem.inference.v1 import inference_pb2 as pb
from tandem.router.config import RouterConfig
from tandem.router.decisions.config import DecisionsSection
from tandem.router.decisions.desk import MAX_FOLLOWERS
from tandem.rpc.stubs.control import ControlStub
from tests.fakes.fake_worker import FakeWorker
from tests.fakes.router_cluster import cluster

ROUND = ControllerRound(
    term=3,
    policy="day",
    verdict="hold",
    current_prefill=1,
    current_decode=1,
    wished_prefill=2,
    wished_decode=1,
    clamps=("cool-down",),
    numbers={"ttft_p95_s": 0.4},
)


def workers() -> list[FakeWorker]:
    return [FakeWorker("prefill-0", Role.PREFILL), FakeWorker("decode-0", Role.DECODE)]


async def test_a_controllers_rounds_and_the_routers_own_are_one_log(tmp_path: Path) -> None:
    async with cluster(tmp_path, workers()) as found, AsyncClient(found.router.internal_address) as client:
        answer = await found.generate(pb.GenerateRequest(text="a b c", max_tokens=4))
        page = await client.explain(answer.request_id)
        assert [one.kind for one in page.decisions] == ["admission", "placement", "end"]
        async with grpc.aio.insecure_channel(found.router.internal_address) as channel:
            stub = ControlStub(channel)
            told = Decision(sequence=0, unix_s=1700000000.5, source="", reason="it is early", detail=ROUND)
            async with aclosing(client.follow_decisions(DecisionFilter(kinds=("controller",)))) as pages:
                assert (await anext(pages)).decisions == ()
                await stub.record_decisions("controller-7", [told], timeout_s=5.0)
                (followed,) = (await anext(pages)).decisions
            (listed,) = (await client.decisions(DecisionFilter(kinds=("controller",)))).decisions
            assert listed == followed
            assert (listed.source, listed.unix_s, listed.detail) == ("controller-7", 1700000000.5, ROUND)
            assert listed.sequence == page.decisions[-1].sequence + 1
            with pytest.raises(InvalidArgument, match="source"):
                await stub.record_decisions("", [told], timeout_s=5.0)
        with pytest.raises(NotFound, match="knows no decision"):
            await client.explain("0" * 32)


async def test_a_request_that_is_no_good_is_known_by_its_reason_only(tmp_path: Path) -> None:
    async with cluster(tmp_path, workers()) as found, AsyncClient(found.router.internal_address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await found.generate(pb.GenerateRequest(text="SECRET", model="no-such-model"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        (refused,) = (await client.decisions(DecisionFilter(kinds=("admission",)))).decisions
        assert refused.request_id
        assert "no-such-model" not in str(refused)
        assert "SECRET" not in str(refused)


async def test_bounds_on_who_follows_and_watches(tmp_path: Path) -> None:
    async with cluster(tmp_path, workers()) as found, AsyncClient(found.router.internal_address) as client:
        with pytest.raises(InvalidArgument, match="interval_s"):
            await anext(client.watch(0.01))
        async with aclosing(client.watch(0.2)) as views:
            assert {worker.info.worker_id for worker in (await anext(views)).status.workers} == {
                "prefill-0",
                "decode-0",
            }
            await anext(views)
        seats = [client.follow_decisions() for _ in range(MAX_FOLLOWERS)]
        try:
            for seat in seats:
                await anext(seat)
            with pytest.raises(FailedPrecondition, match="follow this router already"):
                await anext(client.follow_decisions())
        finally:
            for seat in seats:
                await seat.aclose()


async def test_without_a_log_that_is_said(tmp_path: Path) -> None:
    config = RouterConfig(port=0, decisions=DecisionsSection(max_records=0))
    async with cluster(tmp_path, workers(), config) as found, AsyncClient(found.router.internal_address) as client:
        await found.generate(pb.GenerateRequest(text="a", max_tokens=2))
        with pytest.raises(FailedPrecondition, match="keeps no decisions"):
            await client.decisions()
