"""Who is blamed for crashes."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.ids import RequestId
from tandem.router.suspects import Isolation, Suspicion, SuspicionPolicy, blame

POLICY = SuspicionPolicy()


@dataclass
class Child:
    next_position: int = 0
    finished: bool = False


class Run:
    """One request."""

    def __init__(self, num_children: int = 1) -> None:
        self.children = [Child() for _ in range(num_children)]
        self.suspicion = Suspicion(POLICY, self.children)

    def advance(self, num_tokens: int) -> None:
        for child in self.children:
            child.next_position += num_tokens


def crash(name: str, *runs: Run) -> None:
    blame(name, [run.suspicion for run in runs])


def condemned(*runs: Run) -> list[bool]:
    return [run.suspicion.is_condemned for run in runs]


def test_alone_in_two_crashes_is_condemned() -> None:
    run = Run()
    crash("one", run)
    assert condemned(run) == [False]
    crash("two", run)
    assert condemned(run) == [True]


def test_fifty_innocents_in_two_crashes_are_not() -> None:
    runs = [Run() for _ in range(50)]
    crash("one", *runs)
    assert not any(run.suspicion.wants_isolation for run in runs), "one kill does not slow fifty streams down"
    crash("two", *runs)
    assert not any(condemned(*runs))
    assert all(run.suspicion.wants_isolation for run in runs), "two crashes without progress: now one at a time"


def test_the_last_of_fifty_at_its_place_is_not_condemned_by_a_second_kill() -> None:
    runs = [Run() for _ in range(50)]
    crash("one", *runs)
    for run in runs[1:]:
        run.advance(POLICY.passed_tokens)
    crash("two", *runs)
    assert not any(condemned(*runs))
    assert [run.suspicion.num_crashes for run in runs] == [2, *[0] * 49]


@pytest.mark.parametrize("num_mates", range(5))
def test_poison_among_a_few_is_found_at_the_second_crash(num_mates: int) -> None:
    poison, mates = Run(), [Run() for _ in range(num_mates)]
    crash("one", poison, *mates)
    assert poison.suspicion.wants_isolation
    crash("two", poison, *[Run() for _ in range(20)])  # among new companions, and alone among suspects
    assert condemned(poison, *mates) == [True, *[False] * num_mates]


def test_poison_among_many_is_found_at_the_third() -> None:
    poison, mates = Run(), [Run() for _ in range(49)]
    crash("one", poison, *mates)
    crash("two", poison, *mates[:9])
    assert condemned(poison) == [False]
    crash("three", poison)
    assert condemned(poison, *mates) == [True, *[False] * 49]


def test_who_has_got_past_the_place_is_cleared() -> None:
    run = Run(num_children=2)
    crash("one", run)
    run.advance(POLICY.passed_tokens - 1)
    assert not run.suspicion.check_cleared()
    run.advance(1)
    assert run.suspicion.check_cleared()
    crash("two", run)
    assert condemned(run) == [False]


def test_a_child_that_lags_behind_keeps_the_suspicion_one_that_ended_does_not() -> None:
    run = Run(num_children=2)
    crash("one", run)
    run.children[0].next_position += 10
    assert not run.suspicion.check_cleared()
    run.children[1].finished = True
    assert run.suspicion.check_cleared()


def test_a_worker_that_comes_back_did_not_crash() -> None:
    run = Run()
    crash("one", run)
    run.suspicion.withdraw("one")
    crash("two", run)
    assert condemned(run) == [False]


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, unique=True), max_size=12))
def test_each_crash_is_shared_out_whole_and_nobody_is_condemned_by_one(crashes: list[list[int]]) -> None:
    runs = [Run() for _ in range(10)]
    for number, in_step in enumerate(crashes):
        before = sum(run.suspicion.blame for run in runs)
        crash(f"crash {number}", *[runs[index] for index in in_step])
        assert sum(run.suspicion.blame for run in runs) == pytest.approx(before + 1.0)
    for index, run in enumerate(runs):
        if run.suspicion.is_condemned:
            assert sum(index in in_step for in_step in crashes) >= 2


@given(
    culprit=st.integers(0, 9),
    batches=st.lists(st.sets(st.integers(0, 9)), max_size=20),
)
def test_a_culprit_that_crashes_everything_is_the_only_one_condemned(culprit: int, batches: list[set[int]]) -> None:
    """Whoever runs without it gets on; with it, all crash. Suspects in isolation run without each other."""
    runs = [Run() for _ in range(10)]
    for number, batch in enumerate([*batches, set(), set(), set()]):
        in_step = batch | {culprit} if number >= len(batches) else batch
        suspects = [i for i in sorted(in_step) if runs[i].suspicion.wants_isolation]
        in_step = in_step - set(suspects) | {next((i for i in suspects if i == culprit), *suspects[:1] or [culprit])}
        if runs[culprit].suspicion.is_condemned:
            break
        if culprit in in_step:
            crash(f"crash {number}", *[runs[index] for index in sorted(in_step)])
        else:
            for index in in_step:
                runs[index].advance(POLICY.passed_tokens)
                runs[index].suspicion.check_cleared()
    assert not any(run.suspicion.is_condemned for index, run in enumerate(runs) if index != culprit)
    assert runs[culprit].suspicion.is_condemned


A, B, C = RequestId("a"), RequestId("b"), RequestId("c")


def test_suspects_take_turns() -> None:
    isolation = Isolation(POLICY)
    assert isolation.admit(A, 0.0)
    assert not isolation.admit(B, 0.0)
    assert not isolation.admit(C, 0.0)
    assert isolation.admit(A, 0.0), "the one whose turn it is may come again"
    assert len(isolation) == 2
    assert isolation.next_turn(0.0) == ()
    isolation.end_if_over(A, still_suspected=False, now_s=0.0)
    assert isolation.next_turn(0.0) == (B,)
    isolation.discard(C)
    isolation.end_if_over(B, still_suspected=False, now_s=0.0)
    assert isolation.next_turn(0.0) == ()
    assert isolation.admit(C, 0.0)


def test_a_turn_ends_when_cleared_or_when_it_takes_too_long() -> None:
    isolation = Isolation(POLICY)
    isolation.admit(A, 0.0)
    isolation.end_if_over(A, still_suspected=True, now_s=100.0)
    assert isolation.turn == (A,), "nobody waits for it"
    isolation.dispatched(A, 100.0)
    isolation.admit(B, 100.0)
    isolation.end_if_over(A, still_suspected=True, now_s=101.9)
    assert isolation.turn == (A,), "its time runs from when it has a worker"
    isolation.end_if_over(A, still_suspected=True, now_s=102.0)
    assert not isolation.turn


def test_many_suspects_need_few_turns_and_few_suspects_run_alone() -> None:
    isolation = Isolation(POLICY)
    names = [RequestId(f"r{number}") for number in range(50)]
    for name in names:
        isolation.admit(name, 0.0)
    turns = [isolation.turn]
    while len(isolation):
        for name in isolation.turn:
            isolation.end_if_over(name, still_suspected=False, now_s=0.0)
        turns.append(isolation.next_turn(0.0))
    assert [name for turn in turns for name in turn] == names
    assert [len(turn) for turn in turns] == [1, *[7] * 7]
    for name in isolation.turn:
        isolation.end_if_over(name, still_suspected=False, now_s=0.0)
    few = [RequestId(f"s{number}") for number in range(9)]
    for name in few:
        isolation.admit(name, 0.0)
    for name in few:
        assert isolation.turn == (name,)
        isolation.end_if_over(name, still_suspected=False, now_s=0.0)
        isolation.next_turn(0.0)


def test_who_can_not_be_placed_in_its_turn_goes_to_the_end_of_the_line() -> None:
    isolation = Isolation(POLICY)
    for name in (A, B, C):
        isolation.admit(name, 0.0)
    isolation.end_if_over(A, still_suspected=True, now_s=1.9)
    assert isolation.turn == (A,)
    isolation.end_if_over(A, still_suspected=True, now_s=2.0)
    assert isolation.is_waiting(A)
    assert isolation.next_turn(2.0) == (B,)
    isolation.dispatched(B, 3.0)
    isolation.admit(B, 3.5)  # a worker refused it: that does not prolong its turn
    isolation.end_if_over(B, still_suspected=True, now_s=4.0)
    assert isolation.next_turn(4.0) == (C,)
    isolation.end_if_over(C, still_suspected=False, now_s=4.0)
    assert isolation.next_turn(4.0) == (A,)


def test_a_doubted_crash_isolates_and_condemns_only_once_it_is_sure() -> None:
    run = Run()
    for name in ("one", "two"):
        crash(name, run)
        run.suspicion.doubt(name)
    assert run.suspicion.wants_isolation
    assert (run.suspicion.is_condemned, run.suspicion.is_in_doubt) == (False, True)
    run.suspicion.confirm("one")
    assert (run.suspicion.is_condemned, run.suspicion.is_in_doubt) == (False, True)
    run.suspicion.confirm("two")
    assert (run.suspicion.is_condemned, run.suspicion.is_in_doubt) == (True, False)


def test_one_doubted_crash_holds_nobody() -> None:
    run = Run()
    crash("one", run)
    run.suspicion.doubt("one")
    assert not run.suspicion.is_in_doubt
