"""Over real gRPC: pairs whose hand-overs fail, and calls that must not run twice."""

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tandem.client import AsyncClient
from tandem.core import reasons
from tandem.core.cluster import ClusterStatus, PairState
from tandem.core.errors import DuplicateRequest, InvalidArgument
from tandem.core.types import Role
from tandem.inference.v1 import inference_pb2 as pb
from tandem.router.config import PlacementSection, RecoverySection, RouterConfig
from tandem.router.placement import PlacementMode
from tests.fakes.fake_worker import FakeWorker, Pace, failure, token_at
from tests.fakes.router_cluster import EOF, Cluster, cluster, until

SPLIT = RouterConfig(
    port=0,
    placement=PlacementSection(mode=PlacementMode.SPLIT),
    recovery=RecoverySection(pair_probe_after_s=0.3, idempotency_ttl_s=60.0),
)


def crew(num_prefill: int, num_decode: int, *, step_s: float = 0.005) -> list[FakeWorker]:
    pace = Pace(step_s=step_s)
    return [
        *(FakeWorker(name=f"prefill-{i}", role=Role.PREFILL, pace=pace) for i in range(num_prefill)),
        *(FakeWorker(name=f"decode-{i}", role=Role.DECODE, pace=pace) for i in range(num_decode)),
    ]


def request(*, max_tokens: int = 4, key: str = "") -> pb.GenerateRequest:
    return pb.GenerateRequest(tokens=pb.TokenIds(ids=range(5, 25)), max_tokens=max_tokens, idempotency_key=key)


async def status(found: Cluster) -> ClusterStatus:
    async with AsyncClient(found.router.internal_address) as client:
        return await client.status()


async def test_a_failing_pair_is_left_alone_shown_and_probed(tmp_path: Path) -> None:
    workers = crew(1, 1)
    async with cluster(tmp_path, workers, SPLIT) as found:
        decode = found.workers["decode-0"]
        for number in range(2):
            decode.fail_next.append(failure(reasons.KV_TIMEOUT))
            answer = await found.generate(request())
            assert list(answer.sequences[0].token_ids) == [token_at(0, position) for position in range(4)]
            assert answer.workers.prefill_worker_id == "decode-0", "computed where it decodes"
            (pair,) = (await status(found)).pairs
            assert pair.num_failures == number + 1
            assert pair.last_reason == reasons.KV_TIMEOUT
        assert pair.state is PairState.OPEN
        grants = len(found.workers["prefill-0"].grants)
        await found.generate(request())
        assert len(found.workers["prefill-0"].grants) == grants, "not even asked while the pair is open"
        await asyncio.sleep(0.35)
        answer = await found.generate(request())
        assert answer.workers.prefill_worker_id == "prefill-0", "the probe"
        assert (await status(found)).pairs == ()
        found.assert_nothing_left()


async def test_a_call_with_a_key_that_runs_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async with cluster(tmp_path, crew(1, 1), SPLIT) as found, AsyncClient(found.router.address, retries=0) as client:
        async with client.stream(token_ids=range(5, 25), max_tokens=60, idempotency_key="mine") as stream:
            events = aiter(stream)
            await anext(events)
            with pytest.raises(DuplicateRequest) as caught:
                await client.generate(token_ids=range(5, 25), max_tokens=60, idempotency_key="mine")
            assert caught.value.retryable
            assert caught.value.metadata["tokens_emitted"] == "0"
            with pytest.raises(InvalidArgument):
                await client.generate(token_ids=range(5, 26), max_tokens=60, idempotency_key="mine")
            async for _ in events:
                pass
        with pytest.raises(DuplicateRequest) as answered:
            await client.generate(token_ids=range(5, 25), max_tokens=60, idempotency_key="mine")
        assert (answered.value.reason, answered.value.retryable) == ("ALREADY_ANSWERED", False)
        assert len(found.workers["prefill-0"].tasks) == 1, "run once"


async def test_a_call_whose_caller_left_may_be_made_again_at_once(tmp_path: Path) -> None:
    async with cluster(tmp_path, crew(1, 1), SPLIT) as found:
        call = found.stream(request(max_tokens=4000, key="mine"))
        assert await call.read() is not EOF
        call.cancel()
        await until(lambda: found.router.dispatcher.num_live == 0)
        async with AsyncClient(found.router.address, retries=0) as client:
            answer = await client.generate(token_ids=range(5, 25), max_tokens=4, idempotency_key="mine")
            assert len(answer.token_ids) == 4


async def test_the_status_of_a_refused_call_is_already_exists(tmp_path: Path) -> None:
    async with cluster(tmp_path, crew(1, 1), SPLIT) as found:
        await found.generate(request(key="mine"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await found.generate(request(key="mine"))
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_unequal_layouts_never_get_a_byte_and_the_error_says_why(tmp_path: Path) -> None:
    workers = crew(1, 1)
    workers[0].layout = "another-layout"
    async with cluster(tmp_path, workers, SPLIT) as found:
        (pair,) = (await status(found)).pairs
        assert (pair.prefill_worker, pair.decode_worker, pair.state) == ("prefill-0", "decode-0", PairState.UNEQUAL)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await found.generate(request())
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "store KV differently" in (caught.value.details() or "")
        assert not any(worker.tasks for worker in found.workers.values())
