"""The hand-over under the adversary, in pools of 1 and 2 blocks; each guard taken out is found by the same rules."""

from dataclasses import replace
from typing import Any

import pytest

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.engine.kv.block_table import BlockState, BlockTable, IntegrityError
from tandem.kvtransfer.chunks import ChunkPlace
from tandem.kvtransfer.frames import Chunk
from tandem.kvtransfer.machine import receiver_events as rx
from tandem.kvtransfer.machine import sender_events as tx
from tandem.kvtransfer.machine.lease import LeaseEvent, LeaseExpired, LeaseScan, LeaseTable
from tandem.kvtransfer.machine.receiver import HandoverReceiver, ReceiverState
from tandem.kvtransfer.machine.sender import HandoverSender, SenderState
from tests.stateful.handover_machine import HandoverMachine, machine
from tests.stateful.handover_parts import Build
from tests.stateful.running import Violation, hunt, walk
from tests.stateful.test_block_table import FreeWhilePinned


@pytest.mark.parametrize("pool_blocks", [1, 2])
@pytest.mark.parametrize("weak_tags", [False, True], ids=["tags", "weak-tags"])
def test_no_wrong_byte_and_no_leak(pool_blocks: int, weak_tags: bool) -> None:
    checked = machine(Build(pool_blocks=pool_blocks, weak_tags=weak_tags))
    walk(checked, num_examples=120)
    assert checked.totals["adopted"] > 60, f"the walks prove little: {checked.totals}"
    assert checked.totals["committed"] > 30


def test_the_adversary_reaches_every_guard() -> None:
    """A guard that nothing ever runs into would be proven by nothing."""
    reached = set[str]()
    for pool_blocks in (1, 2):
        checked = machine(Build(pool_blocks=pool_blocks))
        walk(checked, num_examples=200)
        reached |= set(checked.totals)
    guards = {"stale_generation", "stale_epoch", "stale_source", "duplicate_chunk", "digest_mismatch", "not_granted"}
    assert guards | {"lease_ended"} <= reached


class NoGeneration(HandoverReceiver):
    """Mutant of R2: the generation of a block does not count."""

    def _refusal(self, chunk: Chunk, place: ChunkPlace | None) -> str | None:
        refusal = super()._refusal(chunk, place)
        return None if refusal == "stale_generation" else refusal


class NoEpoch(HandoverReceiver):
    """Mutant of R2: an earlier life of this worker is as good as this one."""

    def _refusal(self, chunk: Chunk, place: ChunkPlace | None) -> str | None:
        return super()._refusal(replace(chunk, epoch=self._grant.dst_epoch), place)


class NamedBlock(HandoverReceiver):
    """Mutant of R2: a chunk is written where it says, not where the grant says."""

    def _on_chunk(self, now_s: float, event: rx.ChunkArrived) -> list[rx.ReceiverAction]:
        actions = super()._on_chunk(now_s, event)
        if isinstance(actions[0], rx.Write):
            return actions
        chunk, place = event.chunk, self._plan.place(event.chunk.seq)
        if actions[0] == rx.Drop("not_granted") and place is not None:
            self.state = ReceiverState.RECEIVING
            self._in_flight.add(chunk.seq)
            return [rx.Write(BlockRef(chunk.block_id, chunk.generation), place.offset, place.length)]
        return actions


class NoSourceCheck(BlockTable):
    """Mutant of R3: the sender copies out of a block without asking whose it is now."""

    def _pin(self, ref: BlockRef, key: AttemptKey, state: BlockState) -> bool:
        return True

    def _unpin(self, ref: BlockRef, state: BlockState) -> bool:
        return True


class NoCount(HandoverReceiver):
    """Mutant of R4: a seal is believed without counting, as a completion flag would be."""

    def _verify(self, now_s: float) -> list[rx.ReceiverAction]:
        if self._seal is None or self.state is not ReceiverState.RECEIVING:
            return []
        self.state = ReceiverState.VERIFIED
        return [rx.Ready(self._seal.payload, 0.0)]


class NoDigest(HandoverReceiver):
    """Mutant of R4: what landed is counted, but neither hashed nor sealed."""

    def _on_landed(self, now_s: float, event: rx.ChunkLanded) -> list[rx.ReceiverAction]:
        return super()._on_landed(now_s, replace(event, digest=event.chunk.digest))

    def _verify(self, now_s: float) -> list[rx.ReceiverAction]:
        if self._seal is None or not self._is_complete():
            return []
        self.state = ReceiverState.VERIFIED
        return [rx.Ready(self._seal.payload, 0.0)]


class NoSeal(HandoverReceiver):
    """Mutant of R4: chunks are hashed one by one, and nobody checks the whole."""

    def _verify(self, now_s: float) -> list[rx.ReceiverAction]:
        return NoDigest._verify(self, now_s)  # type: ignore[arg-type]


class CommitAgain(HandoverSender):
    """Mutant of R6: a verdict that comes twice counts twice."""

    def _on_commit(self, now_s: float, event: tx.CommitGot) -> list[tx.SenderAction]:
        was_sealed = self.state is SenderState.SEALED
        actions = super()._on_commit(now_s, event)
        if was_sealed:
            self.state = SenderState.SEALED
        return actions


class AbortAgain(HandoverReceiver):
    """Mutant of R6: an abort of what is over fails it again."""

    def on_event(self, now_s: float, event: rx.ReceiverEvent) -> list[rx.ReceiverAction]:
        if self.is_done and isinstance(event, rx.Tick):
            return [rx.Failed("AGAIN", True)]
        return super().on_event(now_s, event)


class LeaseNeverEnds(LeaseTable):
    """Mutant of R5: nobody bounds how long P waits."""

    def on_event(self, now_s: float, event: LeaseEvent) -> list[LeaseExpired]:
        return [] if isinstance(event, LeaseScan) else super().on_event(now_s, event)


class PatientSender(HandoverSender):
    """Mutant: P has no time-out of its own."""

    def _on_tick(self, now_s: float, event: tx.Tick) -> list[tx.SenderAction]:
        return []


class PatientReceiver(HandoverReceiver):
    """Mutant (SGLang's 300 s, only longer): D waits for a sender that is gone."""

    def _on_tick(self, now_s: float, event: rx.Tick) -> list[rx.ReceiverAction]:
        return self._repeat_commit(now_s) if self.state is ReceiverState.COMMITTED else []


class TornTags(HandoverMachine):
    """Mutant of R7: the name of a hand-over leaves the attempt out, and a verdict has no other name."""

    build = type("TornBuild", (Build,), {"check_commits": True})()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param({"receiver": NoGeneration}, "chunk of another attempt was accepted", id="no-generation"),
        pytest.param({"receiver": NoEpoch}, "chunk of another attempt was accepted", id="no-epoch"),
        pytest.param({"receiver": NamedBlock, "weak_tags": False}, "torn or foreign KV was adopted", id="not-granted"),
        pytest.param({"source_table": NoSourceCheck}, "another attempt's block was copied", id="no-source-check"),
        pytest.param({"source_table": FreeWhilePinned}, "block was copied|has . pins", id="source-freed-under-a-pin"),
        pytest.param({"target_table": FreeWhilePinned}, "another attempt's block|has . pins", id="freed-under-a-write"),
        pytest.param({"receiver": NoCount}, "torn or foreign KV was adopted", id="no-count"),
        pytest.param({"receiver": NoDigest}, "torn or foreign KV|foreign first tokens", id="no-digest"),
        pytest.param({"receiver": NoSeal}, "foreign first tokens were adopted", id="no-seal"),
        pytest.param({"sender": CommitAgain, "weak_tags": False}, "P heard of an end twice", id="commit-again"),
        pytest.param({"receiver": AbortAgain}, "D heard of an end twice", id="abort-again"),
        pytest.param(
            {"leases": LeaseNeverEnds, "sender": PatientSender}, "P holds blocks for ever", id="nobody-bounds-p"
        ),
        pytest.param({"receiver": PatientReceiver}, "D holds blocks for ever", id="nobody-bounds-d"),
    ],
)
def test_mutant_is_found(change: dict[str, Any], problem: str) -> None:
    hunt(machine(Build(**change)), problem, errors=(Violation, IntegrityError))


def test_a_verdict_without_a_name_is_found() -> None:
    hunt(TornTags, "committed of what nobody verified")


@pytest.mark.parametrize("change", [{"leases": LeaseNeverEnds}, {"sender": PatientSender}], ids=["timer", "lease"])
def test_either_bound_on_p_is_enough(change: dict[str, Any]) -> None:
    walk(machine(Build(**change)), num_examples=40)
