"""The parts that provoke a race do what they say, and nothing unless they are told to."""

import json
import threading
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from tandem.chaos.tagged.model import TaggedShape
from tandem.chaos.tagged.race import RaceSettings, RacingMemory, TrustingReceiver, read_refusals
from tandem.chaos.tagged.settings import TaggedCost, TaggedWorkerConfig
from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.ids import RequestId
from tandem.engine.kv.block_table import BlockState, BlockTable
from tandem.engine.kv.pool import KvPool
from tandem.kvtransfer.frames import Chunk, Open
from tandem.kvtransfer.machine import receiver_events as rx
from tandem.kvtransfer.machine.receiver import HandoverReceiver
from tests.unit.chaos.tagged_engines import pool_of
from tests.unit.kvtransfer.machine_world import BLOCK_BYTES, CHUNK_BYTES, TAG, grant_of
from tests.unit.kvtransfer.machine_world import KEY as KV_KEY

KEY, OTHER = AttemptKey(RequestId("a"), 0), AttemptKey(RequestId("b"), 0)


class _Blocks:
    """One block of a pool of one, sealed or receiving, and then somebody else's."""

    def __init__(self, settings: RaceSettings, state: BlockState) -> None:
        self.pool: KvPool = pool_of(TaggedShape(), num_blocks=1, block_size=4)
        self.table = BlockTable(1)
        self.memory = RacingMemory(self.table, self.pool, settings=settings)
        first = BlockState.FILLING if state is BlockState.SEALED else state
        (self.ref,) = self.table.allocate(KEY, 1, first)
        if state is BlockState.SEALED:
            self.table.seal(KEY, [self.ref])
        self._first = first

    def use_again(self) -> BlockRef:
        """Free it and give it to another attempt."""
        self.table.release_all(KEY)
        (ref,) = self.table.allocate(OTHER, 1, self._first)
        return ref


@pytest.mark.parametrize("settings", [RaceSettings(), RaceSettings(unguarded="lease")])
def test_with_its_guards_a_block_that_is_used_again_is_not_had(settings: RaceSettings) -> None:
    source = _Blocks(settings, BlockState.SEALED)
    assert source.memory.pin(source.ref, KEY) is not None
    source.memory.unpin(source.ref, KEY)
    source.use_again()
    assert source.memory.pin(source.ref, KEY) is None

    target = _Blocks(settings, BlockState.RECEIVING)
    assert target.memory.begin_write(target.ref, KEY) is not None
    target.memory.end_write(target.ref, KEY)
    target.use_again()
    assert target.memory.begin_write(target.ref, KEY) is None


def test_without_the_source_guard_anybodys_block_is_copied_out() -> None:
    source = _Blocks(RaceSettings(unguarded="source"), BlockState.SEALED)
    source.use_again()
    assert source.memory.pin(source.ref, KEY) is not None
    source.memory.unpin(source.ref, KEY)
    source.table.check_integrity()
    target = _Blocks(RaceSettings(unguarded="source"), BlockState.RECEIVING)
    target.use_again()
    assert target.memory.begin_write(target.ref, KEY) is None, "the other guard stands"


def test_without_the_destination_guard_anybodys_block_is_written_to() -> None:
    target = _Blocks(RaceSettings(unguarded="destination"), BlockState.RECEIVING)
    target.use_again()
    view = target.memory.begin_write(target.ref, KEY)
    assert view is not None
    view[0] = 1
    target.memory.end_write(target.ref, KEY)
    target.table.check_integrity()
    assert bool(target.pool.data.any())


@pytest.mark.parametrize(("make", "is_noticed"), [(HandoverReceiver, True), (TrustingReceiver, False)])
def test_without_the_digest_guard_bytes_that_changed_on_their_way_are_taken(
    make: type[HandoverReceiver], is_noticed: bool
) -> None:
    receiver = make(grant=grant_of(1), block_bytes=BLOCK_BYTES, token_digest=b"tok", now_s=0.0)
    receiver.on_event(0.0, rx.Opened(Open(TAG, 1, 7, 0, 1, CHUNK_BYTES, KV_KEY.request_id)))
    chunk = Chunk(TAG, 7, 0, 10, 3, 0, CHUNK_BYTES, b"as it was sent..", None)
    assert isinstance(receiver.on_event(1.0, rx.ChunkArrived(chunk))[0], rx.Write)
    actions = receiver.on_event(1.0, rx.ChunkLanded(chunk, b"as it arrived..."))
    assert (rx.Drop("digest_mismatch") in actions) is is_noticed


def test_the_receiver_stands_still_at_intervals() -> None:
    target = _Blocks(RaceSettings(receiver_delay_s=0.05, delay_every_s=60.0), BlockState.RECEIVING)
    took = []
    for _ in range(3):
        began_s = time.monotonic()
        target.memory.begin_write(target.ref, KEY)
        target.memory.end_write(target.ref, KEY)
        took.append(time.monotonic() - began_s)
    assert took[0] >= 0.05 > max(took[1:])


def test_one_connection_stands_still_and_another_works_meanwhile() -> None:
    target = _Blocks(RaceSettings(receiver_delay_s=1.0, delay_every_s=60.0), BlockState.RECEIVING)
    still = threading.Thread(target=target.memory.begin_write, args=(target.ref, KEY))
    still.start()
    time.sleep(0.1)
    began_s = time.monotonic()
    target.memory.begin_write(target.ref, KEY)
    assert time.monotonic() - began_s < 0.7
    assert still.is_alive()
    still.join()


def test_what_was_refused_is_summed_over_processes(tmp_path: Path) -> None:
    assert read_refusals(tmp_path) == {"failed": {}, "counters": {}}
    for name in ("p.1", "d.2"):
        (tmp_path / f"{name}.kv.json").write_text(json.dumps({"failed": {"X": 2}, "counters": {"stale_source": 3}}))
    assert read_refusals(tmp_path) == {"failed": {"X": 4}, "counters": {"stale_source": 6}}


def test_a_race_without_evidence_is_refused(tmp_path: Path) -> None:
    fields = {
        "worker_id": "w",
        "role": "decode",
        "model_folder": tmp_path,
        "registry": {"kind": "router"},
        "race": {"receiver_delay_s": 1.0},
    }
    with pytest.raises(ValidationError, match="evidence_folder"):
        TaggedWorkerConfig.model_validate(fields)
    assert TaggedWorkerConfig.model_validate({**fields, "evidence_folder": tmp_path}).race.is_on


def test_cost_adds_up() -> None:
    cost = TaggedCost(prefill_token_s=0.001, step_s=0.02, row_s=0.003)
    assert abs(cost.seconds(num_prefill_tokens=10, num_decode_rows=4) - 0.042) < 1e-12
    assert TaggedCost().seconds(num_prefill_tokens=1000, num_decode_rows=64) == 0.0
