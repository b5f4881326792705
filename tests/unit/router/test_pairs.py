"""The circuit breaker of a pair."""

from hypothesis import given
from hypothesis import strategies as st

from tandem.core import reasons
from tandem.core.blocks import AttemptKey
from tandem.core.cluster import PairState
from tandem.core.ids import RequestId
from tandem.core.messages import StartPrefill
from tandem.router.actions import Pair, WorkerKey
from tandem.router.pairs import PairBreakers, PairPolicy
from tests.unit.router.builders import D2, P2, D, P
from tests.unit.router.world import World, failed

PAIR = Pair(prefill=P, decode=D)
OTHER = Pair(prefill=P2, decode=D)


def attempt(number: int) -> AttemptKey:
    return AttemptKey(RequestId("r"), number)


def opened(at_s: float = 0.0) -> PairBreakers:
    pairs = PairBreakers()
    pairs.failed(PAIR, reasons.KV_TIMEOUT, at_s)
    pairs.failed(PAIR, reasons.KV_PEER_LOST, at_s)
    return pairs


def test_one_failure_leaves_the_pair_in_use_two_do_not() -> None:
    pairs = PairBreakers()
    pairs.failed(PAIR, reasons.KV_TIMEOUT, 0.0)
    assert pairs.blocked(0.0) == frozenset()
    (status,) = pairs.statuses(0.0)
    assert (status.state, status.num_failures, status.probe_in_ms) == (PairState.FAILING, 1, None)
    pairs.failed(PAIR, reasons.KV_PEER_LOST, 1.0)
    assert pairs.blocked(1.0) == {PAIR}
    (status,) = pairs.statuses(2.0)
    assert (status.state, status.last_reason, status.probe_in_ms) == (PairState.OPEN, reasons.KV_PEER_LOST, 9000.0)


def test_both_workers_go_on_with_others() -> None:
    pairs = opened()
    assert OTHER not in pairs.blocked(0.0)
    assert Pair(prefill=P, decode=D2) not in pairs.blocked(0.0)


def test_a_hand_over_between_failures_begins_the_count_anew() -> None:
    pairs = PairBreakers()
    for _ in range(5):
        pairs.failed(PAIR, reasons.KV_TIMEOUT, 0.0)
        pairs.worked(PAIR)
    assert pairs.blocked(0.0) == frozenset()
    assert len(pairs) == 0


def test_one_request_probes_after_the_pause_and_heals_it() -> None:
    pairs = opened()
    assert pairs.blocked(9.9) == {PAIR}
    assert pairs.blocked(10.0) == frozenset()
    pairs.placed(PAIR, attempt(0))
    assert pairs.blocked(10.0) == {PAIR}, "only one request at a time is risked"
    assert pairs.statuses(10.0)[0].state is PairState.PROBING
    pairs.worked(PAIR)
    assert pairs.blocked(10.0) == frozenset()


def test_a_probe_that_fails_opens_it_again() -> None:
    pairs = opened()
    pairs.placed(PAIR, attempt(0))
    pairs.failed(PAIR, reasons.KV_TIMEOUT, 11.0)
    pairs.attempt_over(attempt(0))
    assert pairs.blocked(20.9) == {PAIR}
    assert pairs.blocked(21.0) == frozenset()
    assert pairs.num_opened == 2


def test_a_probe_without_a_verdict_leaves_its_turn_to_the_next() -> None:
    pairs = opened()
    pairs.placed(PAIR, attempt(0))
    pairs.attempt_over(attempt(1))
    assert pairs.blocked(12.0) == {PAIR}
    pairs.attempt_over(attempt(0))
    assert pairs.blocked(12.0) == frozenset()


def test_late_failures_do_not_keep_it_open_for_ever() -> None:
    pairs = opened()
    for now_s in range(1, 9):
        pairs.failed(PAIR, reasons.KV_TIMEOUT, float(now_s))
    assert pairs.blocked(10.0) == frozenset()


def test_another_life_of_a_worker_begins_well() -> None:
    pairs = opened()
    pairs.failed(OTHER, reasons.KV_TIMEOUT, 0.0)
    pairs.forget(P)
    assert pairs.blocked(0.0) == frozenset()
    assert len(pairs) == 1


PAIRS = [Pair(prefill=p, decode=d) for p in (P, P2) for d in (D, D2)]


@given(
    events=st.lists(st.tuples(st.sampled_from(PAIRS), st.sampled_from(["fail", "work", "place", "over"])), max_size=60),
    failures_to_open=st.integers(1, 3),
)
def test_only_pairs_that_failed_often_enough_in_a_row_are_ever_blocked(
    events: list[tuple[Pair, str]], failures_to_open: int
) -> None:
    pairs = PairBreakers(PairPolicy(failures_to_open=failures_to_open, probe_after_s=10.0))
    in_a_row = dict.fromkeys(PAIRS, 0)
    for now, (pair, what) in enumerate(events):
        now_s = float(now)
        match what:
            case "fail":
                pairs.failed(pair, reasons.KV_TIMEOUT, now_s)
                in_a_row[pair] += 1
            case "work":
                pairs.worked(pair)
                in_a_row[pair] = 0
            case "place":
                if pair not in pairs.blocked(now_s):
                    pairs.placed(pair, attempt(now))
            case _:
                pairs.attempt_over(attempt(now - 1))
        assert pairs.blocked(now_s) <= {p for p, count in in_a_row.items() if count >= failures_to_open}
    for number in range(len(events)):
        pairs.attempt_over(attempt(number))
    assert pairs.blocked(1e9) == frozenset(), "whatever failed is tried again some time"


def test_no_request_goes_over_an_open_pair_until_its_probe_is_due() -> None:
    world = World(P, P2, D)
    number = 0

    def prefill_of_the_next(*, spoil: bool) -> WorkerKey:
        """Send one request and say who computes it; over PAIR its hand-over fails, and it leaves."""
        nonlocal number
        number += 1
        name = f"r{number}"
        sink = world.submit(name)
        (worker,) = [w for w, c in world.sent if isinstance(c, StartPrefill) and c.task.request_id == name]
        if spoil and worker == P:
            world.report(D, events=(failed(reasons.KV_TIMEOUT, name),))
        if not sink.ends:
            world.dispatcher.cancel(RequestId(name))
        return worker

    for _ in range(20):
        prefill_of_the_next(spoil=True)
        if world.dispatcher.pairs.blocked(world.clock.now_s()):
            break
    assert world.dispatcher.pairs.blocked(world.clock.now_s()) == {PAIR}
    assert {prefill_of_the_next(spoil=False) for _ in range(12)} == {P2}
    world.wait(10.5, alive=(P, P2, D))
    assert P in {prefill_of_the_next(spoil=False) for _ in range(12)}, "it is probed"
