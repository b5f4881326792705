"""A worker behind real gRPC: greeting, streams that end either way, drain, and who may call."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tandem.core.errors import FailedPrecondition, InvalidArgument, TandemError
from tandem.core.ids import LOCAL_TENANT, RequestId, new_request_id
from tandem.core.messages import Abort, AttachCommand, Beat, Hello, ReserveDecode, StepReport
from tandem.core.prepared_model import PreparedModel
from tandem.core.types import FinishReason, GenerationTask, KvSource, SamplingParams, StopParams, TokenDelta
from tandem.rpc.channels import INTERNAL_LIMITS, open_channel
from tandem.rpc.server import RpcServer
from tandem.rpc.services.worker import WORKER_SERVICE, worker_service
from tandem.rpc.stubs.worker import AttachStream, WorkerStub
from tandem.worker_host.service import WorkerServiceHandler
from tests.fakes.worker_pair import WorkerPair

HELLO = Hello(router_id="router-a")


def _task(max_tokens: int) -> GenerationTask:
    return GenerationTask(
        request_id=new_request_id(),
        attempt=0,
        tenant=LOCAL_TENANT,
        prompt_token_ids=(5, 6, 7, 8),
        num_sequences=1,
        sampling=SamplingParams(),
        stop=StopParams(max_tokens=max_tokens, ignore_eos=True),
        deadline_left_s=30.0,
    )


@contextlib.asynccontextmanager
async def _served(prepared: PreparedModel) -> AsyncIterator[tuple[WorkerStub, WorkerPair]]:
    async with WorkerPair(prepared) as pair:
        server = RpcServer(address="127.0.0.1:0", limits=INTERNAL_LIMITS)
        server.add(worker_service(WorkerServiceHandler(pair.decode.host)))
        address = await server.start()
        await server.mark_serving(WORKER_SERVICE)
        try:
            async with open_channel(address) as channel:
                yield WorkerStub(channel), pair
        finally:
            await server.stop(grace_s=0.5)


async def _tokens_until_finished(stream: AttachStream, request_id: RequestId) -> list[TokenDelta]:
    found: list[TokenDelta] = []
    async with asyncio.timeout(20):
        async for message in stream:
            if isinstance(message, StepReport):
                found += [t for t in message.tokens if t.request_id == request_id]
                if found and found[-1].finish_reason is not None:
                    return found
    raise AssertionError("the stream ended before the request")


async def test_a_request_over_the_wire(tiny_llama: PreparedModel) -> None:
    async with _served(tiny_llama) as (stub, _):
        async with await stub.attach(HELLO) as stream:
            task = _task(10)
            await stream.send(ReserveDecode(task=task, source=KvSource.LOCAL))
            deltas = await _tokens_until_finished(stream, task.request_id)
        assert [d.position for d in deltas] == list(range(10))
        assert deltas[-1].finish_reason is FinishReason.LENGTH


async def test_a_beat_comes_at_once(tiny_llama: PreparedModel) -> None:
    async with _served(tiny_llama) as (stub, pair):
        async with await stub.attach(HELLO) as stream, asyncio.timeout(5):
            async for message in stream:
                assert isinstance(message, Beat)
                assert message.worker_epoch == pair.decode.host.info.epoch
                break


async def test_get_info_describes_the_worker(tiny_llama: PreparedModel) -> None:
    async with _served(tiny_llama) as (stub, pair):
        description = await stub.get_info(timeout_s=5.0)
        assert description.info == pair.decode.host.info
        assert description.load.total_blocks == pair.decode.engine.num_blocks
        assert not description.draining
        assert len(description.latency.prefill) == 3


async def test_a_router_that_goes_away_has_its_requests_aborted(tiny_llama: PreparedModel) -> None:
    async with _served(tiny_llama) as (stub, pair):
        stream = await stub.attach(HELLO)
        await stream.send(ReserveDecode(task=_task(900), source=KvSource.LOCAL))
        async with asyncio.timeout(10):
            while pair.decode.host.num_attempts == 0:
                await asyncio.sleep(0.01)
        stream.cancel()
        await pair.settle(timeout_s=5.0)


async def test_a_router_that_closes_its_side_has_its_requests_aborted(tiny_llama: PreparedModel) -> None:
    async with _served(tiny_llama) as (stub, pair):
        async with await stub.attach(HELLO) as stream:
            await stream.send(ReserveDecode(task=_task(900), source=KvSource.LOCAL))
            async with asyncio.timeout(10):
                while pair.decode.host.num_attempts == 0:
                    await asyncio.sleep(0.01)
            await stream.close_sending()
            await pair.settle(timeout_s=5.0)


async def test_two_routers_do_not_see_each_other(tiny_llama: PreparedModel) -> None:
    async with _served(tiny_llama) as (stub, _):
        async with await stub.attach(HELLO) as first, await stub.attach(Hello(router_id="router-b")) as second:
            one, two = _task(6), _task(8)
            await first.send(ReserveDecode(task=one, source=KvSource.LOCAL))
            await second.send(ReserveDecode(task=two, source=KvSource.LOCAL))
            got = await asyncio.gather(
                _tokens_until_finished(first, one.request_id), _tokens_until_finished(second, two.request_id)
            )
            assert [len(deltas) for deltas in got] == [6, 8]
            # The same id from another router is that router's own business only if it began it.
            await second.send(Abort(request_id=RequestId("unknown"), attempt=0, reason="X"))
            three = _task(3)
            await first.send(ReserveDecode(task=three, source=KvSource.LOCAL))
            assert len(await _tokens_until_finished(first, three.request_id)) == 3


async def test_drain_answers_when_nothing_is_left(tiny_llama: PreparedModel) -> None:
    async with _served(tiny_llama) as (stub, pair):
        async with await stub.attach(HELLO) as stream:
            task = _task(40)
            await stream.send(ReserveDecode(task=task, source=KvSource.LOCAL))
            async with asyncio.timeout(10):
                while pair.decode.host.num_attempts == 0:
                    await asyncio.sleep(0.01)
            left, deltas = await asyncio.gather(
                stub.drain(drain_timeout_s=10.0, timeout_s=15.0), _tokens_until_finished(stream, task.request_id)
            )
        assert left == 0
        assert len(deltas) == 40


async def test_drain_says_how_many_are_left_when_time_is_over(tiny_llama: PreparedModel) -> None:
    async with _served(tiny_llama) as (stub, pair):
        async with await stub.attach(HELLO) as stream:
            await stream.send(ReserveDecode(task=_task(900), source=KvSource.LOCAL))
            async with asyncio.timeout(10):
                while pair.decode.host.num_attempts == 0:
                    await asyncio.sleep(0.01)
            assert await stub.drain(drain_timeout_s=0.1, timeout_s=5.0) == 1


@pytest.mark.parametrize(
    ("first", "error"),
    [
        (Abort(request_id=RequestId("r"), attempt=0, reason="X"), InvalidArgument),
        (replace(HELLO, protocol_version=99), FailedPrecondition),
    ],
)
async def test_a_wrong_greeting_is_refused(
    tiny_llama: PreparedModel, first: AttachCommand, error: type[TandemError]
) -> None:
    async with _served(tiny_llama) as (_, pair):
        handler = WorkerServiceHandler(pair.decode.host)

        async def commands() -> AsyncIterator[AttachCommand]:
            yield first

        with pytest.raises(error, match=r"Hello|protocol"):
            async for _message in handler.attach(commands(), None):  # type: ignore[arg-type]
                break


async def test_a_silent_router_is_not_waited_for(tiny_llama: PreparedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.worker_host.service._HELLO_TIMEOUT_S", 0.05)
    async with _served(tiny_llama) as (_, pair):

        async def commands() -> AsyncIterator[AttachCommand]:
            await asyncio.sleep(30)
            yield HELLO

        with pytest.raises(InvalidArgument, match="did not come"):
            async for _message in WorkerServiceHandler(pair.decode.host).attach(commands(), None):  # type: ignore[arg-type]
                break
