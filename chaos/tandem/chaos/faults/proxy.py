"""A TCP proxy that breaks what goes through it, on command. It runs in a thread of its own.

Put its ``address`` where the server's would stand (``advertise_address`` and ``kv_advertise_address`` of a worker);
``add`` and ``remove`` faults at any time, from any thread.
"""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Self, TypeVar

from tandem.chaos.faults.flow import Direction, Flow, LinkFault, reset_on_close
from tandem.rpc.addresses import join_address, split_address

_CALL_TIMEOUT_S: Final = 10.0
_CONNECT_TIMEOUT_S: Final = 5.0
T = TypeVar("T")


class ProxyThread:
    """An event loop for any number of proxies. Use as a context manager."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_CALL_TIMEOUT_S)
        self.loop.close()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result; not from the loop itself."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(_CALL_TIMEOUT_S)

    async def _cancel_all(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.0)  # transports close in callbacks of their own


class TcpProxy:
    """Listens on loopback, forwards to ``target``. ``as_frames`` makes every KV frame a piece of its own."""

    def __init__(
        self, thread: ProxyThread, *, target: str, as_frames: bool = False, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        """Start to listen at once; ``target`` is dialled per connection, so it may come up later."""
        self._thread = thread
        self._target = split_address(target)
        self._as_frames = as_frames
        self._faults: list[LinkFault] = []
        self._flows: set[Flow] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.num_accepted = 0
        self._server = thread.call(self._listen(host, port))
        bound = self._server.sockets[0].getsockname()
        self.address = join_address(bound[0], bound[1])

    def add(self, fault: LinkFault) -> None:
        """Let ``fault`` begin, on connections that stand and on those to come."""
        self._thread.call(self._add(fault))

    def remove(self, fault: LinkFault) -> None:
        """Let it end; connections that it did not destroy go on."""
        self._thread.call(self._remove(fault))

    def retarget(self, target: str) -> None:
        """Forward further connections elsewhere."""
        self._target = split_address(target)

    def num_open(self) -> int:
        """Connections that stand."""
        return sum(1 for flow in tuple(self._flows) if flow.direction is Direction.TO_SERVER and not flow.is_closed)

    def num_bytes(self, direction: Direction) -> int:
        """Bytes read in ``direction`` by the connections that stand."""
        return sum(flow.num_bytes_in for flow in tuple(self._flows) if flow.direction is direction)

    def close(self) -> None:
        """Stop listening and end every connection."""
        self._thread.call(self._close())

    async def _listen(self, host: str, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._accepted, host, port)

    async def _add(self, fault: LinkFault) -> None:
        self._faults.append(fault)
        fault.attached([flow for flow in self._flows if flow.direction is fault.direction and not flow.is_closed])

    async def _remove(self, fault: LinkFault) -> None:
        with contextlib.suppress(ValueError):
            self._faults.remove(fault)

    async def _close(self) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_accepted += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                far_reader, far_writer = await asyncio.open_connection(*self._target)
        except (OSError, TimeoutError):
            reset_on_close(writer)
            writer.close()
            return
        await self._pump(reader, writer, far_reader, far_writer)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        def close_link() -> None:
            for end in (writer, far_writer):
                end.transport.abort()

        ends = ((Direction.TO_SERVER, reader, far_writer), (Direction.TO_CLIENT, far_reader, writer))
        flows = [
            Flow(
                direction=direction,
                reader=source,
                writer=sink,
                close_link=close_link,
                faults=self._active,
                as_frames=self._as_frames,
            )
            for direction, source, sink in ends
        ]
        self._flows.update(flows)
        try:
            await asyncio.gather(*(flow.run() for flow in flows))
        finally:
            self._flows.difference_update(flows)
            close_link()

    def _active(self, direction: Direction) -> Sequence[LinkFault]:
        return [fault for fault in self._faults if fault.direction is direction]
