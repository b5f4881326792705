"""Random valid histories, made by the production block table, are found good; and whatever is left out is missed."""

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.chaos.trace import Checker, Report
from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.event_log import events as ev
from tandem.core.event_log.record import ProcessLife
from tandem.core.ids import RequestId
from tandem.engine.kv.block_table import BlockState, BlockTable, NoBlocks

LIFE = ProcessLife("decode-0", 3)


class Recorded(list[ev.Event]):
    """An event log in memory."""

    def record(self, event: ev.Event) -> None:
        self.append(event)


def judge(events: list[ev.Event]) -> Report:
    checker = Checker(check_serving=False)
    for number, event in enumerate(events):
        checker.feed(LIFE, event, at_s=0.001 * number)
    return checker.finish()


@dataclass
class Attempt:
    """An attempt as its worker plays it."""

    key: AttemptKey
    refs: list[BlockRef]
    writing: list[BlockRef] = field(default_factory=list)
    is_committed: bool = False


class Worker:
    """Plays a decode worker over a real block table, correctly, at random."""

    def __init__(self, seed: int, num_blocks: int, *, caches: bool = False) -> None:
        self._caches = caches
        self._cached: list[BlockRef] = []
        self.log = Recorded()
        self.table = BlockTable(num_blocks, events=self.log)
        self._draw = random.Random(seed)
        self._attempts: list[Attempt] = []
        self._orphans: list[BlockRef] = []  # written by a link thread that has not noticed the abort yet
        self._number = 0

    def run(self, num_steps: int) -> None:
        acts = [self._reserve, self._local, self._write, self._land, self._decode, self._end]
        if self._caches:
            acts += [self._cache, self._borrow, self._evict]
        for _ in range(num_steps):
            self._draw.choice(acts)()
        for attempt in list(self._attempts):
            self._finish(attempt)
        for ref in self._orphans:
            self.table.end_write(ref)
        self.table.check_integrity()

    def _new(self, state: BlockState) -> Attempt | None:
        key = AttemptKey(RequestId(f"r{self._number}"), self._draw.randrange(2))
        self._number += 1
        try:
            attempt = Attempt(key, list(self.table.allocate(key, self._draw.randrange(1, 4), state)))
        except NoBlocks:
            return None
        self._attempts.append(attempt)
        return attempt

    def _reserve(self) -> None:
        attempt = self._new(BlockState.RECEIVING)
        if attempt is not None:
            request, number = attempt.key.request_id, attempt.key.attempt
            self.log.record(
                ev.GrantMade(request=request, attempt=number, blocks=tuple(attempt.refs), deadline_left_s=60.0)
            )

    def _local(self) -> None:
        attempt = self._new(BlockState.COMMITTED)
        if attempt is not None:
            attempt.is_committed = True

    def _write(self) -> None:
        for attempt in self._some(committed=False):
            ref = self._draw.choice(attempt.refs)
            assert self.table.begin_write(ref, attempt.key)
            attempt.writing.append(ref)

    def _land(self) -> None:
        for attempt in self._some(committed=False):
            key = attempt.key
            for seq, ref in enumerate(attempt.writing):
                self.log.record(
                    ev.ChunkAccepted(
                        request=key.request_id, attempt=key.attempt, seq=seq, epoch=LIFE.epoch, named=ref, target=ref
                    )
                )
                assert self.table.end_write(ref)
            attempt.writing.clear()
            if self._draw.random() < 0.5:
                self.log.record(ev.GrantEnded(request=key.request_id, attempt=key.attempt, how="committed"))
                self.table.commit(key)
                attempt.is_committed = True

    def _decode(self) -> None:
        running = [attempt for attempt in self._attempts if attempt.is_committed]
        for attempt in running:
            if self._draw.random() < 0.3 and self.table.num_free:
                attempt.refs += self.table.grow(attempt.key, 1, BlockState.COMMITTED, attempt.refs[-1])
        if running:
            rows = [ev.StepRow(a.key.request_id, a.key.attempt, 0, 16, tuple(a.refs)) for a in running]
            self.log.record(ev.DecodeStep(rows=tuple(rows)))

    def _cache(self) -> None:
        for attempt in self._some(committed=True):
            own = [ref for ref in attempt.refs if ref not in self._cached]
            self.table.cache(attempt.key, own)
            self._cached += own

    def _borrow(self) -> None:
        for attempt in self._some(committed=True):
            lent = [ref for ref in self._cached if ref not in attempt.refs and self._draw.random() < 0.5]
            self.table.borrow(attempt.key, lent)
            attempt.refs += lent
            if lent and self._draw.random() < 0.5:
                assert self.table.pin(lent[0], attempt.key)
                assert self.table.unpin(lent[0])

    def _evict(self) -> None:
        idle = [ref for ref in self._cached if not self.table.num_references(ref)]
        for ref in idle[:2]:
            self.table.evict([ref])
            self._cached.remove(ref)

    def _end(self) -> None:
        if self._attempts:
            self._finish(self._draw.choice(self._attempts))
        if self._orphans and self._draw.random() < 0.5:
            assert not self.table.end_write(self._orphans.pop())

    def _finish(self, attempt: Attempt) -> None:
        key = attempt.key
        if not attempt.is_committed:
            self.log.record(ev.GrantEnded(request=key.request_id, attempt=key.attempt, how="aborted"))
        self._orphans += attempt.writing
        self.table.release_all(key)
        self._attempts.remove(attempt)

    def _some(self, *, committed: bool) -> list[Attempt]:
        fitting = [attempt for attempt in self._attempts if attempt.is_committed is committed]
        return [self._draw.choice(fitting)] if fitting else []


def played(seed: int, num_blocks: int, num_steps: int = 60, *, caches: bool = False) -> Recorded:
    worker = Worker(seed, num_blocks, caches=caches)
    worker.run(num_steps)
    return worker.log


@given(seed=st.integers(0, 2**32), num_blocks=st.sampled_from((1, 2, 3, 8, 32)), caches=st.booleans())
@settings(max_examples=150, deadline=None)
def test_valid_histories_pass(seed: int, num_blocks: int, caches: bool) -> None:
    log = played(seed, num_blocks, caches=caches)
    report = judge(log)
    assert [str(violation) for violation in report.violations] == []
    assert report.is_complete


def test_valid_histories_hold_everything() -> None:
    counts: Counter[str] = Counter()
    for seed in range(20):
        counts.update(judge(played(seed, 8)).counts)
    assert all(
        counts[kind] > 20
        for kind in ("blocks_allocated", "blocks_freed", "blocks_committed", "block_pinned", "chunk_accepted")
    ), counts


def test_valid_histories_of_caches_hold_everything() -> None:
    counts: Counter[str] = Counter()
    for seed in range(20):
        counts.update(judge(played(seed, 8, caches=True)).counts)
    assert all(counts[kind] > 20 for kind in ("blocks_cached", "blocks_borrowed", "blocks_returned")), counts


@pytest.mark.parametrize(
    ("kind", "invariants"),
    [(ev.BlocksCached, {"I1", "I3"}), (ev.BlocksBorrowed, {"I1", "I3", "I6"}), (ev.BlocksReturned, {"I3"})],
)
@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=60, deadline=None)
def test_an_event_of_the_cache_left_out_is_missed(
    kind: type[ev.Event], invariants: set[str], seed: int, data: st.DataObject
) -> None:
    log = played(seed, 3, caches=True)
    places = [place for place, event in enumerate(log) if isinstance(event, kind) and _matters(log, place)]
    if not places:
        return
    place = data.draw(st.sampled_from(places))
    found = {violation.invariant for violation in judge([*log[:place], *log[place + 1 :]]).violations}
    assert found & invariants


def _matters(log: list[ev.Event], place: int) -> bool:
    """Whether somebody returns or frees one of these blocks later: else nobody can miss the event."""
    event = log[place]
    assert isinstance(event, ev.BlocksCached | ev.BlocksBorrowed | ev.BlocksReturned)
    awaited = ev.BlocksFreed if isinstance(event, ev.BlocksReturned) else ev.BlocksReturned
    later = {ref for e in log[place + 1 :] if isinstance(e, awaited) for ref in e.blocks}
    return bool(later & set(event.blocks))


def _swap_block(event: ev.Event) -> ev.Event:
    """The same step, but one block is of the generation before."""
    assert isinstance(event, ev.DecodeStep)
    row = event.rows[-1]
    old = BlockRef(row.blocks[-1].block_id, (row.blocks[-1].generation - 1) % 2**32)
    changed = ev.StepRow(row.request, row.attempt, row.child, row.num_tokens, (*row.blocks[:-1], old))
    return ev.DecodeStep(rows=(*event.rows[:-1], changed))


@pytest.mark.parametrize(
    ("kind", "invariants"),
    [
        (ev.BlocksAllocated, {"I1", "I2", "I3", "I6"}),
        (ev.BlocksFreed, {"I3", "I6"}),
        (ev.BlockUnpinned, {"I6", "I1"}),
        (ev.BlockPinned, {"I6", "I2"}),
    ],
)
@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=60, deadline=None)
def test_an_event_left_out_is_missed(
    kind: type[ev.Event], invariants: set[str], seed: int, data: st.DataObject
) -> None:
    """Every block that is used again later gives its missing event away; with two blocks nearly all are."""
    log = played(seed, 2)
    places = [place for place, event in enumerate(log) if isinstance(event, kind)]
    if kind is ev.BlocksFreed:
        # The last free of a block is the end of its story: nobody can miss it.
        later = [{ref.block_id for e in log[place + 1 :] if isinstance(e, ev.BlocksAllocated) for ref in e.blocks}
                 for place in places]  # fmt: skip
        places = [
            place
            for place, ids in zip(places, later, strict=True)
            if any(ref.block_id in ids for ref in _blocks_of(log[place]))
        ]
    if not places:
        return
    place = data.draw(st.sampled_from(places))
    found = judge([*log[:place], *log[place + 1 :]]).violations
    assert found
    assert {violation.invariant for violation in found} <= {"I1", "I2", "I3", "I6"}
    assert {violation.invariant for violation in found} & invariants


def _blocks_of(event: ev.Event) -> tuple[BlockRef, ...]:
    assert isinstance(event, ev.BlocksFreed)
    return event.blocks


@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_step_over_an_old_generation_is_found(seed: int, data: st.DataObject) -> None:
    log = played(seed, 8)
    places = [place for place, event in enumerate(log) if isinstance(event, ev.DecodeStep)]
    if not places:
        return
    place = data.draw(st.sampled_from(places))
    found = judge([*log[:place], _swap_block(log[place]), *log[place + 1 :]]).violations
    assert [violation.invariant for violation in found] == ["I1"]
