"""Role service of a decode worker (D). Runs on the engine thread; the receiver's threads reach it through the inbox."""

import math

import structlog

from tandem.core.blocks import AttemptKey
from tandem.core.clock import Clock, MonotonicClock
from tandem.core.errors import TandemError, Unavailable
from tandem.core.failpoints import failpoint
from tandem.core.ids import Tenant
from tandem.core.messages import (
    Abort,
    AttemptFailed,
    AttemptReleased,
    Command,
    Granted,
    HandoverDone,
    ReserveDecode,
)
from tandem.core.reasons import FINISHED, KV_PREFIX, WRONG_ROLE
from tandem.core.types import GenerationTask, KvSource, Role
from tandem.decode_worker.receiver_events import KvReceiver, ReceiverFactory, ReceiverRelay
from tandem.engine.engine import Engine
from tandem.engine.results import Reservation, StepResult
from tandem.kvtransfer.skipped import SkippedPrefix
from tandem.kvtransfer.stats import TransferStats
from tandem.worker_host.first_tokens import decode_first_tokens
from tandem.worker_host.inbox import Inbox
from tandem.worker_host.instruments import WorkerInstruments
from tandem.worker_host.outbox import Outbox
from tandem.worker_host.token_digest import digest_tokens

_log = structlog.get_logger(__name__)
_WHOLE_S = 60.0  # after P and D disagreed about cached blocks
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
        clock: Clock | None = None,
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._instruments = instruments
        self._clock = clock or MonotonicClock()
        self._receiving: dict[AttemptKey, Tenant] = {}
        self._whole_until_s = -math.inf
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
            raise Unavailable("this worker decodes; it does not prefill for others", reason=WRONG_ROLE)
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
        reservation = self._reserve_blocks(task)
        try:
            grant = self._receiver.expect(
                key,
                reservation.missing,
                digest_tokens(task),
                _NO_DEADLINE_S if task.deadline_left_s is None else task.deadline_left_s,
                self._skipped(reservation),
            )
        except TandemError:
            self._engine.abort(key)
            raise
        self._receiving[key] = task.tenant
        return grant.to_bytes()

    def _reserve_blocks(self, task: GenerationTask) -> Reservation:
        """Borrow what is cached here, unless P and D may mean different blocks by one name; then all must come."""
        cache = self._engine.cache
        if cache is None or not cache.is_shared_secret or self._clock.now_s() < self._whole_until_s:
            return Reservation(refs=self._engine.reserve_decode(task), num_cached=0)
        return self._engine.reserve_delta(task)

    def _skipped(self, reservation: Reservation) -> SkippedPrefix | None:
        """Name what is left out by the last block that the cache lent: by what it is, not by what was asked for."""
        cache, num_blocks = self._engine.cache, reservation.num_cached
        if cache is None or not num_blocks:
            return None
        return SkippedPrefix(num_blocks=num_blocks, last_key=cache.name_of(reservation.refs[num_blocks - 1]))

    def _distrust_cache(self, tenant: Tenant) -> None:
        """P knows the blocks that were to be skipped by other names: next time send all, and forget what is cached."""
        _log.error("cached blocks are not the prompt's", remedy="give all workers the same prefix cache secret")
        self._whole_until_s = self._clock.now_s() + _WHOLE_S
        if self._engine.cache is not None:
            self._engine.cache.flush(tenant)

    def _stop_receiving(self, key: AttemptKey, reason: str) -> None:
        if self._receiving.pop(key, None) is not None:
            self._receiver.abort(key, reason)

    def _on_ready(self, key: AttemptKey, payload: bytes, stats: TransferStats) -> None:
        if key not in self._receiving:
            return  # aborted while the message was on its way here
        failpoint("d.before_commit")
        del self._receiving[key]
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
                num_skipped_blocks=stats.num_skipped_blocks,
                num_skipped_bytes=stats.num_skipped_bytes,
            )
        )

    def _on_transfer_failed(self, key: AttemptKey, reason: str, retryable: bool, message: str = _FAILED) -> None:
        if reason == FINISHED and key in self._receiving:
            # P's first tokens were the last: no failure. They may come to the router after what is said here.
            del self._receiving[key]
            self._engine.abort(key)
            self._outbox.event(AttemptReleased(request_id=key.request_id, attempt=key.attempt))
            return
        self._instruments.handover_failed(reason)
        tenant = self._receiving.pop(key, None)
        self._engine.abort(key)
        if reason == KV_PREFIX and tenant is not None:
            self._distrust_cache(tenant)
        self._outbox.event(
            AttemptFailed(
                request_id=key.request_id, attempt=key.attempt, reason=reason, message=message, retryable=retryable
            )
        )
