"""Every invariant: a run that breaks it is found, by name and place, and the same run without the fault is not."""

from collections.abc import Callable

import pytest

from tandem.chaos.trace import Excused
from tandem.core.event_log import events as ev
from tandem.core.types import Role
from tests.unit.chaos.trace.story import (
    DECODE,
    PREFILL,
    ROUTER,
    R,
    S,
    Story,
    Told,
    accepted,
    dispatched,
    ended,
    forwarded,
    good_story,
    pinned,
    ref,
    step,
    usage,
)

Fault = Callable[[Story], None]


def _replace(story: Story, at: int, event: ev.Event) -> None:
    story.told[at] = Told(story.told[at].process, story.told[at].at_s, event)


def _insert(story: Story, at: int, event: ev.Event) -> None:
    story.told.insert(at, Told(story.told[at].process, story.told[at].at_s, event))


def _remove(kind: type[ev.Event], number: int = 0) -> Fault:
    def leave_out(story: Story) -> None:
        story.told.pop(story.index(kind, number))

    return leave_out


def _before(kind: type[ev.Event], event: ev.Event, number: int = 0) -> Fault:
    return lambda story: _insert(story, story.index(kind, number), event)


def _instead(kind: type[ev.Event], event: ev.Event, number: int = 0) -> Fault:
    return lambda story: _replace(story, story.index(kind, number), event)


def _after(kind: type[ev.Event], event: ev.Event, number: int = 0) -> Fault:
    """``event`` is of the same process, right after."""

    def tell(story: Story) -> None:
        at = story.index(kind, number)
        story.told.insert(at + 1, Told(story.told[at].process, story.told[at].at_s, event))

    return tell


def _late(kind: type[ev.Event], seconds: float, number: int = 0) -> Fault:
    """Everything from this event on happens later."""

    def delay(story: Story) -> None:
        for told in story.told[story.index(kind, number) :]:
            told.at_s += seconds

    return delay


BOTH = (ref(0), ref(1))

FAULTS: dict[str, tuple[str, Fault, str]] = {
    # name: the invariant, the fault, words of the problem
    "reads before the commit": ("I1", _remove(ev.BlocksCommitted), "but it is receiving"),
    "reads an old generation": ("I1", _instead(ev.DecodeStep, step([ref(0), ref(1)], S), 3), "generation 2"),
    "reads another request's block": ("I1", _instead(ev.DecodeStep, step(BOTH, S)), "for request request-a"),
    "reads another attempt's block": ("I1", _instead(ev.DecodeStep, step(BOTH, attempt=1)), "attempt 0, generation 1"),
    "reads a free block": ("I1", _after(ev.BlocksFreed, step(BOTH), 1), "free since generation 1"),
    "reads what was never given": ("I1", _before(ev.DecodeStep, step([ref(9)])), "never allocated"),
    "commits before the writer let go": ("I1", _before(ev.BlocksCommitted, pinned(ref(1), "write")), "a writer holds"),
    "commits another's blocks": (
        "I1",
        _instead(ev.BlocksCommitted, ev.BlocksCommitted(request=S, attempt=0, blocks=BOTH)),
        "is committed for request request-b",
    ),
    "accepts an old generation": ("I2", _instead(ev.ChunkAccepted, accepted(ref(0), named=ref(0, 0))), "generation 0"),
    "accepts an old epoch": ("I2", _instead(ev.ChunkAccepted, accepted(ref(0), epoch=299)), "epoch 299"),
    "accepts for a block that was freed": (
        "I2",
        _after(ev.BlocksFreed, accepted(ref(0)), 1),
        "but it is free since generation 1",
    ),
    "accepts for a block of another request": ("I2", _instead(ev.ChunkAccepted, accepted(ref(0), request=S)), "but it"),
    "accepts over a block that decodes": ("I2", _before(ev.DecodeStep, accepted(ref(0))), "written over"),
    "writes without holding": ("I2", _remove(ev.BlockPinned, 1), "nobody holds"),
    "allocates twice": (
        "I3",
        _after(
            ev.BlocksAllocated, ev.BlocksAllocated(request=S, attempt=0, state="committed", blocks=(ref(0, 2),))
        ),
        "is allocated, but it is receiving",
    ),
    "allocates without a new generation": (
        "I3",
        _instead(ev.BlocksAllocated, ev.BlocksAllocated(request=S, attempt=0, state="receiving", blocks=BOTH), 2),
        "after generation 1",
    ),
    "frees twice": ("I3", _after(ev.BlocksFreed, ev.BlocksFreed(blocks=(ref(1),)), 1), "is freed, but it is free"),
    "frees what was never given": ("I3", _before(ev.BlocksFreed, ev.BlocksFreed(blocks=(ref(99),))), "never allocated"),
    "seals a block that is not being filled": ("I3", _after(ev.BlocksSealed, ev.BlocksSealed(blocks=(ref(5),))), "but"),
    "rekeys another's blocks": (
        "I3",
        _before(ev.DecodeStep, ev.BlocksRekeyed(request=R, from_attempt=4, attempt=5, blocks=BOTH)),
        "changes hands",
    ),
    "ends twice": ("I4", _after(ev.RequestEnded, ended(4)), "ends twice"),
    "never ends": ("I4", _remove(ev.RequestEnded), "never ended"),
    "records usage twice": ("I4", _after(ev.UsageRecorded, usage(4)), "recorded twice"),
    "never records usage": ("I4", _remove(ev.UsageRecorded), "never recorded"),
    "counts other tokens than it forwards": ("I4", _instead(ev.RequestEnded, ended(5)), "5 tokens are counted and 4"),
    "goes on after the end": ("I4", _after(ev.RequestEnded, dispatched(R, 1)), "comes after its end"),
    "forwards after the end": ("I4", _after(ev.RequestEnded, forwarded(4)), "after its end"),
    "accepts the same request twice": (
        "I4",
        _after(ev.RequestAccepted, ev.RequestAccepted(request=R, num_sequences=1)),
        "accepted twice",
    ),
    "leaves a gap": ("I5", _instead(ev.TokensForwarded, forwarded(2), 1), "jumps: position 2"),
    "repeats a token": ("I5", _instead(ev.TokensForwarded, forwarded(0), 1), "repeats: position 0"),
    "does not begin at 0": ("I5", _instead(ev.TokensForwarded, forwarded(1, child=1)), "where 0 was due"),
    "frees a pinned block": ("I6", _remove(ev.BlockUnpinned), "freed with 1 pins"),
    "unpins more often than it pinned": (
        "I6",
        _after(ev.BlockUnpinned, ev.BlockUnpinned(block=ref(0)), 1),
        "more often than pinned",
    ),
    "unpins another use": ("I6", _before(ev.BlockUnpinned, ev.BlockUnpinned(block=ref(5, 0))), "generation 0"),
    "pins a block that is not sealed": ("I6", _before(ev.BlocksSealed, pinned(ref(5), "read")), "it is filling"),
    "pins another attempt's block": ("I6", _instead(ev.BlockPinned, pinned(ref(5), "read", R, 7)), "attempt 7"),
    "drains the only worker": (
        "I7",
        _before(ev.DecodeStep, ev.RoleChanged(role=Role.DECODE, state="draining")),
        "no decode worker served while a request was accepted",
    ),
    "ends a grant too late": ("I8", _late(ev.GrantEnded, 31.1), "later than 1 s after its deadline"),
    "never ends a grant": ("I8", _remove(ev.GrantEnded), "had not ended"),
}  # fmt: skip


def test_the_good_story_is_good() -> None:
    report = good_story().judge()
    assert report.violations == []
    assert report.is_complete
    assert all(count > 0 for count in report.num_checks.values()), report.num_checks
    assert report.num_events == len(good_story().told)
    assert sum(report.counts.values()) == report.num_events
    assert report.counts["decode_step"] == 6
    assert (report.num_processes, report.num_killed) == (3, 0)


@pytest.mark.parametrize("name", FAULTS)
def test_the_fault_is_found(name: str) -> None:
    invariant, fault, words = FAULTS[name]
    story = good_story()
    if name == "never ends a grant":
        for told in story.told[-6:]:
            told.at_s += 60.0
    fault(story)
    report = story.judge()
    found = [violation for violation in report.violations if violation.invariant == invariant]
    assert found, [str(violation) for violation in report.violations]
    assert any(words in violation.problem for violation in found), [violation.problem for violation in found]
    assert report.num_violations == len(report.violations)


def test_a_violation_names_the_place_and_tells_the_history() -> None:
    story = good_story()
    _remove(ev.BlocksCommitted)(story)
    violation = story.judge().violations[0]
    assert violation.process == "decode-0-300"
    assert "decode-0 at" in violation.place
    assert "request request-a attempt 0 child 0 reads block 0 generation 1" in violation.problem
    assert [line.partition(": ")[2] for line in violation.history] == [
        "block 0 generation 1 with 1 others allocated to request request-a attempt 0 as receiving",
        "block 0 generation 1 pinned to write it for request request-a attempt 0",
        "chunk 0 of request request-a attempt 0 accepted: it names block 0 generation 1 of epoch 300, "
        "and was written to block 0 generation 1",
        "block 0 generation 1 unpinned",
    ]
    assert str(violation).startswith("I1 decode-0 at")


def test_a_grant_of_a_process_that_died_or_stood_still_is_not_late() -> None:
    story = good_story()
    _remove(ev.GrantEnded, 1)(story)
    assert story.judge().violations == []  # its clock never came so far
    story = good_story()
    at = story.index(ev.GrantEnded)
    _late(ev.GrantEnded, 40.0)(story)
    assert [v.invariant for v in story.judge().violations] == ["I8"]
    paused = Told(DECODE, story.told[at].at_s + 0.001, ev.ProcessPaused(seconds=9.5))
    story.told.insert(at + 1, paused)
    assert story.judge().violations == []
    paused.event = ev.ProcessPaused(seconds=8.0)
    assert [v.invariant for v in story.judge().violations] == ["I8"]


def test_a_killed_router_owes_nothing_and_still_may_not_repeat_itself() -> None:
    story = Story()
    story.begin()
    story.accept()
    story.tell(ROUTER, forwarded(0))
    assert story.judge().violations == []
    story.tell(ROUTER, forwarded(0))
    assert [v.invariant for v in story.judge().violations] == ["I5"]


def test_another_life_of_a_worker_begins_with_new_blocks() -> None:
    story = good_story()
    story.told.pop(story.index(ev.BlocksFreed, 1))  # killed with its blocks in use
    life = type(DECODE)(DECODE.name, 301)
    story.tell(life, ev.LogOpened(version=1, host="h", pid=2))
    story.tell(life, ev.BlocksAllocated(request=R, attempt=1, state="committed", blocks=(ref(0),)))
    story.tell(life, step([ref(0)], attempt=1))
    violations = [v for v in story.judge().violations if v.process.endswith("301")]
    assert violations == []


def test_a_worker_that_was_killed_serves_until_somebody_notices() -> None:
    other = type(DECODE)("decode-1", 301)
    story = Story()
    story.begin()
    story.tell(other, ev.LogOpened(version=1, host="h", pid=2), ev.RoleChanged(role=Role.DECODE, state="serving"))
    story.tell(other, ev.RoleChanged(role=Role.DECODE, state="draining"))
    story.accept(R)
    assert story.judge().violations == []
    story.tell(ROUTER, ev.WorkerJudged(worker=DECODE.name, worker_epoch=DECODE.epoch, health="suspect"))
    story.accept(S)
    assert story.judge().violations == []
    story.tell(ROUTER, ev.WorkerJudged(worker=DECODE.name, worker_epoch=DECODE.epoch, health="dead"))
    story.accept("request-c")
    report = story.judge()
    assert [v.invariant for v in report.violations] == ["I7"]
    assert "the router holds decode-0-300 for dead" in report.violations[0].history[0]
    assert story.judge(check_serving=False).violations == []


def test_a_worker_that_was_given_up_and_lives_serves_again() -> None:
    other = type(DECODE)("decode-1", 301)
    story = Story()
    story.begin()
    story.tell(other, ev.LogOpened(version=1, host="h", pid=2), ev.RoleChanged(role=Role.DECODE, state="serving"))
    for health in ("dead", "alive"):
        story.tell(ROUTER, ev.WorkerJudged(worker=DECODE.name, worker_epoch=DECODE.epoch, health=health))
    story.tell(ROUTER, ev.WorkerJudged(worker=other.name, worker_epoch=other.epoch, health="dead"))
    story.accept(R)
    assert story.judge().violations == []
    story.tell(ROUTER, ev.WorkerJudged(worker=DECODE.name, worker_epoch=DECODE.epoch, health="dead"))
    story.tell(ROUTER, ev.WorkerJudged(worker=other.name, worker_epoch=other.epoch, health="alive"))
    assert [v.problem for v in story.judge().violations] == ["no decode worker served until decode-1 began to serve"]


def test_a_gap_that_was_announced_is_counted_and_must_be_over_in_time() -> None:
    story = Story()
    story.begin()
    story.tell(ROUTER, ev.WorkerJudged(worker=DECODE.name, worker_epoch=DECODE.epoch, health="dead"))
    left_s = story.told[-1].at_s
    story.accept(R)
    accepted_s = story.told[story.index(ev.RequestAccepted)].at_s

    def until(end_s: float) -> Excused:
        return lambda role, from_s, to_s: role is Role.DECODE and from_s >= left_s and to_s <= end_s

    report = story.judge(excused=until(accepted_s))
    assert (report.violations, report.num_excused) == ([], 1)
    story.accept(S)
    report = story.judge(excused=until(accepted_s))
    assert [v.invariant for v in report.violations] == ["I7"], "it went on when the excuse was over"
    assert story.judge(excused=lambda role, from_s, to_s: role is Role.PREFILL).num_violations == 1


def test_a_gap_ends_with_the_next_life_and_is_told_once() -> None:
    story = Story()
    story.begin()
    life = type(PREFILL)(PREFILL.name, 201)
    story.tell(life, ev.LogOpened(version=1, host="h", pid=2), ev.RoleChanged(role=Role.PREFILL, state="serving"))
    report = story.judge()
    assert [v.problem for v in report.violations] == ["no prefill worker served until prefill-0 began to serve"]
    story.accept()
    assert story.judge().num_violations == 1


def test_a_worker_that_changes_its_role_leaves_the_other() -> None:
    story = Story()
    story.begin()
    story.tell(DECODE, ev.RoleChanged(role=Role.PREFILL, state="serving"))
    story.accept(R)
    story.accept(S)  # still the same gap
    assert [v.problem for v in story.judge().violations] == ["no decode worker served while a request was accepted"]


def test_a_worker_that_says_again_that_it_serves_was_never_away() -> None:
    story = Story()
    story.begin()
    story.tell(DECODE, ev.RoleChanged(role=Role.DECODE, state="serving"))
    story.accept()
    assert story.judge().violations == []


def test_nothing_after_a_loss_is_judged_and_the_report_says_so() -> None:
    story = good_story()
    at = story.index(ev.BlocksCommitted)
    _replace(story, at, ev.RecordsLost(count=1))
    report = story.judge()
    assert report.violations == []
    assert not report.is_complete
    assert "decode-0-300: 1 records are missing" in report.incomplete[0]
    before = good_story()
    _remove(ev.BlockPinned, 1)(before)
    _replace(before, before.index(ev.BlocksCommitted), ev.RecordsLost(count=1))
    assert [v.invariant for v in before.judge().violations] == ["I2", "I6"]  # what came before it stands


def test_generations_wrap() -> None:
    story = Story()
    story.begin()
    for generation in (2**32 - 1, 0, 1):
        story.tell(
            DECODE,
            ev.BlocksAllocated(request=R, attempt=0, state="committed", blocks=(ref(0, generation),)),
            ev.BlocksFreed(blocks=(ref(0, generation),)),
        )
    assert story.judge().violations == []
    story.tell(DECODE, ev.BlocksAllocated(request=R, attempt=0, state="committed", blocks=(ref(0, 2**32 - 1),)))
    assert [v.invariant for v in story.judge().violations] == ["I3"]


def test_a_rekeyed_block_is_read_under_its_new_attempt_only() -> None:
    story = Story()
    story.begin()
    story.prefill([ref(5)])
    story.tell(PREFILL, ev.BlocksRekeyed(request=R, from_attempt=0, attempt=1, blocks=(ref(5),)))
    story.tell(PREFILL, pinned(ref(5), "read", R, 1), ev.BlockUnpinned(block=ref(5)), ev.BlocksFreed(blocks=(ref(5),)))
    assert story.judge().violations == []
    story = Story()
    story.begin()
    story.prefill([ref(5)])
    story.tell(PREFILL, ev.BlocksRekeyed(request=R, from_attempt=0, attempt=1, blocks=(ref(5),)))
    story.tell(PREFILL, pinned(ref(5), "read", R, 0))
    assert [v.invariant for v in story.judge().violations] == ["I6"]


def test_requests_long_over_are_forgotten_but_not_their_names() -> None:
    story = Story()
    story.begin()
    for number in range(5000):
        story.accept(str(number))
        story.tell(ROUTER, forwarded(0, str(number)), usage(1, str(number)), ended(1, str(number)))
    assert story.judge().violations == []
    story.tell(ROUTER, ended(1, "0"))
    assert [v.problem for v in story.judge().violations] == ["request 0 ends twice: now ok "]


def test_only_the_first_thousand_violations_are_kept_and_all_are_counted() -> None:
    story = Story()
    story.begin()
    for _ in range(1500):
        story.tell(DECODE, step([ref(3)]))
    report = story.judge()
    assert (len(report.violations), report.num_violations) == (1000, 1500)
