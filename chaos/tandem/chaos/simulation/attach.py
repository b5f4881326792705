"""The Attach stream between a router and a worker without gRPC: dial, greet, commands down, reports up, again.

It stands in for `tandem.router.worker_link` and `tandem.worker_host.service`, and behaves as they do: a stream that
broke loses what was on its way, the worker aborts what came over it, and the router dials again with growing pauses.
"""

from collections.abc import Callable
from typing import Any, Protocol

from tandem.chaos.simulation.network import Connection, Network, Plane
from tandem.chaos.simulation.process import Process
from tandem.chaos.simulation.worker import SimWorker
from tandem.core.ids import Epoch
from tandem.core.latency import LatencyCoefficients
from tandem.core.messages import Beat, Command, Hello, StepReport, WorkerMessage
from tandem.core.types import WorkerInfo
from tandem.router.actions import WorkerKey
from tandem.rpc.codec.commands import decode_command, encode_command
from tandem.rpc.codec.reports import decode_worker_message, encode_worker_message

_REQUEST = type(encode_command(Hello(router_id="")))
_RESPONSE = type(encode_worker_message(StepReport(worker_epoch=Epoch(0), sequence=0)))
_FIRST_PAUSE_S = 0.05
_MAX_PAUSE_S = 2.0
_DIAL_TIMEOUT_S = 5.0


class LinkEvents(Protocol):
    """Whom a link tells what happens; see `tandem.router.worker_link`."""

    def on_profile(self, worker: WorkerKey, coefficients: LatencyCoefficients) -> None: ...
    def on_attached(self, worker: WorkerKey) -> None: ...
    def on_report(self, worker: WorkerKey, report: StepReport) -> None: ...
    def on_beat(self, worker: WorkerKey, beat: Beat) -> None: ...
    def on_lost(self, worker: WorkerKey) -> None: ...


class AttachLink:
    """The router's end, for one life of one worker."""

    def __init__(
        self,
        info: WorkerInfo,
        *,
        network: Network,
        router: Process,
        events: LinkEvents,
        find: Callable[[str], SimWorker | None],
        through_codec: bool,
    ) -> None:
        self.key = WorkerKey(worker_id=info.worker_id, epoch=info.epoch)
        self._name = info.address
        self._network = network
        self._router = router
        self._events = events
        self._find = find
        self._through_codec = through_codec
        self._connection: Connection | None = None
        self._is_closed = False
        self._pause_s = _FIRST_PAUSE_S
        self._num_streams = 0

    @property
    def connection(self) -> Connection | None:
        """The stream's connection while it stands, for faults."""
        return self._connection

    def start(self) -> None:
        """Dial."""
        if self._is_closed or self._connection is not None:
            return
        worker = self._find(self._name)
        network, router = self._network, self._router
        if worker is None or not network.is_whole(router.name, self._name, Plane.ATTACH):
            self._again(_DIAL_TIMEOUT_S if worker is not None else 0.0)
            return
        if worker.process.paused_since_s is not None:
            self._again(_DIAL_TIMEOUT_S)
            return
        path = network.path(router.name, self._name, Plane.ATTACH)
        router.after(2.0 * (path.delay_s + path.extra_s) + 1e-3, lambda: self._attach(worker))

    def send(self, command: Command) -> None:
        """Send a command; it goes nowhere while the stream does not stand."""
        if self._connection is not None:
            message: Any = encode_command(command).SerializeToString() if self._through_codec else command
            self._connection.to_other.send(message)

    def restart(self) -> None:
        """Break the stream and dial again."""
        if self._connection is not None:
            self._connection.close(self._connection.one)
            self._lost()

    def close(self) -> None:
        """The worker left."""
        self._is_closed = True
        self.restart()

    def _again(self, delay_s: float) -> None:
        self._pause_s = min(self._pause_s * 2.0, _MAX_PAUSE_S)
        self._router.after(delay_s + self._pause_s, self.start)

    def _attach(self, worker: SimWorker) -> None:
        if self._is_closed or self._connection is not None:
            return
        if not worker.process.is_alive or worker.epoch != self.key.epoch:
            self._again(0.0)  # another life answers at its address
            return
        self._events.on_profile(self.key, worker.estimator.model().coefficients)
        connection = Connection(self._network, self._router, worker.process, Plane.ATTACH, keepalive=True)
        self._num_streams += 1
        session_id = f"{self._router.name}#{self._num_streams}"
        self._connection = connection
        self._pause_s = _FIRST_PAUSE_S
        connection.one.on_closed = lambda: self._closed(connection)
        connection.other.on_closed = lambda: worker.detach(session_id)
        connection.to_one.receive = lambda data: self._receive(connection, data)
        connection.to_other.receive = lambda data: worker.command(session_id, self._decode_command(data))

        def send(message: WorkerMessage) -> None:
            data: Any = encode_worker_message(message).SerializeToString() if self._through_codec else message
            connection.to_one.send(data)

        worker.process.call(lambda: worker.attach(session_id, send))
        self._router.world.note(self._router.name, f"attached to {self._name}")
        self._events.on_attached(self.key)

    def _closed(self, connection: Connection) -> None:
        if self._connection is connection:
            self._lost()

    def _lost(self) -> None:
        self._connection = None
        self._router.world.note(self._router.name, f"lost the stream to {self._name}")
        self._events.on_lost(self.key)
        if not self._is_closed:
            self._router.after(self._pause_s, self.start)

    def _receive(self, connection: Connection, data: Any) -> None:
        if self._connection is not connection:
            return
        message = decode_worker_message(_RESPONSE.FromString(data)) if self._through_codec else data
        if isinstance(message, StepReport):
            self._events.on_report(self.key, message)
        else:
            self._events.on_beat(self.key, message)

    def _decode_command(self, data: Any) -> Any:
        return decode_command(_REQUEST.FromString(data)) if self._through_codec else data
