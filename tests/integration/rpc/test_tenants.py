"""Whose call it is: never mixed up between calls that run at the same time, and asked on every kind of method."""

import asyncio
import random
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tandem.core.cluster import ClusterStatus, WorkerState, WorkerStatus
from tandem.core.errors import NotFound, PermissionDenied, Unauthenticated
from tandem.core.ids import Epoch, Tenant, WorkerId
from tandem.core.types import Role, WorkerInfo, WorkerLoad
from tandem.inference.v1 import inference_pb2 as pb
from tandem.rpc.access import AccessControl
from tandem.rpc.channels import open_channel
from tandem.rpc.context import CallContext, current_tenant
from tandem.rpc.errors import error_from_rpc
from tandem.rpc.keys import issue_key
from tandem.rpc.server import RpcServer
from tandem.rpc.services.admin import cluster_service
from tandem.rpc.serving import Service, streaming, unary
from tandem.rpc.stubs.admin import ClusterStub

NAME = "tandem.inference.v1.InferenceService"
KEYS = [issue_key(f"key-{number}", Tenant(f"tenant-{number}")) for number in range(5)]
STATUS = WorkerStatus(
    info=WorkerInfo(
        worker_id=WorkerId("decode-0"),
        epoch=Epoch(7),
        role=Role.DECODE,
        address="127.0.0.1:1",
        model="m",
        model_digest="d",
        layout_fingerprint="f",
        block_size=16,
        total_blocks=64,
        max_context_tokens=512,
        max_sequences=8,
        pid=1,
        host="here",
    ),
    state=WorkerState.SUSPECT,
    load=WorkerLoad(num_running=2),
    silent_ms=5000.0,
)


class Cluster:
    """One suspect worker."""

    async def get_status(self, call: CallContext) -> ClusterStatus:
        return ClusterStatus(model="m", ready=False, router_id="r", uptime_s=1.0, workers=(STATUS,))

    async def list_workers(self, call: CallContext) -> list[WorkerStatus]:
        return [STATUS]

    async def drain_worker(self, worker_id: WorkerId, timeout_s: float, call: CallContext) -> int:
        if worker_id != STATUS.info.worker_id:
            raise NotFound(f"no worker {worker_id!r}")
        return round(timeout_s)


async def _whose(_: str, call: CallContext) -> str:
    await asyncio.sleep(random.random() / 100)
    if current_tenant.get() != call.tenant:
        return "mixed up"
    return call.tenant


async def _whose_often(_: str, call: CallContext) -> AsyncIterator[str]:
    for _again in range(5):
        await asyncio.sleep(random.random() / 100)
        yield current_tenant.get()


def _service() -> Service:
    def encode(text: str) -> pb.DetokenizeResponse:
        return pb.DetokenizeResponse(text=text)

    wire = pb.DetokenizeResponse
    return Service(
        name=NAME,
        methods={
            "Generate": unary(f"/{NAME}/Generate", wire, lambda m: m.text, _whose, encode),
            "StreamGenerate": streaming(f"/{NAME}/StreamGenerate", wire, lambda m: m.text, _whose_often, encode),
        },
    )


@pytest.fixture
async def keyed() -> AsyncIterator[grpc.aio.Channel]:
    server = RpcServer(
        address="127.0.0.1:0", access=AccessControl(keys=[key.entry for key in KEYS]), with_reflection=True
    )
    server.add(_service())
    server.add(cluster_service(Cluster()))
    channel = open_channel(await server.start())
    yield channel
    await channel.close(None)
    await server.stop(grace_s=0)


def _metadata(number: int) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {KEYS[number].text}"),)


async def test_calls_at_the_same_time_keep_their_tenants(keyed: grpc.aio.Channel) -> None:
    unary_call = keyed.unary_unary(f"/{NAME}/Generate", request_serializer=None, response_deserializer=None)
    stream_call = keyed.unary_stream(f"/{NAME}/StreamGenerate", request_serializer=None, response_deserializer=None)

    async def once(number: int) -> set[str]:
        data = await unary_call(b"", metadata=_metadata(number))
        return {pb.DetokenizeResponse.FromString(data).text}

    async def often(number: int) -> set[str]:
        stream = stream_call(b"", metadata=_metadata(number))
        return {pb.DetokenizeResponse.FromString(data).text async for data in stream}

    numbers = [number % len(KEYS) for number in range(100)]
    seen = await asyncio.gather(*(once(number) if number % 2 else often(number) for number in numbers))
    assert seen == [{f"tenant-{number}"} for number in numbers]


async def test_reflection_asks_for_a_key_as_well(keyed: grpc.aio.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(keyed)
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    with pytest.raises(grpc.RpcError) as caught:
        [answer async for answer in stub.ServerReflectionInfo(iter([question]))]
    assert isinstance(error_from_rpc(caught.value), Unauthenticated)
    answers = [answer async for answer in stub.ServerReflectionInfo(iter([question]), metadata=_metadata(0))]
    assert len(answers[0].list_services_response.service) == 4


async def test_a_tenants_key_is_no_operators(keyed: grpc.aio.Channel) -> None:
    method = keyed.unary_unary(
        "/tandem.admin.v1.ClusterService/GetStatus", request_serializer=None, response_deserializer=None
    )
    with pytest.raises(grpc.RpcError) as caught:
        await method(b"", metadata=_metadata(1))
    assert isinstance(error_from_rpc(caught.value), PermissionDenied)


async def test_an_operator_on_loopback_sees_and_drains() -> None:
    server = RpcServer(address="127.0.0.1:0")
    server.add(cluster_service(Cluster()))
    channel = open_channel(await server.start())
    stub = ClusterStub(channel)
    try:
        assert (await stub.get_status(timeout_s=5)).workers == (STATUS,)
        assert await stub.list_workers(timeout_s=5) == (STATUS,)
        assert await stub.drain_worker(WorkerId("decode-0"), drain_timeout_s=3.0, timeout_s=5) == 3
        with pytest.raises(NotFound, match="no worker 'nobody'"):
            await stub.drain_worker(WorkerId("nobody"), drain_timeout_s=3.0, timeout_s=5)
    finally:
        await channel.close(None)
        await server.stop(grace_s=0)
