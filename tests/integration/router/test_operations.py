"""Health, reflection, registry, cluster status, draining, stopping, metrics, traces."""

import asyncio
import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tandem.core.clock import MonotonicClock
from tandem.core.cluster import WorkerState
from tandem.core.errors import EnvironmentProblem, NotFound
from tandem.core.ids import WorkerId
from tandem.core.types import Role
from tandem.inference.v1 import inference_pb2 as pb
from tandem.router.config import RouterConfig
from tandem.router.directory import MemoryDirectory
from tandem.router.served_model import ServedModel
from tandem.router.server import Router, run_router
from tandem.rpc.channels import open_channel
from tandem.rpc.stubs.admin import ClusterStub, RegistryStub
from tests.fakes.fake_worker import MODEL, FakeWorker
from tests.fakes.router_cluster import EOF, SERVICE, Cluster, cluster, save_model, until

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def pair() -> list[FakeWorker]:
    return [FakeWorker("prefill-0", Role.PREFILL), FakeWorker("decode-0", Role.DECODE)]


async def health(channel: grpc.aio.Channel, name: str) -> int:
    method = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    answer = await method(health_pb2.HealthCheckRequest(service=name), timeout=5.0)
    status: int = answer.status
    return status


async def until_health(found: Cluster, name: str, status: int) -> None:
    end_s = time.monotonic() + 5.0
    while await health(found.channel, name) != status:
        assert time.monotonic() < end_s, f"{name} never became {status}"
        await asyncio.sleep(0.02)


async def test_health_follows_the_pools(tmp_path: Path) -> None:
    async with cluster(tmp_path, pair()) as found:
        for name in ("", "tandem.inference.v1.InferenceService", "tandem.pool.prefill", "tandem.pool.decode"):
            await until_health(found, name, SERVING)
        await found.workers["prefill-0"].stop()
        await until_health(found, "tandem.pool.prefill", NOT_SERVING)
        assert await health(found.channel, "") == SERVING  # local prefill serves on
        await found.workers["decode-0"].stop()
        await until_health(found, "tandem.pool.decode", NOT_SERVING)
        await until_health(found, "", NOT_SERVING)


async def test_reflection_lists_the_public_services(tmp_path: Path) -> None:
    async with cluster(tmp_path, pair()) as found:
        method = found.channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        call = method(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5.0)
        answer: Any = await call.read()
        names = {service.name for service in answer.list_services_response.service}
        assert {"tandem.inference.v1.InferenceService", "tandem.inference.v1.ModelService"} <= names
        assert not any("worker" in name or "admin" in name for name in names)


async def test_workers_register_and_leave_over_the_internal_port(tmp_path: Path) -> None:
    async with cluster(tmp_path, []) as found, open_channel(found.router.internal_address) as channel:
        registry = RegistryStub(channel)
        decode = FakeWorker("decode-0", Role.DECODE)
        await registry.register(await decode.start(), ttl_s=30.0, timeout_s=5.0)
        await until(lambda: found.router.dispatcher.fleet.num_alive(Role.DECODE) == 1)
        assert [info.worker_id for info in await registry.list_registered(timeout_s=5.0)] == ["decode-0"]
        answer = await found.generate(pb.GenerateRequest(text="the", max_tokens=3))
        assert len(answer.sequences[0].token_ids) == 3
        await registry.deregister(WorkerId("decode-0"), decode.epoch, timeout_s=5.0)
        await decode.stop()
        await until(lambda: len(found.router.dispatcher.fleet) == 0)


async def test_a_worker_of_another_model_gets_no_work(tmp_path: Path) -> None:
    async with cluster(tmp_path, pair()) as found:
        stranger = FakeWorker("decode-9", Role.DECODE)
        info = await stranger.start()
        found.workers["decode-9"] = stranger
        other = type(info)(**{name: getattr(info, name) for name in info.__slots__} | {"model_digest": "other"})
        found.directory.register(other, ttl_s=30.0)
        await asyncio.sleep(0.2)
        assert len(found.router.dispatcher.fleet) == 2
        assert stranger.hellos == []


async def test_the_status_of_the_cluster(tmp_path: Path) -> None:
    async with cluster(tmp_path, pair()) as found, open_channel(found.router.internal_address) as channel:
        await found.generate(pb.GenerateRequest(text="the", max_tokens=3))
        running = found.stream(pb.GenerateRequest(text="the", max_tokens=4000))
        await running.read()
        stub = ClusterStub(channel)
        status = await stub.get_status(timeout_s=5.0)
        assert (status.model, status.ready, status.not_ready_reason) == (MODEL, True, "")
        assert (status.num_queued, status.num_running) == (0, 1)
        assert status.num_ended == {"ok": 1}
        assert [(w.info.worker_id, w.state) for w in status.workers] == [
            ("decode-0", WorkerState.READY),
            ("prefill-0", WorkerState.READY),
        ]
        running.cancel()
        workers = await stub.list_workers(timeout_s=5.0)
        assert all(worker.silent_ms is not None and worker.silent_ms < 2000 for worker in workers)


async def test_a_drained_worker_gets_no_new_work(tmp_path: Path) -> None:
    crew = [*pair(), FakeWorker("decode-1", Role.DECODE)]
    async with cluster(tmp_path, crew) as found, open_channel(found.router.internal_address) as channel:
        stub = ClusterStub(channel)
        assert await stub.drain_worker(WorkerId("decode-0"), drain_timeout_s=1.0, timeout_s=5.0) == 0
        for _ in range(4):
            await found.generate(pb.GenerateRequest(text="the", max_tokens=2))
        assert found.workers["decode-0"].tasks == []
        status = await stub.get_status(timeout_s=5.0)
        assert status.workers[0].state is WorkerState.DRAINING
        with pytest.raises(NotFound):
            await stub.drain_worker(WorkerId("nobody"), drain_timeout_s=1.0, timeout_s=5.0)


async def test_stopping_lets_running_requests_end(tmp_path: Path) -> None:
    async with cluster(tmp_path, pair()) as found:
        running = asyncio.ensure_future(found.generate(pb.GenerateRequest(text="the", max_tokens=60)))
        await until(lambda: found.router.dispatcher.num_live == 1)
        stopping = asyncio.ensure_future(found.router.stop(grace_s=10.0))
        await until(lambda: found.router.dispatcher.draining)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await found.generate(pb.GenerateRequest(text="the", max_tokens=2))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert len((await running).sequences[0].token_ids) == 60
        await stopping


async def test_stopping_ends_what_does_not_end_itself(tmp_path: Path) -> None:
    async with cluster(tmp_path, pair()) as found:
        call = found.stream(pb.GenerateRequest(text="the", max_tokens=4000))
        await call.read()
        await found.router.stop(grace_s=0.1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while await call.read() is not EOF:
                pass
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        await until(lambda: found.workers["decode-0"].num_running == 0)


async def test_tokenize_detokenize_and_models(tmp_path: Path) -> None:
    async with cluster(tmp_path, []) as found:
        tokenize = found.channel.unary_unary(
            SERVICE + "Tokenize", pb.TokenizeRequest.SerializeToString, pb.TokenizeResponse.FromString
        )
        detokenize = found.channel.unary_unary(
            SERVICE + "Detokenize", pb.DetokenizeRequest.SerializeToString, pb.DetokenizeResponse.FromString
        )
        ids = (await tokenize(pb.TokenizeRequest(text="the and é"), timeout=5.0)).token_ids
        assert (await detokenize(pb.DetokenizeRequest(token_ids=ids), timeout=5.0)).text == "the and é"
        chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])
        assert len((await tokenize(pb.TokenizeRequest(chat=chat), timeout=10.0)).token_ids) > 5
        models = found.channel.unary_unary(
            "/tandem.inference.v1.ModelService/ListModels",
            pb.ListModelsRequest.SerializeToString,
            pb.ListModelsResponse.FromString,
        )
        (model,) = (await models(pb.ListModelsRequest(), timeout=5.0)).models
        assert (model.name, model.vocab_size, model.has_chat_template) == (MODEL, 320, True)


async def test_the_metrics_endpoint_counts_requests(tmp_path: Path) -> None:
    async with cluster(tmp_path, pair(), RouterConfig(port=0, metrics_port=0)) as found:
        await found.generate(pb.GenerateRequest(text="the", max_tokens=3))

        def scrape() -> str:
            url = f"http://127.0.0.1:{found.router.metrics_port}/metrics"
            with urllib.request.urlopen(url, timeout=5.0) as answer:
                text: str = answer.read().decode()
                return text

        text = await asyncio.to_thread(scrape)
        assert 'tandem_outcome="ok"' in text


async def test_the_callers_trace_context_reaches_the_workers(tmp_path: Path) -> None:
    trace = "0123456789abcdef0123456789abcdef"
    async with cluster(tmp_path, pair()) as found:
        method = found.raw("Generate")
        request = pb.GenerateRequest(text="x", max_tokens=2).SerializeToString()
        metadata = (("traceparent", f"00-{trace}-00f067aa0ba902b7-01"),)
        await method(request, metadata=metadata, timeout=10.0)
        for worker in found.workers.values():
            assert trace in worker.tasks[0].traceparent


async def test_a_port_in_use_is_a_named_problem(tmp_path: Path) -> None:
    async with cluster(tmp_path, []) as found:
        port = int(found.router.address.rpartition(":")[2])
        config = RouterConfig(port=port)
        second = Router(config, ServedModel.load(tmp_path, name=MODEL), MemoryDirectory(MonotonicClock()))
        with pytest.raises(EnvironmentProblem, match=str(port)):
            await second.start()
        await second.stop(grace_s=0.0)


async def test_run_router_serves_until_told_to_stop(tmp_path: Path) -> None:
    save_model(tmp_path)
    stop = asyncio.Event()
    running = asyncio.ensure_future(run_router(RouterConfig(port=0), tmp_path, MemoryDirectory(MonotonicClock()), stop))
    await asyncio.sleep(0.3)
    assert not running.done()
    stop.set()
    await asyncio.wait_for(running, 10.0)
