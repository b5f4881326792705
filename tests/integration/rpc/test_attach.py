"""Router and worker over a real Attach stream on loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from tandem.core.description import WorkerDescription
from tandem.core.errors import FailedPrecondition, InternalError, InvalidArgument, TandemError, Unavailable
from tandem.core.ids import Epoch, RequestId, WorkerId
from tandem.core.latency import LatencyCoefficients
from tandem.core.messages import Abort, AttachCommand, Granted, Hello, StepReport, WorkerMessage
from tandem.core.role_commands import RoleAnswer, RoleCommand
from tandem.core.types import Role, TokenDelta, WorkerInfo, WorkerLoad
from tandem.rpc.channels import INTERNAL_LIMITS, open_channel
from tandem.rpc.context import CallContext
from tandem.rpc.server import RpcServer
from tandem.rpc.services.worker import worker_service
from tandem.rpc.stubs.worker import WorkerStub

INFO = WorkerInfo(
    worker_id=WorkerId("decode-0"),
    epoch=Epoch(77),
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
)
HELLO = Hello(router_id="router-0")


class EchoWorker:
    """Answers each abort with a report about the same request, and remembers how streams ended."""

    def __init__(self) -> None:
        self.seen: list[AttachCommand] = []
        self.ended = asyncio.Event()
        self.fail_with: Exception | None = None
        self.num_drained = 0

    async def attach(self, commands: AsyncIterator[AttachCommand], call: CallContext) -> AsyncIterator[WorkerMessage]:
        try:
            async for command in commands:
                self.seen.append(command)
                if self.fail_with is not None:
                    raise self.fail_with
                if isinstance(command, Abort):
                    granted = Granted(request_id=command.request_id, attempt=command.attempt, grant=b"g")
                    delta = TokenDelta(
                        request_id=command.request_id, attempt=0, child=0, position=0, token_ids=(5,), text="é"
                    )
                    yield StepReport(
                        worker_epoch=INFO.epoch, sequence=len(self.seen), tokens=(delta,), events=(granted,)
                    )
        finally:
            self.ended.set()

    async def get_info(self, call: CallContext) -> WorkerDescription:
        return WorkerDescription(info=INFO, latency=LatencyCoefficients(), load=WorkerLoad(num_running=3))

    async def drain(self, timeout_s: float, call: CallContext) -> int:
        await asyncio.sleep(timeout_s)
        return self.num_drained

    async def set_role(self, command: RoleCommand, call: CallContext) -> RoleAnswer:
        raise FailedPrecondition("an echo keeps its role", reason="ROLE_IS_FIXED")


@asynccontextmanager
async def running(worker: EchoWorker) -> AsyncIterator[WorkerStub]:
    server = RpcServer(address="127.0.0.1:0", limits=INTERNAL_LIMITS)
    server.add(worker_service(worker))
    address = await server.start()
    channel = open_channel(address)
    try:
        yield WorkerStub(channel)
    finally:
        await channel.close(None)
        await server.stop(grace_s=0)


def abort(number: int) -> Abort:
    return Abort(request_id=RequestId(f"{number:032x}"), attempt=0, reason="TEST")


async def test_commands_and_reports_cross_in_order() -> None:
    worker = EchoWorker()
    async with running(worker) as stub, await stub.attach(HELLO) as stream:
        for number in range(20):
            await stream.send(abort(number))
        await stream.close_sending()
        reports = [message async for message in stream]
    assert worker.seen == [HELLO, *(abort(number) for number in range(20))]
    assert all(isinstance(report, StepReport) for report in reports)
    assert [report.tokens[0].request_id for report in reports if isinstance(report, StepReport)] == [
        abort(number).request_id for number in range(20)
    ]


async def test_leaving_the_stream_ends_it_at_the_worker() -> None:
    worker = EchoWorker()
    async with running(worker) as stub:
        async with await stub.attach(HELLO) as stream:
            await stream.send(abort(1))
            await anext(aiter(stream))
            assert not worker.ended.is_set()
        async with asyncio.timeout(5):
            await worker.ended.wait()


async def test_a_stream_ended_here_is_an_error_to_its_reader_and_no_cancellation_of_its_task() -> None:
    """Else a router that gives up a silent worker's stream would lose the task that dials again."""
    worker = EchoWorker()
    async with running(worker) as stub, await stub.attach(HELLO) as stream:

        async def read() -> None:
            async for _ in stream:
                pass

        reading = asyncio.create_task(read())
        await stream.send(abort(1))
        await asyncio.sleep(0.05)
        stream.cancel()
        with pytest.raises(Unavailable, match="on this side"):
            await asyncio.wait_for(reading, 5.0)
        assert not reading.cancelled()


async def test_a_readers_own_cancellation_stays_one() -> None:
    worker = EchoWorker()
    async with running(worker) as stub, await stub.attach(HELLO) as stream:

        async def read() -> None:
            async for _ in stream:
                pass

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (FailedPrecondition("protocol 9", reason="PROTOCOL_VERSION"), FailedPrecondition),
        (ValueError("secret text"), InternalError),
    ],
)
async def test_what_the_worker_raises_ends_the_stream_by_name(
    raised: Exception, expected: type[TandemError], capfd: pytest.CaptureFixture[str]
) -> None:
    worker = EchoWorker()
    worker.fail_with = raised
    async with running(worker) as stub, await stub.attach(HELLO) as stream:
        with pytest.raises(expected) as caught:
            async for _ in stream:
                pass
        with pytest.raises(expected):
            for _ in range(100):
                await stream.send(abort(1))
                await asyncio.sleep(0.01)
    assert "secret" not in str(caught.value)
    assert worker.ended.is_set()


async def test_a_command_that_cannot_be_read_is_the_routers_fault() -> None:
    worker = EchoWorker()
    async with running(worker) as stub:
        call = stub._channel.stream_stream(
            "/tandem.worker.v1.WorkerService/Attach", request_serializer=None, response_deserializer=None
        )(request_iterator=None)
        await call.write(b"\xff\xff\xff")
        with pytest.raises(grpc.RpcError) as caught:
            async for _ in call:
                pass
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert worker.seen == []


async def test_who_are_you_and_drain() -> None:
    worker = EchoWorker()
    worker.num_drained = 2
    async with running(worker) as stub:
        description = await stub.get_info(timeout_s=5)
        assert description == WorkerDescription(
            info=INFO, latency=LatencyCoefficients(), load=WorkerLoad(num_running=3)
        )
        assert await stub.drain(drain_timeout_s=0.01, timeout_s=5) == 2


async def test_nobody_there_is_unavailable() -> None:
    channel = open_channel("127.0.0.1:1")
    try:
        with pytest.raises(Unavailable):
            await WorkerStub(channel).get_info(timeout_s=5)
        with pytest.raises(Unavailable):
            async for _ in await WorkerStub(channel).attach(HELLO):
                pass
    finally:
        await channel.close(None)


def test_invalid_argument_is_ours() -> None:
    assert issubclass(InvalidArgument, TandemError)
