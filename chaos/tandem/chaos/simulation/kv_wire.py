"""KV connections without sockets: the product's frames, channels and hand-shake over simulated pipes."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tandem.chaos.simulation.network import Connection, End, Network, Pipe, Plane
from tandem.chaos.simulation.process import Process
from tandem.chaos.simulation.show import show_frame
from tandem.core.errors import TandemError
from tandem.kvtransfer.codec import HEADER_BYTES, decode, decode_header, encode
from tandem.kvtransfer.errors import LinkLost, ProtocolViolation
from tandem.kvtransfer.frames import Hello, HelloAck, HelloStatus
from tandem.kvtransfer.grant import KvEndpoint
from tandem.kvtransfer.timing import HELLO_TIMEOUT_S
from tandem.kvtransfer.transport.connect import check_answer
from tandem.kvtransfer.transport.door import DoorSettings, Welcome
from tandem.kvtransfer.transport.listen import Accepted, Identity, read_hello
from tandem.kvtransfer.transport.tcp import TcpReceivingChannel, TcpSendingChannel

_LENGTH_AT = 8  # of the payload's length in a frame's header


class SimWire:
    """A Wire: what has arrived is in ``_buffer``; nothing ever blocks."""

    def __init__(self, network: Network, connection: Connection, end: End, out: Pipe[Any], into: Pipe[Any]) -> None:
        self.on_data: Callable[[], None] = lambda: None
        self._network = network
        self._connection = connection
        self._end = end
        self._out = out
        self._buffer = bytearray()
        self._outgoing = bytearray()
        self._is_over = False
        into.receive = self._receive
        end.on_closed = self._closed

    @property
    def has_header(self) -> bool:
        """Whether a whole header is here."""
        return len(self._buffer) >= HEADER_BYTES

    @property
    def is_over(self) -> bool:
        """Whether the peer is gone and everything it sent was read."""
        return self._is_over and not self._buffer

    @property
    def connection(self) -> Connection:
        """The connection underneath, for faults."""
        return self._connection

    def fileno(self) -> int:
        """See Wire; nobody polls here."""
        return -1

    def send(self, head: bytes, payload: memoryview | None = None) -> None:
        """See Wire."""
        if not self._end.is_open:
            raise LinkLost("send failed: the connection is gone")
        self._outgoing += head
        if payload is not None:
            self._outgoing += payload
        mangle = self._network.mangle
        while (frame := self._next_frame()) is not None:
            self._network.world.tell(self._out.source, partial(_show, self._out.target.name, frame))
            if mangle is None:
                self._out.send(frame)
                continue
            for arrival in mangle(self._out, frame):
                if arrival.overtakes:
                    self._out.send_beside(arrival.frame, arrival.delay_s)
                else:
                    self._out.send(arrival.frame, arrival.delay_s)

    def _next_frame(self) -> bytes | None:
        """Cut the next whole frame off what was sent: a frame may come in several pieces, a piece may hold several."""
        data = self._outgoing
        if len(data) < HEADER_BYTES:
            return None
        size = HEADER_BYTES + int.from_bytes(data[_LENGTH_AT : _LENGTH_AT + 4], "little")
        if len(data) < size:
            return None
        frame = bytes(data[:size])
        del data[:size]
        return frame

    def read_available(self, size: int) -> bytes:
        """See Wire."""
        if self.is_over:
            raise LinkLost("peer closed the connection")
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def read_available_into(self, view: memoryview) -> int:
        """See Wire."""
        data = self.read_available(len(view))
        view[: len(data)] = data
        return len(data)

    def read_into(self, view: memoryview, stopped: Callable[[], bool] | None = None) -> int:
        """See Wire. A frame comes whole, so what is missing now will never come."""
        if stopped is not None and stopped():
            return 0
        if len(self._buffer) < len(view):
            raise LinkLost("peer sends no bytes")
        return self.read_available_into(view)

    def interrupt(self) -> None:
        """See Wire."""
        self.close()

    def close(self) -> None:
        """See Wire."""
        self._connection.close(self._end)
        self._is_over = True

    def _receive(self, frame: bytes) -> None:
        self._buffer += frame
        self.on_data()

    def _closed(self) -> None:
        self._is_over = True
        self.on_data()


class SimReceivingChannel(TcpReceivingChannel):
    """The product's channel; other threads of the process may get a turn around each copy into a block."""

    def __init__(self, wire: SimWire, preempt: Callable[[], None]) -> None:
        super().__init__(wire)
        self._preempt = preempt

    def receive(self, chunk: Any, target: memoryview, *, seed: int, stopped: Callable[[], bool]) -> bytes | None:
        """See ReceivingChannel."""
        self._preempt()
        digest = super().receive(chunk, target, seed=seed, stopped=stopped)
        self._preempt()
        return digest


class SimDoor:
    """A receiver's way in: its name in the fabric."""

    def __init__(
        self, fabric: "KvFabric", process: Process, identity: Identity, admit: Callable[[Welcome], bool]
    ) -> None:
        self.process = process
        self.identity = identity
        self.admit = admit
        self.preempt: Callable[[], None] = lambda: None
        self._fabric = fabric
        fabric.doors[process.name] = self

    @property
    def endpoints(self) -> tuple[KvEndpoint, ...]:
        """See Door. A restarted worker has the address of its former life."""
        return (KvEndpoint(transport="tcp", address=f"{self.process.name}:1", host_id=""),)

    def close(self) -> None:
        """See Door."""
        if self._fabric.doors.get(self.process.name) is self:
            del self._fabric.doors[self.process.name]


Connected = Callable[[TcpSendingChannel | TandemError], None]


class KvFabric:
    """Who listens where, and how senders get there."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.doors: dict[str, SimDoor] = {}
        self.connections: list[Connection] = []

    def make_door(
        self, process: Process, settings: DoorSettings, identity: Identity, admit: Callable[[Welcome], bool]
    ) -> SimDoor:
        """A receiver service's ``make_door``, for one process."""
        return SimDoor(self, process, identity, admit)

    def connect(self, source: Process, address: str, hello: Hello, done: Connected) -> None:
        """Dial; ``done`` gets the channel, or the error a real hand-shake would raise, within the product's bound."""
        world = self.network.world
        name = address.partition(":")[0]
        door = self.doors.get(name)
        if door is None or not door.process.is_alive:
            source.after(2e-3, partial(done, LinkLost("connection refused")))
            return
        connection = Connection(self.network, source, door.process, Plane.KV, keepalive=False)
        self.connections = [*[c for c in self.connections if c.is_open][-64:], connection]
        ours = SimWire(self.network, connection, connection.one, connection.to_other, connection.to_one)
        theirs = SimWire(self.network, connection, connection.other, connection.to_one, connection.to_other)
        is_done = False

        def finish(result: TcpSendingChannel | TandemError) -> None:
            nonlocal is_done
            if not is_done:
                is_done = True
                if isinstance(result, TandemError):
                    ours.close()
                done(result)

        def arrived() -> None:
            theirs.on_data = lambda: None
            welcome = partial(_welcome, theirs, door)
            if theirs.is_over or not door.admit(welcome):
                theirs.close()

        def answered() -> None:
            if not is_done:
                try:
                    finish(_read_answer(ours, hello))
                except TandemError as error:
                    finish(error)

        theirs.on_data = arrived
        ours.on_data = answered
        connection.to_other.send(encode(hello))
        source.after(HELLO_TIMEOUT_S, partial(finish, LinkLost("the peer did not answer in time")))
        world.note(source.name, f"dials {name}")


def _welcome(wire: SimWire, door: SimDoor) -> Accepted:
    """What a listener does with a peer's Hello."""
    try:
        hello = read_hello(wire, door.identity)
        wire.send(encode(HelloAck(HelloStatus.WELCOME, door.identity.epoch, 0, 0, door.identity.worker_id)))
    except TandemError:
        wire.close()
        raise
    return Accepted(SimReceivingChannel(wire, door.preempt), hello)


def _read_answer(wire: SimWire, hello: Hello) -> TcpSendingChannel:
    if wire.is_over:
        raise LinkLost("peer closed the connection")
    header = decode_header(wire.read_available(HEADER_BYTES))
    ack = decode(header, wire.read_available(header.payload_bytes))
    if not isinstance(ack, HelloAck):
        raise ProtocolViolation(f"hello: answered by {type(ack).__name__}")
    check_answer(ack, hello)
    return TcpSendingChannel(wire)


def _show(target: str, frame: bytes) -> str:
    return f"kv to {target}: {show_frame(frame)}"
