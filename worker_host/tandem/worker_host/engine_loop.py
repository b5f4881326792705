"""The engine thread: takes commands, runs forward steps, publishes what they brought.

Shell and step are apart: ``_run`` waits, logs and survives; ``step`` is what tests call.
"""

import threading
from collections.abc import Callable

import structlog

from tandem.core.blocks import AttemptKey
from tandem.core.clock import Clock
from tandem.core.errors import TandemError
from tandem.core.latency import LatencyEstimator
from tandem.core.messages import Abort, AttemptFailed, Command, ForwardGrant, ReserveDecode, StartPrefill
from tandem.core.reasons import DRAINING
from tandem.core.types import WorkerLoad
from tandem.engine.engine import Engine
from tandem.engine.results import StepStats
from tandem.worker_host.inbox import Inbox
from tandem.worker_host.instruments import WorkerInstruments
from tandem.worker_host.outbox import Outbox, Send
from tandem.worker_host.pins import Pins
from tandem.worker_host.role import RoleService

_log = structlog.get_logger(__name__)
_IDLE_WAIT_S = 0.25


class EngineLoop:
    """Owns the engine: nobody else calls it. The inbox is the one door from other threads."""

    def __init__(
        self,
        *,
        engine: Engine,
        role: RoleService,
        inbox: Inbox,
        outbox: Outbox,
        estimator: LatencyEstimator,
        instruments: WorkerInstruments,
        clock: Clock,
        pins: Pins | None = None,
    ) -> None:
        self._engine = engine
        self._pins = Pins(None) if pins is None else pins
        self._role = role
        self._outbox = outbox
        self._estimator = estimator
        self._instruments = instruments
        self._clock = clock
        self._inbox = inbox
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._step_began_s: float | None = None
        self._last_step_ms = 0.0
        self._load = WorkerLoad(free_blocks=engine.num_blocks, total_blocks=engine.num_blocks)
        self._is_draining = False
        self._busy_s = 0.0
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end and wait; False when it did not in time."""
        self._stopping.set()
        self._inbox.post(lambda: None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        """Tell whether the engine thread still runs."""
        return self._thread.is_alive()

    @property
    def load(self) -> WorkerLoad:
        """The load after the last step or command; safe from any thread."""
        return self._load

    @property
    def step_age_ms(self) -> float:
        """How long the present forward step has been running; 0 when none is."""
        began_s = self._step_began_s
        return 0.0 if began_s is None else 1e3 * (self._clock.now_s() - began_s)

    @property
    def busy_s(self) -> float:
        """Time spent in forward steps since the start, the present one included; safe from any thread."""
        return self._busy_s + self.step_age_ms / 1e3

    @property
    def role(self) -> RoleService:
        """The role that is served; safe from any thread."""
        return self._role

    @property
    def is_busy(self) -> bool:
        """Whether attempts have not ended here, or hand-overs are not over."""
        return self._outbox.num_attempts > 0 or self._role.num_handovers > 0

    @property
    def num_attempts(self) -> int:
        """Attempts that have not ended here."""
        return self._outbox.num_attempts

    def open_session(self, session_id: str, send: Send) -> None:
        """A router attached."""
        self._inbox.post(lambda: self._outbox.open_session(session_id, send))

    def close_session(self, session_id: str) -> None:
        """A router is gone: nobody waits for its requests any more, so they end here."""

        def close() -> None:
            for key in self._outbox.close_session(session_id):
                self._pins.forget(key)
                self._role.abort(Abort(request_id=key.request_id, attempt=key.attempt, reason="ROUTER_LOST"))

        self._inbox.post(close)

    def command(self, session_id: str, command: Command) -> None:
        """A router sent a command."""
        self._inbox.post(lambda: self._handle(session_id, command))

    def drain(self) -> None:
        """Take no new attempts from now on."""
        self._inbox.post(self._begin_draining)

    def _begin_draining(self) -> None:
        self._is_draining = True

    def set_draining(self, draining: bool) -> None:
        """Take new attempts, or none. Engine thread only."""
        self._is_draining = draining

    def replace_role(self, make: Callable[[], RoleService]) -> None:
        """Serve another role over the same engine from now on. Engine thread only, and only while nothing is held.

        What ``make`` raises leaves the present role as it was.
        """
        before = self._role
        self._role = make()
        before.close()

    def hand_over(self) -> None:
        """End every attempt that is still here, so that its router goes on with it elsewhere."""
        self._inbox.post(self.hand_over_now)

    def hand_over_now(self) -> None:
        """The same, at once. Engine thread only."""
        for key in self._outbox.open_attempts():
            # The failure first: it is the attempt's last word, so what the role says of its release goes nowhere.
            self._fail(key, DRAINING, "this worker is leaving", retryable=True)
            self._role.abort(Abort(request_id=key.request_id, attempt=key.attempt, reason=DRAINING))

    @property
    def is_draining(self) -> bool:
        """Tell whether new attempts are refused."""
        return self._is_draining

    def _handle(self, session_id: str, command: Command) -> None:
        if not isinstance(command, StartPrefill | ReserveDecode):
            self._change(command)
            return
        key = AttemptKey(request_id=command.task.request_id, attempt=command.task.attempt)
        if not self._outbox.bind(key, session_id):
            return  # the same command again, and it already runs; or nobody is left to hear of it
        if self._is_draining:
            if isinstance(command, StartPrefill) and command.reuse_attempt is not None:
                # Whoever is refused goes elsewhere and does not ask again for what is held here for it.
                held = Abort(request_id=key.request_id, attempt=command.reuse_attempt, reason=DRAINING)
                self._role.abort(held)
            self._fail(key, DRAINING, "this worker is draining", retryable=True)
            return
        self._pins.begun(command.task)
        try:
            self._role.handle(command)
        except TandemError as error:
            self._fail(key, error.reason, str(error), retryable=error.retryable)

    def _change(self, command: Abort | ForwardGrant) -> None:
        """Apply a command about an attempt that should be here. Late ones are common and change nothing."""
        key = AttemptKey(request_id=command.request_id, attempt=command.attempt)
        if not self._outbox.knows(key):
            self._instruments.stale_command(command)
            return
        try:
            if isinstance(command, Abort):
                self._role.abort(command)
            else:
                self._role.handle(command)
        except TandemError as error:
            # A grant that went astray is the router's defect; what runs here under that name is not to suffer for it.
            self._instruments.stale_command(command)
            _log.warning("command_refused", command=type(command).__name__, problem=str(error))

    def _fail(self, key: AttemptKey, reason: str, message: str, *, retryable: bool) -> None:
        self._instruments.attempt_failed(reason)
        self._outbox.event(
            AttemptFailed(
                request_id=key.request_id, attempt=key.attempt, reason=reason, message=message, retryable=retryable
            )
        )

    def step(self) -> bool:
        """Take what waits, run one forward step when there is work, publish. True when a step ran."""
        if self._inbox.run_waiting():
            # A grant or a finished hand-over must not wait for the forward step that follows.
            self._publish()
        has_work = self._engine.has_work()
        if has_work:
            self._step_began_s = self._clock.now_s()
            result = self._engine.step()
            self._step_began_s = None
            self._busy_s += result.stats.wall_s
            self._learn(result.stats)
            self._instruments.stepped(result)
            self._role.after_step(result)
            self._publish()
        return has_work

    def _publish(self) -> None:
        self._load = self._engine.load()
        self._outbox.flush(self._load)

    def _learn(self, stats: StepStats) -> None:
        # Only pure steps teach: a mixed one does not say which part took how long, nor do several prompts at once.
        if stats.num_prefill_sequences == 1 and not stats.num_decode_rows:
            self._estimator.observe_prefill(
                num_new_tokens=stats.num_prefill_tokens,
                num_cached_tokens=stats.num_cached_tokens,
                seconds=stats.wall_s,
            )
        elif stats.num_decode_rows and not stats.num_prefill_tokens:
            self._estimator.observe_step(
                num_sequences=stats.num_decode_rows,
                num_context_tokens=stats.num_context_tokens,
                seconds=stats.wall_s,
            )

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if not self.step():
                    next_work_s = self._engine.next_work_s()
                    wait_s = _IDLE_WAIT_S if next_work_s is None else min(next_work_s, _IDLE_WAIT_S)
                    if self._inbox.wait_and_run(wait_s):
                        self._publish()
                    else:
                        # A block that a hand-over thread held was freed when that thread let go, which nobody tells.
                        self._load = self._engine.load()
            except Exception as error:  # noqa: BLE001 - the thread's outermost shell
                # The engine has already failed and freed what it could blame on a request. What arrives here is a
                # defect or a lost device: state is unknown, so the process ends and its supervisor starts another.
                _log.exception("engine thread failed")
                self.failure = error
                return
