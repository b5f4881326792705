"""Role service of a prefill worker (P). Runs on the engine thread; the sender's threads reach it through the inbox."""

from tandem.core.blocks import AttemptKey
from tandem.core.errors import TandemError, Unavailable
from tandem.core.failpoints import failpoint
from tandem.core.messages import Abort, AttemptFailed, AttemptReleased, Command, ForwardGrant, PrefillDone, StartPrefill
from tandem.core.reasons import (
    DRAINING,
    FINISHED,
    KV_NOT_HELD,
    KV_PEER_LOST,
    KV_PREFIX,
    KV_TIMEOUT,
    NO_BLOCKS,
    NO_SLOT,
    WORKER_LOST,
    WRONG_ROLE,
)
from tandem.core.types import Role
from tandem.engine.engine import Engine
from tandem.engine.results import FilledBlocks, SealedPrefill, StepResult
from tandem.kvtransfer.grant import KvGrant
from tandem.kvtransfer.timing import LEASE_RENEWAL_S
from tandem.prefill_worker.prompts import Prompt
from tandem.prefill_worker.sender_events import KvSender, SenderFactory, SenderRelay
from tandem.worker_host.first_tokens import encode_first_tokens
from tandem.worker_host.inbox import Inbox
from tandem.worker_host.instruments import WorkerInstruments
from tandem.worker_host.outbox import Outbox
from tandem.worker_host.token_digest import digest_tokens, handed_over_tokens

_FAILED = "the KV hand-over failed"
_HOLDABLE = frozenset(
    {KV_PEER_LOST, KV_PREFIX, KV_TIMEOUT, NO_BLOCKS, NO_SLOT, DRAINING, WORKER_LOST}
)  # D's or the way's fault
_HOLD_S = LEASE_RENEWAL_S


class PrefillRole:
    """Computes prompts in chunks and streams finished blocks while later chunks compute.

    Guarantees: the first token goes to the router as soon as it is sampled, whatever the hand-over does. Blocks are
    held until the decode worker commits, the router aborts, or the sender's lease ends; right after, they are free.
    When only the hand-over fails, what was computed is held for a renewed lease (``_HOLD_S``), in which the router may
    ask for it again for another decode worker: then it changes its owner and is handed over without being computed.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        outbox: Outbox,
        inbox: Inbox,
        instruments: WorkerInstruments,
        make_sender: SenderFactory,
    ) -> None:
        self._engine = engine
        engine.on_cached = self._offer
        self._outbox = outbox
        self._instruments = instruments
        self._prompts: dict[AttemptKey, Prompt] = {}
        relay = SenderRelay(inbox=inbox, on_committed=self._on_committed, on_failed=self._on_transfer_failed)
        self._sender: KvSender = make_sender(relay)

    @property
    def role(self) -> Role:
        """PREFILL."""
        return Role.PREFILL

    @property
    def num_handovers(self) -> int:
        """Hand-overs that are not over on this side."""
        return self._sender.num_open

    def handle(self, command: Command) -> None:
        """Begin a prefill, or take the decode worker's grant for one."""
        if isinstance(command, StartPrefill):
            key = AttemptKey(request_id=command.task.request_id, attempt=command.task.attempt)
            failpoint("p.before_prefill")
            if command.reuse_attempt is not None:
                self._hand_over_again(AttemptKey(request_id=key.request_id, attempt=command.reuse_attempt), command)
                return
            self._engine.start_prefill(command.task)
            self._prompts[key] = Prompt(task=command.task, token_digest=digest_tokens(command.task))
        elif isinstance(command, ForwardGrant):
            self._take_grant(command)
        else:
            raise Unavailable("this worker prefills; it does not decode", reason=WRONG_ROLE)

    def abort(self, command: Abort) -> None:
        """Stop a prefill and its hand-over; blocks are free at once (or when a chunk being copied is out)."""
        key = AttemptKey(request_id=command.request_id, attempt=command.attempt)
        if command.child is not None:
            self._engine.abort(key, command.child)
            return
        self._sender.abort(key, command.reason)
        self._engine.abort(key)
        self._ended(key)

    def after_step(self, result: StepResult) -> None:
        """Offer finished blocks to the sender, seal finished prompts, pass tokens and events on."""
        if result.stats.num_prefill_tokens:
            failpoint("p.chunk")
        for filled in result.filled:
            self._offer(filled)
        for delta in result.tokens:
            self._prompts[AttemptKey(request_id=delta.request_id, attempt=delta.attempt)].first_tokens.append(delta)
            self._outbox.token(delta)
        for event in result.events:
            self._outbox.event(event)
            key = AttemptKey(request_id=event.request_id, attempt=event.attempt)
            if isinstance(event, PrefillDone):
                self._prompts[key].done = event
            if isinstance(event, AttemptFailed) and event.child is None:
                self._sender.abort(key, event.reason)
                self._prompts.pop(key, None)
        # Last: sealing may end an attempt, and nothing about it may be said after its end.
        for sealed in result.sealed:
            self._seal(sealed)

    def close(self) -> None:
        """Stop the sender's threads and close its connections."""
        self._sender.close()

    def _offer(self, filled: FilledBlocks) -> None:
        """Let blocks be sent: those just computed after their step, those cached before the first one."""
        self._prompts[filled.key].filled.extend(filled.refs)
        for ordinal, ref in enumerate(filled.refs, start=filled.first_ordinal):
            self._sender.offer(filled.key, ordinal, ref)

    def _take_grant(self, command: ForwardGrant) -> None:
        key = AttemptKey(request_id=command.request_id, attempt=command.attempt)
        if key not in self._prompts:
            return  # aborted or finished meanwhile: D was told by whoever ended it
        try:
            grant = KvGrant.from_bytes(command.grant)
            self._sender.grant(grant, self._prefix_key(key, grant.first_ordinal))
        except TandemError as error:
            self._sender.abort(key, error.reason)
            self._on_transfer_failed(key, error.reason, error.retryable, str(error))

    def _prefix_key(self, key: AttemptKey, num_blocks: int) -> bytes:
        """Name block ``num_blocks - 1`` of this worker's own copy of the prompt; empty: there is no such block."""
        cache, task = self._engine.cache, self._prompts[key].task
        if cache is None or not num_blocks:
            return b""
        return cache.name_at(task.tenant, handed_over_tokens(task), num_blocks) or b""

    def _seal(self, sealed: SealedPrefill) -> None:
        if all(token.finished for token in sealed.first_tokens):
            # Nothing is left to decode, so nothing is handed over.
            self._sender.abort(sealed.key, FINISHED)
            self._engine.release(sealed.key)
            self._ended(sealed.key)
            return
        failpoint("p.after_seal")
        prompt = self._prompts[sealed.key]
        prompt.sealed = sealed
        payload = encode_first_tokens(sealed.first_tokens)
        self._sender.seal(
            sealed.key,
            num_blocks=sealed.num_blocks,
            token_digest=prompt.token_digest,
            payload=payload,
        )

    def _hand_over_again(self, held: AttemptKey, command: StartPrefill) -> None:
        """Give what is held of an earlier attempt to this one. Raises (KV_NOT_HELD) when there is nothing to give."""
        task = command.task
        prompt = self._prompts.get(held)
        if prompt is None or not prompt.is_same_work(task) or not self._engine.rekey(held, task):
            raise Unavailable(f"nothing of attempt {held.attempt} is held here any more", reason=KV_NOT_HELD)
        key = AttemptKey(request_id=task.request_id, attempt=task.attempt)
        self._sender.abort(held, KV_NOT_HELD)  # in case the first hand-over has not ended by itself
        self._ended(held)
        prompt.rekey(task)
        self._prompts[key] = prompt
        for ordinal, ref in enumerate(prompt.filled):
            self._sender.offer(key, ordinal, ref)
        if prompt.done is not None:
            self._outbox.event(prompt.done)
        for delta in prompt.first_tokens:
            self._outbox.token(delta)
        if prompt.sealed is not None:
            self._seal(prompt.sealed)

    def _on_committed(self, key: AttemptKey) -> None:
        if key in self._prompts:  # else it has become another attempt's meanwhile
            self._engine.release(key)
            self._ended(key)

    def _on_transfer_failed(self, key: AttemptKey, reason: str, retryable: bool, message: str = _FAILED) -> None:
        self._instruments.handover_failed(reason)
        if key not in self._prompts:
            return
        held = reason in _HOLDABLE and self._engine.hold(key, _HOLD_S)
        if not held:
            self._engine.abort(key)
            del self._prompts[key]
        self._outbox.event(
            AttemptFailed(
                request_id=key.request_id,
                attempt=key.attempt,
                reason=reason,
                message=message,
                retryable=retryable,
                held=held,
            )
        )

    def _ended(self, key: AttemptKey) -> None:
        self._prompts.pop(key, None)
        self._outbox.event(AttemptReleased(request_id=key.request_id, attempt=key.attempt))
