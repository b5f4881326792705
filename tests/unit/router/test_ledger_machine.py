"""The ledger under any order of events: one terminal action, both sides told, output exact.

The machine plays the workers of up to several attempts: each side produces its messages in its own order, the rules
deliver them in any interleaving, hold them back, repeat them, and lose workers.
"""

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tandem.core import reasons
from tandem.core.messages import (
    Abort,
    AttemptFailed,
    AttemptReleased,
    Granted,
    HandoverDone,
    PrefillDone,
    RequestEvent,
    ReserveDecode,
    StartPrefill,
)
from tandem.core.types import FinishReason, KvSource, Outcome, TokenDelta
from tandem.router.actions import Action, AttemptEnded, Ended, Requeue, SendCommand, WorkerKey
from tandem.router.attempt import Stage
from tandem.router.ledger import RequestLedger
from tandem.router.phases import PhaseClock
from tandem.router.recovery import RecoveryPolicy, RetryBudget
from tests.unit.router.builders import REQUEST, key, make_delta, make_task, text_of, token_of

MAX_TOKENS = 6
NUM_CHILDREN = 2
Message = RequestEvent | TokenDelta


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.num_workers = 0
        self.ledger = RequestLedger(
            make_task(n=NUM_CHILDREN, max_tokens=MAX_TOKENS),
            deadline_s=None,
            policy=RecoveryPolicy(max_retries=5, max_continuations=5),
            budget=RetryBudget(),
            clock=PhaseClock(arrived_s=0.0),
        )
        self.ledger.admitted()
        self.inboxes: dict[WorkerKey, list[Message]] = {}
        self.sent: list[tuple[WorkerKey, Message]] = []
        self.told_to_work: set[tuple[WorkerKey, int]] = set()
        self.let_go: set[tuple[WorkerKey, int]] = set()
        self.lost: set[WorkerKey] = set()
        self.forwarded: list[list[TokenDelta]] = [[] for _ in range(NUM_CHILDREN)]
        self.ends: list[Ended] = []

    # --- the world -------------------------------------------------------------------------------------------------

    def carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            assert not self.ends, "an action after the end"
            if isinstance(action, TokenDelta):
                self.forwarded[action.child].append(action)
            elif isinstance(action, SendCommand):
                self.command(action)
            elif isinstance(action, AttemptEnded):
                for worker in action.workers:
                    self.let_go.discard((worker, -1))
            elif isinstance(action, Ended):
                self.ends.append(action)
            elif isinstance(action, Requeue):
                assert action.task.attempt == self.ledger.task.attempt

    def command(self, action: SendCommand) -> None:
        match action.command:
            case StartPrefill(task=task, reuse_attempt=reuse_attempt):
                if reuse_attempt is not None:
                    assert (action.worker, reuse_attempt) not in self.let_go, "asked for what was given up"
                    self.let_go.add((action.worker, reuse_attempt))
                self.told_to_work.add((action.worker, task.attempt))
                self.inboxes[action.worker] = self.prefill_script(task.attempt)
            case ReserveDecode(task=task, source=source):
                self.told_to_work.add((action.worker, task.attempt))
                self.inboxes[action.worker] = self.decode_script(task.attempt, local=source is KvSource.LOCAL)
            case Abort(attempt=attempt):
                self.let_go.add((action.worker, attempt))

    def first_positions(self) -> list[int]:
        emitted = self.ledger.task.emitted
        return [len(emitted[child]) if emitted else 0 for child in range(NUM_CHILDREN)]

    def live_children(self) -> list[int]:
        return [child for child in range(NUM_CHILDREN) if child not in self.ledger.task.done_children]

    def prefill_script(self, attempt: int) -> list[Message]:
        done = PrefillDone(request_id=REQUEST, attempt=attempt, wait_ms=0.0, compute_ms=1.0, num_cached_tokens=0)
        starts = self.first_positions()
        first: list[Message] = [self.token(child, starts[child], attempt) for child in self.live_children()]
        return [done, *first, AttemptReleased(request_id=REQUEST, attempt=attempt)]

    def decode_script(self, attempt: int, *, local: bool) -> list[Message]:
        script: list[Message] = [Granted(request_id=REQUEST, attempt=attempt, grant=b"g")]
        if local:
            script += self.prefill_script(attempt)[:-1]
        else:
            script.append(
                HandoverDone(
                    request_id=REQUEST, attempt=attempt, num_bytes=1, transport="tcp", handover_ms=1.0, exposed_ms=0.0
                )
            )
        starts = self.first_positions()
        for position in range(MAX_TOKENS):
            script += [
                self.token(child, position, attempt) for child in self.live_children() if position > starts[child]
            ]
        return script

    @staticmethod
    def token(child: int, position: int, attempt: int) -> TokenDelta:
        finish = FinishReason.LENGTH if position + 1 == MAX_TOKENS else None
        return make_delta(position, child=child, attempt=attempt, finish=finish)

    def give(self, worker: WorkerKey, message: Message) -> None:
        self.now_s += 0.01
        if isinstance(message, TokenDelta):
            self.carry_out(self.ledger.on_delta(worker, message, self.now_s))
        else:
            if isinstance(message, AttemptReleased | AttemptFailed):
                self.let_go.add((worker, message.attempt))
            self.carry_out(self.ledger.on_event(worker, message, self.now_s))

    # --- rules -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.ledger.stage is Stage.ADMITTED)
    @rule(local=st.booleans(), reuse=st.booleans())
    def dispatch(self, local: bool, reuse: bool) -> None:
        self.num_workers += 2
        prefill = None if local else key(f"w{self.num_workers}")
        if reuse and self.ledger.held is not None:
            prefill = self.ledger.held.worker
        self.carry_out(
            self.ledger.dispatched(prefill=prefill, decode=key(f"w{self.num_workers + 1}"), now_s=self.now_s)
        )

    @rule(data=st.data(), count=st.integers(1, 8))
    def deliver(self, data: st.DataObject, count: int) -> None:
        """The usual thing: some worker's next messages arrive."""
        busy = sorted((w for w, box in self.inboxes.items() if box and w not in self.lost), key=lambda w: w.worker_id)
        if busy:
            worker = data.draw(st.sampled_from(busy))
            for message in self.inboxes[worker][:count]:
                self.inboxes[worker].pop(0)
                self.sent.append((worker, message))
                self.give(worker, message)

    @precondition(lambda self: bool(self.sent))
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        self.give(*data.draw(st.sampled_from(self.sent)))

    @precondition(lambda self: self.ledger.attempt is not None)
    @rule(data=st.data(), reason=st.sampled_from([reasons.ENGINE, reasons.KV_TIMEOUT, reasons.NO_BLOCKS]))
    def fail(self, data: st.DataObject, reason: str) -> None:
        assert self.ledger.attempt is not None
        worker = data.draw(st.sampled_from(self.ledger.attempt.workers))
        number = self.ledger.attempt.number
        self.give(worker, AttemptFailed(request_id=REQUEST, attempt=number, reason=reason, message="", retryable=True))

    @precondition(lambda self: self.ledger.attempt is not None and self.ledger.attempt.prefill is not None)
    @rule(reason=st.sampled_from([reasons.KV_PEER_LOST, reasons.KV_TIMEOUT]))
    def fail_to_hand_over(self, reason: str) -> None:
        """P says so, and holds what it has."""
        attempt = self.ledger.attempt
        assert attempt is not None
        assert attempt.prefill is not None
        failed = AttemptFailed(
            request_id=REQUEST, attempt=attempt.number, reason=reason, message="", retryable=True, held=True
        )
        self.carry_out(self.ledger.on_event(attempt.prefill, failed, self.now_s))

    @precondition(lambda self: self.ledger.held is not None)
    @rule()
    def end_of_lease(self) -> None:
        held = self.ledger.held
        assert held is not None
        self.give(held.worker, AttemptReleased(request_id=REQUEST, attempt=held.attempt))
        assert self.ledger.held is None

    @precondition(lambda self: self.ledger.held is not None)
    @rule()
    def lose_holder(self) -> None:
        held = self.ledger.held
        assert held is not None
        self.lost.add(held.worker)
        self.carry_out(self.ledger.on_worker_lost(held.worker, self.now_s))
        assert self.ledger.held is None

    @precondition(lambda self: self.ledger.attempt is not None)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        assert self.ledger.attempt is not None
        worker = data.draw(st.sampled_from(self.ledger.attempt.workers))
        self.lost.add(worker)
        self.carry_out(self.ledger.on_worker_lost(worker, self.now_s))

    @rule()
    def wait(self) -> None:
        self.now_s += 6.0
        self.carry_out(self.ledger.check_progress(self.now_s, gap_timeout_s=5.0))

    @precondition(lambda self: self.num_workers >= 4)
    @rule()
    def cancel(self) -> None:
        self.carry_out(self.ledger.cancelled(self.now_s))

    # --- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def one_end(self) -> None:
        assert len(self.ends) <= 1
        assert (self.ledger.stage is Stage.ENDED) == bool(self.ends)

    @invariant()
    def output_is_exact(self) -> None:
        for child, deltas in enumerate(self.forwarded):
            tokens = [token for delta in deltas for token in delta.token_ids]
            assert tokens == [token_of(child, position) for position in range(len(tokens))]
            assert "".join(d.text for d in deltas) == "".join(text_of(child, p) for p in range(len(tokens)))
        if self.ends and self.ends[0].outcome is Outcome.OK:
            assert all(sum(len(d.token_ids) for d in deltas) == MAX_TOKENS for deltas in self.forwarded)

    @invariant()
    def nobody_is_left_working_on_a_past_attempt(self) -> None:
        """Whoever was told to work on an attempt that is over has let go of it, was told to, or is lost."""
        current = self.ledger.attempt.number if self.ledger.attempt is not None else None
        for worker, attempt in self.told_to_work:
            held = self.ledger.held
            is_held = held is not None and (held.worker, held.attempt) == (worker, attempt)
            if attempt != current and worker not in self.lost and not is_held:
                assert (worker, attempt) in self.let_go


LedgerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase
