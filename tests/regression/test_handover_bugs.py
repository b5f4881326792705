"""Bugs of the field's KV hand-overs, re-made on ours. Each also against a build without the guard that holds it off."""

import pytest

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.ids import RequestId
from tandem.engine.kv.block_table import BlockState, BlockTable
from tandem.kvtransfer.frames import Chunk, Open, Seal
from tandem.kvtransfer.machine import receiver_events as rx
from tandem.kvtransfer.machine.lease import LeaseRenewed, LeaseScan, LeaseStarted, LeaseTable
from tandem.kvtransfer.machine.receiver import HandoverReceiver
from tests.regression.schedules import falls, stands
from tests.stateful.handover_machine import HandoverMachine, Stage
from tests.stateful.handover_parts import Build, attempt_key, token_digest
from tests.stateful.test_block_table import FreeWhilePinned, LastUnpinForgotten
from tests.stateful.test_handover import NoDigest, NoEpoch, NoGeneration, NoSeal, NoSourceCheck
from tests.stateful.test_leases import ScanStopsEarly
from tests.unit.kvtransfer.machine_world import BLOCK_BYTES, KEY, TAG, grant_of

ONE = Build(pool_blocks=1)


def _to(machine: HandoverMachine, request: int, stage: Stage, *, makes_room: bool = False) -> AttemptKey:
    return machine._drive(request, 1, stage, repeats=False, makes_room=makes_room)


def test_like_vllm_21570_source_freed_on_a_timer_while_the_peer_still_reads() -> None:
    def schedule(machine: HandoverMachine) -> None:
        slow = _to(machine, 0, Stage.STREAMING)
        machine.world.wait(16.0)  # the lease ends, P frees
        other = _to(machine, 1, Stage.FILLED)
        assert other in machine.world.p.sending, "its block is another prompt's now"
        machine._send(slow, 9)  # the reader comes at last
        machine.deliver_all_of_one(0)

    left = stands(schedule, ONE)
    assert left.world.counts["stale_source"] >= 1
    assert left.world.counts["adopted"] == 0
    falls(schedule, Build(pool_blocks=1, source_table=NoSourceCheck), "another attempt's block was copied out")


def test_like_vllm_32255_abort_while_receiving_frees_blocks_under_the_writer() -> None:
    def schedule(machine: HandoverMachine) -> None:
        world = machine.world
        first = _to(machine, 0, Stage.ALL_SENT)
        chunk = next(held for held in world.net if isinstance(held.message, Chunk))
        world.arrive(chunk, slow=True)
        world.abort_d(first)
        world.abort_p(first)
        second = _to(machine, 1, Stage.GRANTED)
        assert world.build.target_table is not BlockTable or second not in world.d.receiving, (
            "the writer is still at it"
        )
        for copy in list(world.d.copies):
            world.finish_write(copy)
        world.reserve(second)
        assert second in world.d.receiving

    stands(schedule, ONE)
    falls(schedule, Build(pool_blocks=1, target_table=FreeWhilePinned), "written into another attempt's block")


def test_like_vllm_46283_an_abort_needs_no_word_of_the_peer_to_free_blocks() -> None:
    def schedule(machine: HandoverMachine) -> None:
        world = machine.world
        key = _to(machine, 0, Stage.ALL_SENT)
        chunk = next(held for held in world.net if isinstance(held.message, Chunk))
        world.arrive(chunk, slow=True)
        world.abort_d(key)
        world.crash_p()  # the peer never reports
        world.net.clear()
        for copy in list(world.d.copies):
            world.finish_write(copy)

    assert stands(schedule, ONE).world.d.table.num_free == 1
    falls(schedule, Build(pool_blocks=1, target_table=LastUnpinForgotten), "an unpin that can.t come|D holds blocks")


def test_like_sglang_24527_a_late_writer_overwrites_the_next_owner() -> None:
    def schedule(machine: HandoverMachine) -> None:
        world = machine.world
        first = _to(machine, 0, Stage.ALL_SENT)
        late = [held for held in world.net if isinstance(held.message, Chunk)]
        world.abort_d(first)
        world.abort_p(first)
        second = _to(machine, 0, Stage.ONE_SENT)
        assert second in world.d.receiving
        for held in late:
            world.arrive(held)

    assert stands(schedule, ONE).world.counts["stale_generation"] == 2
    falls(schedule, Build(pool_blocks=1, receiver=NoGeneration), "chunk of another attempt was accepted")


def test_like_a_zombie_sender_after_a_restart_of_the_receiver() -> None:
    """Generations begin anew with the process: only the epoch tells the two lives apart."""

    def schedule(machine: HandoverMachine) -> None:
        world = machine.world
        first = _to(machine, 0, Stage.ALL_SENT)
        late = [held for held in world.net if isinstance(held.message, Chunk)]
        world.crash_d()
        world.abort_p(first)
        _to(machine, 0, Stage.ONE_SENT)
        for held in late:
            world.arrive(held)

    assert stands(schedule, ONE).world.counts["stale_epoch"] == 2
    falls(schedule, Build(pool_blocks=1, receiver=NoEpoch), "chunk of another attempt was accepted")


def test_like_sglang_17259_first_token_of_another_request() -> None:
    """A reused slot of metadata gave one request the first token of another; here the seal binds it to the KV."""

    def schedule(machine: HandoverMachine) -> None:
        world = machine.world
        first = _to(machine, 0, Stage.ALL_SENT)
        foreign = next(held for held in world.net if isinstance(held.message, Seal))
        world.abort_d(first)
        world.abort_p(first)
        second = _to(machine, 0, Stage.ALL_LANDED)
        world.arrive(foreign)
        world.adopt(second)

    left = stands(schedule, ONE)
    assert left.world.counts["digest_mismatch"] == 1
    assert left.world.counts["adopted"] == 0
    falls(schedule, Build(pool_blocks=1, receiver=NoSeal), "foreign first tokens were adopted")


def test_like_sglang_39229_a_check_of_the_metadata_says_nothing_about_the_kv() -> None:
    def schedule(machine: HandoverMachine) -> None:
        key = _to(machine, 0, Stage.ALL_SENT)
        machine.spoil(0, 2)  # one bit of one payload; every name and number is right
        machine._deliver(key, Chunk, False)
        machine._deliver(key, Seal, False)
        machine.world.adopt(key)

    left = stands(schedule, ONE)
    assert left.world.counts["digest_mismatch"] == 1
    assert left.world.counts["adopted"] == 0
    falls(schedule, Build(pool_blocks=1, receiver=NoDigest), "torn or foreign KV was adopted")


def test_like_vllm_56089_two_pending_ends_of_one_block() -> None:
    """Released while two hand-over threads hold it: the first to let go does not free it, the second is no error."""
    table = BlockTable(1)
    key = AttemptKey(RequestId("r"), 0)
    (ref,) = table.allocate(key, 1, BlockState.FILLING)
    table.seal(key, [ref])
    assert table.pin(ref, key)
    assert table.pin(ref, key)
    table.release_all(key)
    assert not table.unpin(ref)
    assert table.num_free == 0
    assert not table.unpin(ref)
    assert table.num_free == 1
    table.check_integrity()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        pytest.param({"epoch": 6}, "stale_epoch", id="of-an-earlier-life"),
        pytest.param({"seq": 99}, "out_of_bounds", id="unknown"),
        pytest.param({"offset": 4}, "out_of_bounds", id="out-of-range-offset"),
        pytest.param({"length": 1 << 30}, "out_of_bounds", id="out-of-range-length"),
        pytest.param({"block_id": 1 << 31}, "not_granted", id="out-of-range-block"),
        pytest.param({"block_id": 11}, "not_granted", id="of-another-block"),
        pytest.param({"generation": 2}, "stale_generation", id="stale"),
    ],
)
def test_like_vllm_52234_bad_references_are_refused_by_name(change: dict[str, int], name: str) -> None:
    """There: HTTP 200 with garbage, and a counter of failures that stayed at 0."""
    machine = HandoverReceiver(
        grant=grant_of(2), block_bytes=BLOCK_BYTES, token_digest=token_digest(attempt_key(0, 0)), now_s=0.0
    )
    machine.on_event(0.0, rx.Opened(Open(TAG, 1, 7, KEY.attempt, 2, 4, KEY.request_id)))
    fields = {"epoch": 7, "seq": 0, "block_id": 10, "generation": 3, "offset": 0, "length": 4} | change
    chunk = Chunk(tag=TAG, digest=bytes(16), slot=None, **fields)
    actions = machine.on_event(0.0, rx.ChunkArrived(chunk))
    assert actions[0] == rx.Drop(name)
    assert not any(isinstance(action, rx.Write) for action in actions)


def test_like_vllm_52234_a_consumed_reference_is_not_good_again() -> None:
    def schedule(machine: HandoverMachine) -> None:
        key = machine._drive(0, 1, Stage.READY, repeats=True, makes_room=False)
        machine.world.adopt(key)
        for held in list(machine.world.net):
            machine.world.arrive(held)

    left = stands(schedule, ONE)
    assert left.world.counts["adopted"] == 1
    table, key = BlockTable(2), AttemptKey(RequestId("r"), 0)
    (ref,) = table.allocate(key, 1, BlockState.FILLING)
    table.seal(key, [ref])
    table.release_all(key)
    for bad in (ref, BlockRef(99, 1), BlockRef(-1, 1), BlockRef(ref.block_id, ref.generation + 1)):
        assert not table.pin(bad, key)


@pytest.mark.parametrize(("table_class", "num_freed"), [(LeaseTable, 2), (ScanStopsEarly, 0)])
def test_like_vllm_58222_a_renewed_lease_in_front_strands_those_behind_it(
    table_class: type[LeaseTable], num_freed: int
) -> None:
    table = table_class()
    for number in range(3):
        table.on_event(0.0, LeaseStarted(attempt_key(number, 0)))
    table.on_event(14.0, LeaseRenewed(attempt_key(0, 0)))
    assert len(table.on_event(15.0, LeaseScan())) == num_freed
