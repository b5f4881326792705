"""The stream to one worker: dial, greet, read reports, write commands; again after it broke, with growing pauses.

Not a policy: what a broken stream means for requests is the dispatcher's business.
"""

import asyncio
import traceback
from collections import deque
from dataclasses import replace
from typing import Protocol

import grpc.aio
import structlog

from tandem.core.errors import FailedPrecondition, TandemError, Unavailable
from tandem.core.failpoints import failpoint_again, failpoint_in_loop
from tandem.core.latency import LatencyCoefficients
from tandem.core.messages import (
    Abort,
    Beat,
    Command,
    ForwardGrant,
    Granted,
    Hello,
    ReserveDecode,
    StepReport,
)
from tandem.core.types import WorkerInfo
from tandem.router.actions import WorkerKey
from tandem.rpc.channels import open_channel
from tandem.rpc.stubs.worker import AttachStream, WorkerStub
from tandem.rpc.tls import TlsMaterial

_log = structlog.get_logger(__name__)

_GET_INFO_TIMEOUT_S = 5.0
_FIRST_PAUSE_S = 0.05
_MAX_PAUSE_S = 2.0
_MAX_OUTBOX = 65536


class LinkEvents(Protocol):
    """Whom a link tells what happens."""

    def on_profile(self, worker: WorkerKey, coefficients: LatencyCoefficients) -> None:
        """The worker told how fast it is."""
        ...

    def on_attached(self, worker: WorkerKey) -> None:
        """The stream stands."""
        ...

    def on_report(self, worker: WorkerKey, report: StepReport) -> None:
        """An engine step."""
        ...

    def on_beat(self, worker: WorkerKey, beat: Beat) -> None:
        """A sign of life."""
        ...

    def on_lost(self, worker: WorkerKey) -> None:
        """The stream broke."""
        ...


class WorkerLink:
    """One life of one worker. ``run`` until it is cancelled."""

    def __init__(
        self, info: WorkerInfo, *, router_id: str, events: LinkEvents, tls: TlsMaterial | None, insecure: bool
    ) -> None:
        self.info = info
        self.key = WorkerKey(worker_id=info.worker_id, epoch=info.epoch)
        self._hello = Hello(router_id=router_id)
        self._events = events
        self._tls = tls
        self._insecure = insecure
        self._outbox: deque[Command] = deque()
        self._has_commands = asyncio.Event()
        self._stream: AttachStream | None = None

    def send(self, command: Command) -> None:
        """Have ``command`` written; dropped while the stream does not stand, because its attempts are lost then."""
        if self._stream is None:
            return
        if len(self._outbox) >= _MAX_OUTBOX:
            self.restart()  # a worker that reads nothing for so long is as good as gone
            return
        self._outbox.append(command)
        self._has_commands.set()

    def restart(self) -> None:
        """Break the stream, so that the worker aborts what came over it, and dial again."""
        if self._stream is not None:
            self._stream.cancel()

    async def run(self) -> None:
        """Keep the stream up. Ends only by cancellation."""
        try:
            await self._keep_up()
        except asyncio.CancelledError as error:
            _let_go(error)
            raise

    async def _keep_up(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            was_attached = False
            try:
                async with open_channel(self.info.address, tls=self._tls, insecure=self._insecure) as channel:
                    was_attached = await self._attach(channel)
            except TandemError as error:
                _log.info("worker_unreachable", worker_id=self.key.worker_id, reason=error.reason, problem=str(error))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, OSError) as error:
                _log.warning("worker_stream_broke", worker_id=self.key.worker_id, problem=repr(error))
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # A task group whose child fails while its parent is being cancelled reports the failure alone.
                raise asyncio.CancelledError
            pause_s = _FIRST_PAUSE_S if was_attached else min(pause_s * 2.0, _MAX_PAUSE_S)
            await asyncio.sleep(pause_s)

    async def _attach(self, channel: grpc.aio.Channel) -> bool:
        """Serve one stream to its end; True if it ever stood."""
        stub = WorkerStub(channel)
        description = await stub.get_info(timeout_s=_GET_INFO_TIMEOUT_S)
        if description.info.epoch != self.info.epoch or description.info.worker_id != self.info.worker_id:
            raise FailedPrecondition("another worker, or another life of this one, answers at its address")
        self._events.on_profile(self.key, description.latency)
        async with await stub.attach(self._hello) as stream:
            self._outbox.clear()
            self._stream = stream
            self._events.on_attached(self.key)
            try:
                async with asyncio.TaskGroup() as group:
                    writer = group.create_task(self._write(stream))
                    try:
                        await self._read(stream)
                    finally:
                        writer.cancel()
            except* (TandemError, grpc.aio.AioRpcError) as group_error:
                _log.info("worker_stream_ended", worker_id=self.key.worker_id, problem=str(group_error.exceptions[0]))
                _let_go(group_error)
            finally:
                self._stream = None
                self._outbox.clear()
                self._events.on_lost(self.key)
        return True

    async def _read(self, stream: AttachStream) -> None:
        async for message in stream:
            if isinstance(message, StepReport):
                self._events.on_report(self.key, message)
                if (again := _grants_again(message)) is not None:
                    self._events.on_report(self.key, again)
            else:
                self._events.on_beat(self.key, message)
        raise Unavailable("the worker closed its stream")

    async def _write(self, stream: AttachStream) -> None:
        while True:
            await self._has_commands.wait()
            self._has_commands.clear()
            while self._outbox:
                command = self._outbox.popleft()
                if isinstance(command, ReserveDecode):
                    await failpoint_in_loop("r.before_dispatch_decode")
                await stream.send(command)
                if _comes_again(command):
                    await stream.send(command)


def _comes_again(command: Command) -> bool:
    """What a test doubles: a second receipt of anything must have no effect."""
    if isinstance(command, ForwardGrant):
        return failpoint_again("r.grant")
    return isinstance(command, Abort) and failpoint_again("r.abort")


def _grants_again(report: StepReport) -> StepReport | None:
    """Return the grants of a report alone, where a test doubles them."""
    grants = tuple(event for event in report.events if isinstance(event, Granted))
    if not grants or not failpoint_again("r.granted"):
        return None
    return replace(report, tokens=(), events=grants, load=None)


def _let_go(error: BaseException) -> None:
    """Clear the frames behind an error.

    A task group's error is part of a cycle, and among what it holds is the call, and with that the connection: it would
    stay open until Python's collector comes by, which in an idle router it does not.
    """
    traceback.clear_frames(error.__traceback__)
    if error.__context__ is not None:
        _let_go(error.__context__)
    if isinstance(error, BaseExceptionGroup):
        for cause in error.exceptions:
            _let_go(cause)
