"""Role service of a decode worker (D). Runs on the engine thread; the receiver's threads reach it through the inbox."""

from tandem.core.blocks import AttemptKey
from tandem.core.errors import TandemError
from tandem.core.failpoints import failpoint
from tandem.core.messages import (
    Abort,
    AttemptFailed,
    AttemptReleased,
    Command,
    Granted,
    HandoverDone,
    ReserveDecode,
)
from tandem.core.reasons import FINISHED, WRONG_ROLE
from tandem.core.types import GenerationTask, KvSource, Role
from tandem.decode_worker.receiver_events import KvReceiver, ReceiverFactory, ReceiverRelay
from tandem.engine.engine import Engine
from tandem.engine.results import StepResult
from tandem.kvtransfer.stats import TransferStats
from tandem.worker_host.first_tokens import decode_first_tokens
from tandem.worker_host.inbox import Inbox
from tandem.worker_host.instruments import WorkerInstruments
from tandem.worker_host.outbox import Outbox
from tandem.worker_host.token_digest import digest_tokens

_FAILED = "the KV hand-over failed"
_NO_DEADLINE_S = 600.0  # the hand-over has time-outs of its own, much shorter


class DecodeRole:
    """Reserves, receives or computes the prompt's KV, then decodes in the continuous batch.

    Guarantees: a sequence decodes only from KV that was verified here or computed here; when an attempt ends, for
    whatever reason, its blocks are free at once (or when the chunk being received is in) and the router is told.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        outbox: Outbox,
        inbox: Inbox,
        instruments: WorkerInstruments,
        make_receiver: ReceiverFactory,
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._instruments = instruments
        self._receiving: set[AttemptKey] = set()
        relay = ReceiverRelay(inbox=inbox, on_ready=self._on_ready, on_failed=self._on_transfer_failed)
        self._receiver: KvReceiver = make_receiver(relay)

    @property
    def role(self) -> Role:
        """DECODE."""
        return Role.DECODE

    @property
    def num_handovers(self) -> int:
        """Hand-overs that are not over on this side."""
        return self._receiver.num_open

    def handle(self, command: Command) -> None:
        """Reserve for a hand-over, or begin locally."""
        if not isinstance(command, ReserveDecode):
            raise TandemError("this worker decodes; it does not prefill for others", reason=WRONG_ROLE)
        task = command.task
        if command.source is KvSource.LOCAL:
            self._engine.start_local(task)
            grant = b""
        else:
            grant = self._reserve(task)
        self._outbox.event(Granted(request_id=task.request_id, attempt=task.attempt, grant=grant))

    def abort(self, command: Abort) -> None:
        """Stop an attempt, or one child of it."""
        key = AttemptKey(request_id=command.request_id, attempt=command.attempt)
        if command.child is not None:
            self._engine.abort(key, command.child)
            return
        self._stop_receiving(key, command.reason)
        self._engine.abort(key)
        self._outbox.event(AttemptReleased(request_id=key.request_id, attempt=key.attempt))

    def after_step(self, result: StepResult) -> None:
        """Pass tokens and events on."""
        failpoint("d.after_step")
        for delta in result.tokens:
            self._outbox.token(delta)
        for event in result.events:
            if isinstance(event, AttemptFailed) and event.child is None:
                self._stop_receiving(AttemptKey(request_id=event.request_id, attempt=event.attempt), event.reason)
            self._outbox.event(event)

    def close(self) -> None:
        """Stop the receiver's threads and close its sockets."""
        self._receiver.close()

    def _reserve(self, task: GenerationTask) -> bytes:
        key = AttemptKey(request_id=task.request_id, attempt=task.attempt)
        refs = self._engine.reserve_decode(task)
        try:
            grant = self._receiver.expect(
                key,
                refs,
                digest_tokens(task),
                _NO_DEADLINE_S if task.deadline_left_s is None else task.deadline_left_s,
            )
        except TandemError:
            self._engine.abort(key)
            raise
        self._receiving.add(key)
        return grant.to_bytes()

    def _stop_receiving(self, key: AttemptKey, reason: str) -> None:
        if key in self._receiving:
            self._receiving.discard(key)
            self._receiver.abort(key, reason)

    def _on_ready(self, key: AttemptKey, payload: bytes, stats: TransferStats) -> None:
        if key not in self._receiving:
            return  # aborted while the message was on its way here
        failpoint("d.before_commit")
        self._receiving.discard(key)
        try:
            self._engine.commit_handover(key, decode_first_tokens(payload))
        except TandemError as error:
            self._on_transfer_failed(key, error.reason, error.retryable, str(error))
            return
        self._instruments.handed_over(stats)
        self._outbox.event(
            HandoverDone(
                request_id=key.request_id,
                attempt=key.attempt,
                num_bytes=stats.num_bytes,
                transport=stats.transport,
                handover_ms=1e3 * stats.total_s,
                exposed_ms=1e3 * stats.exposed_s,
            )
        )

    def _on_transfer_failed(self, key: AttemptKey, reason: str, retryable: bool, message: str = _FAILED) -> None:
        if reason == FINISHED and key in self._receiving:
            # P's first tokens were the last: no failure. They may come to the router after what is said here.
            self._receiving.discard(key)
            self._engine.abort(key)
            self._outbox.event(AttemptReleased(request_id=key.request_id, attempt=key.attempt))
            return
        self._instruments.handover_failed(reason)
        self._receiving.discard(key)
        self._engine.abort(key)
        self._outbox.event(
            AttemptFailed(
                request_id=key.request_id, attempt=key.attempt, reason=reason, message=message, retryable=retryable
            )
        )
