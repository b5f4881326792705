"""What callers see when something is wrong: status, reason, details, and nothing left behind."""

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from tandem.client import AsyncClient
from tandem.client.settings import MIN_UNREAD_BYTES
from tandem.core import reasons
from tandem.core.errors import TandemError
from tandem.core.types import Role
from tandem.inference.v1 import inference_pb2 as pb
from tandem.router.admission.config import AdmissionSection, LimitSection
from tandem.router.config import (
    LimitsSection,
    PlacementSection,
    QueueSection,
    RouterConfig,
    StreamSection,
    TimersSection,
)
from tandem.router.placement import PlacementMode
from tandem.rpc.keys import issue_key
from tests.fakes.fake_worker import FakeWorker, Pace, failure
from tests.fakes.router_cluster import EOF, SERVICE, Cluster, cluster, until

ALWAYS_SPLIT = RouterConfig(port=0, placement=PlacementSection(mode=PlacementMode.SPLIT))


def pair(**decode: object) -> list[FakeWorker]:
    return [FakeWorker("prefill-0", Role.PREFILL), FakeWorker("decode-0", Role.DECODE, **decode)]  # type: ignore[arg-type]


def details(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, error_details_pb2.BadRequest]:
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    pairs: Any = error.trailing_metadata() or ()
    trailing = dict(pairs)
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    for detail in status.details:
        for kind in (info, bad):
            if detail.Is(kind.DESCRIPTOR):
                detail.Unpack(kind)
    return info, bad


async def refused(
    found: Cluster, request: pb.GenerateRequest, *, timeout_s: float | None = 10.0
) -> grpc.aio.AioRpcError:
    """The error of both kinds of call, which must be the same."""
    with pytest.raises(grpc.aio.AioRpcError) as unary:
        await found.generate(request, timeout_s=timeout_s)
    with pytest.raises(grpc.aio.AioRpcError) as stream:
        async for _ in found.stream(request, timeout_s=timeout_s):
            pass
    assert stream.value.code() == unary.value.code()
    return unary.value


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (pb.GenerateRequest(text=""), grpc.StatusCode.INVALID_ARGUMENT, "prompt"),
        (pb.GenerateRequest(), grpc.StatusCode.INVALID_ARGUMENT, "input"),
        (pb.GenerateRequest(text="x", max_tokens=0), grpc.StatusCode.INVALID_ARGUMENT, "max_tokens"),
        (pb.GenerateRequest(text="x", max_tokens=5000), grpc.StatusCode.INVALID_ARGUMENT, "max_tokens"),
        (pb.GenerateRequest(text="x", n=9), grpc.StatusCode.INVALID_ARGUMENT, "n"),
        (pb.GenerateRequest(text="x", n=0), grpc.StatusCode.INVALID_ARGUMENT, "n"),
        (
            pb.GenerateRequest(tokens=pb.TokenIds(ids=[999])),
            grpc.StatusCode.INVALID_ARGUMENT,
            "prompt.token_ids",
        ),
        (
            pb.GenerateRequest(tokens=pb.TokenIds(ids=[5] * 4096)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "prompt",
        ),
        (
            pb.GenerateRequest(text="x", sampling=pb.Sampling(temperature=float("nan"))),
            grpc.StatusCode.INVALID_ARGUMENT,
            "sampling.temperature",
        ),
        (pb.GenerateRequest(text="x", model="gpt"), grpc.StatusCode.NOT_FOUND, None),
    ],
)
async def test_bad_requests(
    tmp_path: Path, request_: pb.GenerateRequest, code: grpc.StatusCode, field: str | None
) -> None:
    async with cluster(tmp_path, pair()) as found:
        error = await refused(found, request_)
        info, bad = details(error)
        assert error.code() == code
        assert info.domain == "tandem"
        if field is not None:
            assert bad.field_violations[0].field.startswith(field)
        assert [worker.tasks for worker in found.workers.values()] == [[], []]
        found.assert_nothing_left()


async def test_bad_utf8_is_a_bad_request(tmp_path: Path) -> None:
    async with cluster(tmp_path, pair()) as found:
        method = found.raw("Generate")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"\x12\x02\xff\xfe", timeout=5.0)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_labels_are_never_ids(tmp_path: Path) -> None:
    async with cluster(tmp_path, pair()) as found:
        labels = ["same", "same", "127.0.0.1:1", "../x", "a\r\nb"]
        requests = [pb.GenerateRequest(text="the", max_tokens=3, label=label) for label in labels]
        answers = await asyncio.gather(*(found.generate(request) for request in requests))
        assert len({answer.request_id for answer in answers}) == len(labels)
        assert all(not set(answer.request_id) - set("0123456789abcdef") for answer in answers)


async def test_a_deadline_that_is_as_good_as_over_does_no_work(tmp_path: Path) -> None:
    async with cluster(tmp_path, pair()) as found:
        for _ in range(5):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await found.generate(pb.GenerateRequest(text="x", max_tokens=100), timeout_s=0.0005)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: found.router.dispatcher.num_live == 0)
        found.assert_nothing_left()


async def test_a_deadline_in_mid_stream_names_the_stage_and_stops_the_workers(tmp_path: Path) -> None:
    async with cluster(tmp_path, pair()) as found:
        decode = found.workers["decode-0"]
        begun_s = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in found.stream(pb.GenerateRequest(text="x", max_tokens=4000), timeout_s=0.4):
                pass
        assert time.monotonic() - begun_s < 1.0
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        info, _ = details(caught.value)
        assert info.metadata["stage"] == "decode"
        assert int(info.metadata["tokens_emitted"]) > 5
        await until(lambda: decode.num_running == 0)
        assert decode.aborts[-1].reason == reasons.DEADLINE
        assert decode.tasks[0].deadline_left_s is not None
        assert 0.1 < decode.tasks[0].deadline_left_s < 0.4
        found.assert_nothing_left()


@pytest.mark.parametrize("when", ["prefill", "decode"])
async def test_a_caller_who_leaves_is_noticed_by_both_workers(tmp_path: Path, when: str) -> None:
    workers = pair()
    for worker in workers:
        worker.pace = Pace(prefill_s=0.3 if when == "prefill" else 0.002)
    async with cluster(tmp_path, workers, ALWAYS_SPLIT) as found:
        prefill, decode = workers
        call = found.stream(pb.GenerateRequest(text="x", max_tokens=4000))
        if when == "decode":
            async for message in call:
                if message.WhichOneof("event") == "delta" and message.delta.position > 3:
                    break
        else:
            await until(lambda: bool(prefill.tasks))
        call.cancel()
        await until(lambda: found.router.dispatcher.num_live == 0)
        await until(lambda: bool(decode.aborts) and decode.num_running == 0)
        assert decode.aborts[0].reason == reasons.CLIENT_CANCELLED
        if when == "prefill":
            await until(lambda: bool(prefill.aborts))
        found.assert_nothing_left()


async def test_a_caller_who_does_not_read_is_ended_and_nobody_waits_for_it(tmp_path: Path) -> None:
    config = RouterConfig(port=0, stream=StreamSection(max_buffered_tokens=64, max_buffered_bytes=16384))
    workers = pair()
    workers[1].pace = Pace(step_s=0.001)
    workers[1].text = lambda child, position: "x" * 500  # fills what gRPC and the kernel buffer
    async with cluster(tmp_path, workers, config) as found:
        options = [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]  # no growing window
        async with grpc.aio.insecure_channel(found.router.address, options=options) as channel:
            stream: Any = channel.unary_stream(
                SERVICE + "StreamGenerate", request_serializer=None, response_deserializer=None
            )
            slow = stream(pb.GenerateRequest(text="x", max_tokens=4000).SerializeToString(), timeout=60.0)
            await slow.read()
            other = await found.generate(pb.GenerateRequest(text="the", max_tokens=50))
            assert len(other.sequences[0].token_ids) == 50
            decode = workers[1]
            await until(lambda: any(a.reason == reasons.SLOW_CONSUMER for a in decode.aborts), timeout_s=30.0)
            assert decode.num_emitted < 3900
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                while await slow.read() is not EOF:
                    pass
            assert caught.value.code() == grpc.StatusCode.CANCELLED
            info, _ = details(caught.value)
            assert info.reason == reasons.SLOW_CONSUMER
        await until(lambda: found.router.dispatcher.num_live == 0)
        found.assert_nothing_left()


async def test_the_sdk_bounds_what_waits_unread(tmp_path: Path) -> None:
    config = RouterConfig(port=0, stream=StreamSection(max_buffered_tokens=64, max_buffered_bytes=16384))
    workers = pair()
    workers[1].pace = Pace(step_s=0.001)
    workers[1].text = lambda child, position: "x" * 500
    async with (
        cluster(tmp_path, workers, config) as found,
        AsyncClient(found.router.address, max_unread_bytes=MIN_UNREAD_BYTES, retries=0) as client,
    ):
        with pytest.raises(TandemError) as caught:
            async with client.stream("x", max_tokens=4000, ignore_eos=True) as stream:
                async for _ in stream:
                    await until(lambda: found.router.dispatcher.num_live == 0, timeout_s=30.0)
        assert caught.value.reason == reasons.SLOW_CONSUMER
        assert workers[1].num_emitted < 1000, "500 KiB would have found room in a window that grows"


async def test_silence_brings_keep_alives(tmp_path: Path) -> None:
    workers = pair()
    for worker in workers:
        worker.pace = Pace(prefill_s=1.2)
    config = RouterConfig(port=0, timers=TimersSection(keep_alive_s=0.3), placement=ALWAYS_SPLIT.placement)
    async with cluster(tmp_path, workers, config) as found:
        kinds = [m.WhichOneof("event") async for m in found.stream(pb.GenerateRequest(text="x", max_tokens=2))]
        assert kinds.count("keep_alive") >= 2
        assert kinds[-1] == "completed"


async def test_errors_of_workers_reach_nobody_in_their_own_words(tmp_path: Path) -> None:
    workers = pair()
    workers[1].fail_next = [failure(reasons.NUMERICS, retryable=False)]
    async with cluster(tmp_path, workers) as found:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await found.generate(pb.GenerateRequest(text="x", max_tokens=4))
        assert caught.value.code() == grpc.StatusCode.INTERNAL
        info, _ = details(caught.value)
        assert info.reason == reasons.NUMERICS
        assert "secret" not in str(caught.value)
        assert info.metadata["request_id"] == workers[0].tasks[0].request_id
        found.assert_nothing_left()


async def test_a_full_queue_refuses_at_once_with_a_hint(tmp_path: Path) -> None:
    workers = pair(max_sequences=1)
    config = RouterConfig(port=0, queue=QueueSection(max_count=1))
    async with cluster(tmp_path, workers, config) as found:
        calls = [found.stream(pb.GenerateRequest(text="x", max_tokens=4000)) for _ in range(2)]
        await calls[0].read()
        await until(lambda: len(found.router.dispatcher.queue) == 1)
        begun_s = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await found.generate(pb.GenerateRequest(text="x", max_tokens=4))
        assert time.monotonic() - begun_s < 0.5
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        trailing: Any = caught.value.trailing_metadata()
        assert any(key == "grpc-retry-pushback-ms" for key, _ in trailing)
        for call in calls:
            call.cancel()
        await until(lambda: found.router.dispatcher.num_live == 0)


async def test_keys_name_the_tenant_and_nobody_else_gets_in(tmp_path: Path) -> None:
    key = issue_key("team-a", "a")  # type: ignore[arg-type]
    config = RouterConfig(port=0, keys=(key.entry,))
    async with cluster(tmp_path, pair(), config) as found:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await found.generate(pb.GenerateRequest(text="x", max_tokens=2))
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        method = found.raw("Generate")
        request = pb.GenerateRequest(text="x", max_tokens=2).SerializeToString()
        await method(request, metadata=(("authorization", f"Bearer {key.text}"),), timeout=10.0)
        assert {task.tenant for task in found.workers["decode-0"].tasks} == {"a"}


async def test_a_request_over_the_size_limit_is_refused_by_the_transport(tmp_path: Path) -> None:
    config = RouterConfig(port=0, limits=LimitsSection(max_request_bytes=2048))
    async with cluster(tmp_path, pair(), config) as found:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await found.generate(pb.GenerateRequest(text="x" * 4096))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_tenant_over_its_requests_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RouterConfig(
        port=0, admission=AdmissionSection(default_limit=LimitSection(requests_per_minute=1.0, burst_s=1.0))
    )
    async with cluster(tmp_path, pair(), config) as found:
        await found.generate(pb.GenerateRequest(text="hello there", max_tokens=4))

        async def read(*_: object, **__: object) -> None:
            raise AssertionError("its prompt was read")

        monkeypatch.setattr(found.router._intake, "prepare", read)
        error = await refused(found, pb.GenerateRequest(text="hello there", max_tokens=4))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        info, _ = details(error)
        assert info.reason == "QUOTA_EXCEEDED"
        found.assert_nothing_left()
