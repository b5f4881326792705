"""The KV services' links and callback thread on virtual time: the product's own code, called instead of threaded."""

from collections import deque
from collections.abc import Callable

from tandem.chaos.simulation.kv_wire import KvFabric, SimWire
from tandem.chaos.simulation.process import Process
from tandem.core.errors import TandemError
from tandem.kvtransfer import receiver_link, sender_link
from tandem.kvtransfer.codec import HEADER_BYTES
from tandem.kvtransfer.errors import LayoutMismatch, LinkLost, ProtocolViolation
from tandem.kvtransfer.frames import Frame
from tandem.kvtransfer.machine import sender_events as ev
from tandem.kvtransfer.timing import SENDER_BEAT_S
from tandem.kvtransfer.transport.base import SendingChannel
from tandem.kvtransfer.transport.tcp import TcpSendingChannel

_LINGER_S = 0.002
_ACTIONS_PER_TURN = 4
_POLL_S = 0.5


class SimThread:
    """A CallbackThread: callbacks in order, each a little later than it was posted."""

    def __init__(self, process: Process, tick: Callable[[], None], period_s: float, *, lag_s: float) -> None:
        self._process = process
        self._lag_s = lag_s
        self._calls: deque[Callable[[], None]] = deque()
        self._is_closed = False
        process.every(period_s, lambda: self.post(tick))

    def post(self, call: Callable[[], None]) -> None:
        """See CallbackThread."""
        if self._is_closed:
            return
        self._calls.append(call)
        if len(self._calls) == 1:
            self._process.after(self._lag_s * self._process.world.rng.random(), self._run)

    def close(self) -> None:
        """See CallbackThread."""
        self._is_closed = True
        self._calls.clear()

    def _run(self) -> None:
        if not self._calls:
            return
        call = self._calls.popleft()
        if self._calls:
            self._process.after(self._lag_s * self._process.world.rng.random(), self._run)
        try:
            call()
        except TandemError as error:  # as the real thread does: one callback's defect must not stop the others
            self._process.world.note(self._process.name, f"kv callback failed: {error.reason} {error}")


class SimReceiverLink(receiver_link.ReceiverLink):
    """A ReceiverLink whose thread is the scheduler."""

    def __init__(
        self, settings: receiver_link.LinkSettings, owner: receiver_link.LinkOwner, *, process: Process
    ) -> None:
        super().__init__(settings, owner)
        self._process = process
        self._head = memoryview(bytearray(HEADER_BYTES))
        self._wire: SimWire | None = None
        self._has_ended = False
        self._is_due = False
        self._waker.close()  # nobody polls

    def start(self) -> None:
        """Greet the peer at once: its Hello is here."""
        try:
            accepted = self._settings.welcome()
        except TandemError as error:
            self._end(error)
            return
        self._channel = accepted.channel
        wire = accepted.channel.wire
        if not isinstance(wire, SimWire):
            raise TypeError("a simulated door hands out simulated wires")
        self._wire = wire
        wire.on_data = self._turn
        self._poll()

    def post(self, frame: Frame) -> None:
        """See ReceiverLink."""
        self._outbox.append(frame)
        self._soon(0.0)

    def join(self) -> None:
        """Nothing to wait for."""

    def _soon(self, delay_s: float) -> None:
        if not self._is_due and not self._has_ended:
            self._is_due = True
            self._process.after(delay_s, self._flush_turn)

    def _poll(self) -> None:
        if not self._has_ended:
            self._soon(0.0)
            self._process.after(_POLL_S, self._poll)

    def _turn(self) -> None:
        """Bytes are here, or the peer is gone."""
        channel, wire = self._channel, self._wire
        if self._has_ended or channel is None or wire is None:
            return
        try:
            while wire.has_header and not self._has_ended:
                wire.read_available_into(self._head)
                self._on_frame(channel, self._head)
                if self._num_uncredited >= receiver_link._CREDIT_EVERY_CHUNKS:
                    self._flush(channel)
            if wire.is_over:
                raise LinkLost("peer closed the connection")
        except TandemError as error:
            self._end(error)
            return
        if self._outbox:
            self._soon(0.0)
        elif self._owes_credit(channel):
            self._soon(_LINGER_S)

    def _flush_turn(self) -> None:
        self._is_due = False
        channel = self._channel
        if self._has_ended or channel is None:
            return
        try:
            self._flush(channel)
            if not self._keep_up(channel) or self._is_closing:
                self._end(None)
        except TandemError as error:
            self._end(error)

    def _end(self, error: TandemError | None) -> None:
        """What the end of the real thread does."""
        if self._has_ended:
            return
        self._has_ended = True
        counters = self._settings.counters
        if isinstance(error, ProtocolViolation):
            counters.add("bad_frames")
        elif isinstance(error, LayoutMismatch):
            counters.add("refused_connections")
        elif isinstance(error, LinkLost):
            counters.add("stale_epoch" if error.reason == "STALE_EPOCH" else "links_lost")
        elif error is not None:
            raise error
        if self._channel is not None:
            self._channel.close()
        self._process.world.note(self._process.name, f"kv link in ends: {error}")
        self._owner.link_lost(self, LinkLost.reason)


class SimSenderLink(sender_link.SenderLink):
    """A SenderLink whose thread is the scheduler. ``chunk_s`` is what one chunk costs on the wire."""

    def __init__(
        self,
        settings: sender_link.LinkSettings,
        owner: sender_link.LinkOwner,
        *,
        process: Process,
        fabric: KvFabric,
        chunk_s: Callable[[], float],
    ) -> None:
        super().__init__(settings, owner)
        self._process = process
        self._fabric = fabric
        self._chunk_s = chunk_s
        self._has_ended = False
        self._is_due = False
        self._waker.close()

    def start(self) -> None:
        """Dial the receiver."""
        endpoint = self._settings.endpoints[-1]
        self._fabric.connect(self._process, endpoint.address, self._settings.hello, self._connected)

    def post(self, transfer: sender_link.SendingTransfer, action: ev.SenderAction) -> None:
        """See SenderLink."""
        self._actions.append((transfer, action))
        self._soon(1e-4)

    def join(self) -> None:
        """Nothing to wait for."""

    def _connected(self, result: TcpSendingChannel | TandemError) -> None:
        if isinstance(result, TandemError):
            self._end(result)
            return
        self._channel = result
        wire = result.wire
        if isinstance(wire, SimWire):
            wire.on_data = lambda: self._soon(0.0)
        self._poll()

    def _soon(self, delay_s: float) -> None:
        if not self._is_due and not self._has_ended and self._channel is not None:
            self._is_due = True
            self._process.after(delay_s, self._turn)

    def _poll(self) -> None:
        if not self._has_ended:
            self._soon(0.0)
            self._process.after(SENDER_BEAT_S, self._poll)

    def _turn(self) -> None:
        self._is_due = False
        channel = self._channel
        if self._has_ended or channel is None:
            return
        try:
            self._read(channel)
            now_s = self._settings.clock.now_s()
            if now_s >= self._beat_at_s and not self._keep_up(channel, now_s):
                self._end(None)
                return
            num_done = self._carry_out_some(channel)
        except TandemError as error:
            self._end(error)
            return
        if num_done:
            self._soon(num_done * self._chunk_s())

    def _carry_out_some(self, channel: SendingChannel) -> int:
        for num_done in range(_ACTIONS_PER_TURN):
            if not self._step(channel):
                return num_done
        return _ACTIONS_PER_TURN

    def _end(self, error: TandemError | None) -> None:
        """What the end of the real thread does."""
        if self._has_ended:
            return
        self._has_ended = True
        reason, retryable = LinkLost.reason, True
        if isinstance(error, LayoutMismatch):
            reason, retryable = error.reason, False
        elif isinstance(error, LinkLost | ProtocolViolation):
            self._settings.counters.add("links_lost")
        elif error is not None:
            raise error
        if self._channel is not None:
            self._channel.close()
        self._process.world.note(self._process.name, f"kv link out ends: {error}")
        self._owner.link_lost(self, reason, retryable=retryable)
