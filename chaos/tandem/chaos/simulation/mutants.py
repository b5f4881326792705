"""Guards taken out of the product, one at a time, to show that the simulation would notice.

Most rules are guarded twice (a chunk of an old block is stopped by its tag, its generation and the seal). A mutant
names the outer guards it peels off first; the same peeled product *with* the inner guard must pass (``control``).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from blake3 import blake3

from tandem.chaos.simulation.plan import ClusterPlan
from tandem.core.messages import Abort
from tandem.core.types import Role
from tandem.engine.engine import Engine
from tandem.engine.kv.block_table import BlockState, BlockTable
from tandem.engine.kv.memory import KvMemory
from tandem.engine.sequence import Sequence as EngineSequence
from tandem.kvtransfer import receiver as receiver_service
from tandem.kvtransfer import sender as sender_service
from tandem.kvtransfer.machine import receiver_events as rx
from tandem.kvtransfer.machine.receiver import HandoverReceiver, ReceiverState
from tandem.kvtransfer.receiver import KvReceiverService
from tandem.prefill_worker.role import PrefillRole
from tandem.router.attempt import Attempt
from tandem.router.dispatcher import Dispatcher
from tandem.router.ledger import RequestLedger
from tandem.router.positions import ChildStream
from tandem.worker_host.engine_loop import EngineLoop
from tandem.worker_host.kv_memory import EngineBlockMemory

Change = tuple[object, str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One guard less."""

    name: str
    rule: str
    changes: Callable[[], Sequence[Change]]
    peeled: Callable[[], Sequence[Change]] | None = None  # outer guards of the same rule
    focus: tuple[str, ...] = ()  # faults that matter to it
    alter: Callable[[ClusterPlan], ClusterPlan] = lambda plan: plan
    most_seeds: int = 100


def _crowded(plan: ClusterPlan) -> ClusterPlan:
    """Small pools, impatient callers, and threads that get in each other's way whenever they can."""
    workers = tuple(
        replace(worker, num_blocks=min(worker.num_blocks, 24), preempt=1.0, chunk_s=1e-3) for worker in plan.workers
    )
    workload = replace(plan.workload, cancel_share=0.7, per_s=4.0, burst=4, most_prompt_blocks=4, smallest_pool=8)
    return replace(plan, workers=workers, workload=workload)


@contextmanager
def without_guard(mutant: Mutant) -> Iterator[None]:
    """Take the guard (and what is peeled off before it) out of the product."""
    with _changed([*(mutant.peeled() if mutant.peeled else ()), *mutant.changes()]):
        yield


@contextmanager
def only_peeled(mutant: Mutant) -> Iterator[None]:
    """Take out the outer guards alone."""
    with _changed(mutant.peeled() if mutant.peeled else ()):
        yield


@contextmanager
def _changed(changes: Sequence[Change]) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(patch.object(owner, name, value))
        yield


# --- identity of hand-overs ------------------------------------------------------------------------------------------


def _weak_identity() -> Sequence[Change]:
    """A hand-over is named by its first block alone: nothing tells two uses of that block, or two lives, apart."""
    expect = KvReceiverService.expect

    def weak_expect(self: KvReceiverService, key: Any, refs: Any, *rest: Any, **more: Any) -> Any:
        with patch.object(self, "_draw_secret", lambda: bytes([refs[0].block_id % 256]) * 16):
            return expect(self, key, refs, *rest, **more)

    def weak_tag(secret: bytes, key: Any, *, dst_epoch: int) -> bytes:
        return bytes(blake3(secret).digest()[:16])

    return [
        (KvReceiverService, "expect", weak_expect),
        (receiver_service, "transfer_tag", weak_tag),
        (sender_service, "transfer_tag", weak_tag),
    ]


def _trusting(field: str) -> Callable[[], Sequence[Change]]:
    """The receiver takes ``field`` of a chunk for right."""

    def changes() -> Sequence[Change]:
        refusal = HandoverReceiver._refusal

        def trust(self: Any, chunk: Any, place: Any) -> Any:
            right = self._grant.dst_epoch
            if field == "generation":
                right = chunk.generation if place is None else self._grant.blocks[place.ordinal].generation
            return refusal(self, replace(chunk, **{field: right}), place)

        return [(HandoverReceiver, "_refusal", trust)]

    return changes


def _seal_is_enough() -> Sequence[Change]:
    def verify(self: Any, now_s: float) -> list[Any]:
        if self._seal is None:
            return []
        self.state = ReceiverState.VERIFIED
        return [rx.Ready(self._seal.payload, 0.0)]

    return [(HandoverReceiver, "_verify", verify)]


# --- block memory ----------------------------------------------------------------------------------------------------


def _silent_abort() -> Sequence[Change]:
    """The prefill role frees blocks without a word to the sender."""
    abort = PrefillRole.abort

    def silent(self: Any, command: Abort) -> None:
        with patch.object(self._sender, "abort", lambda key, reason: None):
            abort(self, command)

    return [(PrefillRole, "abort", silent)]


def _lenient_unpin() -> Callable[..., bool]:
    """Let go as before, also of a block that has become another's: the mutant must not be found by this complaint."""
    unpin = BlockTable._unpin

    def let_go(self: Any, ref: Any, wanted: BlockState) -> bool:
        generation = self._generation[ref.block_id]
        self._generation[ref.block_id] = ref.generation
        try:
            return unpin(self, ref, wanted)
        finally:
            if self._generation[ref.block_id] == ref.generation:
                self._generation[ref.block_id] = generation

    return let_go


def _pins_anything(state: BlockState) -> Callable[[], Sequence[Change]]:
    def changes() -> Sequence[Change]:
        pin = BlockTable._pin

        def trust(self: Any, ref: Any, key: Any, wanted: BlockState) -> bool:
            if wanted is not state:
                return pin(self, ref, key, wanted)
            block_id = ref.block_id
            held = (self._generation[block_id], self._owner[block_id], self._state[block_id])
            self._generation[block_id], self._owner[block_id], self._state[block_id] = ref.generation, key, state
            try:
                return pin(self, ref, key, wanted)
            finally:
                self._generation[block_id], self._owner[block_id], self._state[block_id] = held

        return [(BlockTable, "_pin", trust), (BlockTable, "_unpin", _lenient_unpin())]

    return changes


def _shared_partial_block() -> Sequence[Change]:
    def fork(self: KvMemory, key: Any, refs: Sequence[Any], num_tokens: int) -> tuple[Any, ...]:
        used = refs[: self.blocks_for(num_tokens)]
        self.table.share(key, used)
        return tuple(used)

    return [(KvMemory, "fork", fork)]


def _preempted_keeps_count() -> Sequence[Change]:
    drop = EngineSequence.drop_blocks

    def keep(self: Any) -> Any:
        num_computed = self.num_computed
        refs = drop(self)
        self.num_computed = max(num_computed - 1, 0)
        return refs

    return [(EngineSequence, "drop_blocks", keep)]


# --- router and host -------------------------------------------------------------------------------------------------


def _any_attempt() -> Sequence[Change]:
    on_event, on_delta = RequestLedger.on_event, RequestLedger.on_delta

    def renamed(self: Any, message: Any) -> Any:
        return message if self.attempt is None else replace(message, attempt=self.attempt.number)

    return [
        (RequestLedger, "on_event", lambda self, who, e, now_s: on_event(self, who, renamed(self, e), now_s)),
        (RequestLedger, "on_delta", lambda self, who, d, now_s: on_delta(self, who, renamed(self, d), now_s)),
        (Attempt, "names", lambda self, worker: True),
    ]


def _abort_tells_only(role: Role) -> Callable[[], Sequence[Change]]:
    def changes() -> Sequence[Change]:
        make = Dispatcher.__init__

        def init(self: Any, *args: Any, **more: Any) -> None:
            send = more["send"]

            def forgetful(worker: Any, command: Any) -> None:
                if not isinstance(command, Abort) or worker.worker_id.startswith(role.value):
                    send(worker, command)

            make(self, *args, **{**more, "send": forgetful})

        return [(Dispatcher, "__init__", init)]

    return changes


def _ahead_is_fine() -> Sequence[Change]:
    accept = ChildStream.accept

    def hasty(self: Any, delta: Any, now_s: float) -> Any:
        return (delta,) if delta.position > len(self.tokens) and not self.finished else accept(self, delta, now_s)

    return [(ChildStream, "accept", hasty)]


def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing."""


def _no_loss() -> Sequence[Change]:
    return [(RequestLedger, "on_worker_lost", lambda self, worker, now_s: ())]


MUTANTS = (
    Mutant(
        name="receiver_generation",
        rule="R2",
        peeled=_weak_identity,
        changes=_trusting("generation"),
        focus=("kv_hold", "kv_replay"),
    ),
    Mutant(
        name="receiver_epoch",
        rule="R2",
        peeled=_weak_identity,
        changes=_trusting("epoch"),
        focus=("crash_decode", "kv_replay"),
    ),
    Mutant(name="commit_before_verify", rule="R4", changes=_seal_is_enough, focus=("kv_reorder", "kv_drop")),
    Mutant(name="source_check", rule="R3", peeled=_silent_abort, changes=_pins_anything(BlockState.SEALED)),
    Mutant(name="target_check", rule="R2", changes=_pins_anything(BlockState.RECEIVING), alter=_crowded),
    Mutant(name="fork_shares_partial", rule="I1", changes=_shared_partial_block),
    Mutant(name="preemption_keeps_kv", rule="I1", changes=_preempted_keeps_count),
    Mutant(name="ledger_attempt", rule="R6", changes=_any_attempt, focus=("kv_drop", "slow_attach", "kv_link_cut")),
    Mutant(name="abort_decode_only", rule="both sides", changes=_abort_tells_only(Role.DECODE)),
    Mutant(name="abort_prefill_only", rule="both sides", changes=_abort_tells_only(Role.PREFILL)),
    Mutant(name="position_order", rule="I5", changes=_ahead_is_fine),
    Mutant(
        name="session_end_aborts",
        rule="row 44",
        changes=lambda: [(EngineLoop, "close_session", _nothing)],
    ),
    Mutant(name="lost_worker", rule="row 6", changes=_no_loss),
    Mutant(
        name="engine_abort",
        rule="R5",
        changes=lambda: [(Engine, "abort", lambda self, key, child=None: False)],
    ),
    Mutant(
        name="unchecked_memory",
        rule="R2",
        changes=lambda: [
            (EngineBlockMemory, "begin_write", lambda self, ref, key: self._views[ref.block_id]),
            (EngineBlockMemory, "end_write", _nothing),
        ],
    ),
)
