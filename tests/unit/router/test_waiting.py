"""How long a request waits for a worker, counted from when it began to wait, and how the wait ends."""

from dataclasses import replace

import pytest

from tandem.core import reasons
from tandem.core.errors import Overloaded, Unavailable
from tandem.core.ids import WorkerId
from tandem.core.messages import HandoverDone, ReserveDecode
from tandem.core.types import Outcome, Role
from tandem.router.fleet import Fleet
from tandem.router.health import HealthTimers
from tandem.router.live import DispatcherPolicy
from tandem.router.placement import Demand, NoCapacity, Placement, PlacementPolicy, place
from tests.unit.router.builders import D, P, make_info, make_task, make_view
from tests.unit.router.ledgers import failed as attempt_failed
from tests.unit.router.ledgers import handed_over, prefill_done, running
from tests.unit.router.world import World, done, handed, token


def _streaming(world: World, *, age_s: float) -> None:
    """Bring request ``r`` to decoding, then let it grow old."""
    world.report(P, events=(done(),), tokens=(token(0),))
    world.report(D, events=(handed(),))
    world.report(D, tokens=(token(1),))
    world.wait(age_s, alive=(P, D))


def test_an_old_request_waits_for_a_lost_worker_as_long_as_a_young_one() -> None:
    world = World(P, D)
    sink = world.submit(max_tokens=50)
    _streaming(world, age_s=60.0)
    world.dispatcher.on_lost(D)
    world.wait(10.0, alive=(P,))
    assert sink.ends == []
    world.dispatcher.on_attached(D)
    again = world.tasks(ReserveDecode)[-1]
    assert again.attempt == 1
    assert len(again.emitted[0]) == 2


def test_a_lost_worker_that_does_not_come_back_fails_what_had_begun() -> None:
    world = World(P, D)
    sink = world.submit(max_tokens=50)
    _streaming(world, age_s=60.0)
    world.dispatcher.on_lost(D)
    world.wait(16.0, alive=(P,))
    assert isinstance(sink.error, Unavailable)
    assert sink.error.reason == reasons.WORKER_LOST
    assert sink.ends[0].outcome is Outcome.FAILED  # tokens were sent: it was not shed
    world.assert_empty()


def test_a_worker_that_was_there_meanwhile_starts_the_count_anew() -> None:
    world = World(P)
    sink = world.submit()
    world.wait(10.0, alive=(P,))
    world.dispatcher.fleet.apply([make_info("prefill-0", Role.PREFILL), make_info("decode-0", Role.DECODE)])
    world.dispatcher.on_attached(D)
    world.dispatcher.on_lost(D)
    world.wait(10.0, alive=(P,))
    assert sink.ends == []
    world.wait(6.0, alive=(P,))
    assert isinstance(sink.error, Unavailable)


def test_a_continuation_does_not_wait_for_ever_for_a_full_worker() -> None:
    second_d = replace(D, worker_id=WorkerId("decode-1"))
    world = World(P, D, second_d, max_sequences=1, policy=DispatcherPolicy(max_queue_wait_s=3.0))
    first = world.submit(max_tokens=50)
    world.submit("other", max_tokens=50)
    mine = D if world.commands(ReserveDecode, D)[0] == world.commands(ReserveDecode)[0] else second_d
    rest = second_d if mine is D else D
    world.report(P, events=(done(),), tokens=(token(0),))
    world.report(mine, events=(handed(),))
    world.report(mine, tokens=(token(1),))
    world.wait(10.0, alive=(P, D, second_d))
    world.dispatcher.on_lost(mine)  # the other one is full
    world.wait(2.5, alive=(P, rest))
    assert first.ends == []
    world.wait(1.0, alive=(P, rest))
    assert isinstance(first.error, Unavailable)
    assert first.ends[0].outcome is Outcome.FAILED


def test_a_queued_request_is_shed_once_its_wait_is_over() -> None:
    world = World(P, D, max_sequences=1, policy=DispatcherPolicy(max_queue_wait_s=3.0))
    world.submit("a")
    waiting = world.submit("b")
    world.wait(2.5, alive=(P, D))
    assert waiting.ends == []
    world.wait(1.0, alive=(P, D))
    assert isinstance(waiting.error, Overloaded)
    assert waiting.ends[0].outcome is Outcome.SHED


@pytest.mark.parametrize("reason", [reasons.KV_LEASE, reasons.KV_PEER_LOST, reasons.KV_TIMEOUT])
def test_p_failing_after_d_has_all_does_no_harm(reason: str) -> None:
    ledger = running()
    ledger.on_event(P, prefill_done(), 2.0)
    ledger.on_event(D, handed_over(), 2.5)
    assert list(ledger.on_event(P, attempt_failed(reason), 3.0)) == []


def test_d_failing_while_decoding_still_counts() -> None:
    ledger = running()
    ledger.on_event(P, prefill_done(), 2.0)
    ledger.on_event(D, handed_over(), 2.5)
    assert list(ledger.on_event(D, attempt_failed(reasons.KV_INTEGRITY), 3.0)) != []


def _place(kv_bytes_per_token: float, local_queue_s: float = 0.0) -> Placement | NoCapacity:
    prefill = make_view("prefill-0", Role.PREFILL, queued_prefill_s=local_queue_s)
    decode = replace(make_view("decode-0", Role.DECODE), kv_bytes_per_token=kv_bytes_per_token)
    demand = Demand(num_prompt_tokens=64, num_sequences=1, growth_tokens=32)
    return place(demand, prefills=[prefill], decodes=[decode], policy=PlacementPolicy())


def test_a_costly_hand_over_speaks_for_local_prefill() -> None:
    cheap, costly = _place(1e3), _place(1e9)
    assert isinstance(cheap, Placement)
    assert cheap.prefill == P
    assert isinstance(costly, Placement)
    assert costly.prefill is None
    assert "hand-over" in costly.reason


def test_the_fleet_learns_what_hand_overs_cost() -> None:
    fleet = Fleet(HealthTimers())
    fleet.apply([make_info("decode-0", Role.DECODE)])
    record = fleet.get(D)
    assert record is not None
    for megabytes in (1, 8, 16, 4, 2) * 10:  # parts of it where the rest is there: the whole is what counts
        size = megabytes << 20
        record.note_transfer(
            HandoverDone(
                request_id=token(0).request_id,
                attempt=0,
                num_bytes=size,
                transport="tcp",
                handover_ms=500.0,
                exposed_ms=2.0 + size / 1e6,  # 2 ms and 1 ms a megabyte
            ),
            make_task(prompt=100),
        )
        record.learn(1.0)
    assert record.model.transfer_s(num_bytes=10_000_000) == pytest.approx(0.012, rel=0.2)
    assert record.view().kv_bytes_per_token == pytest.approx((16 << 20) / 112)  # seven blocks


@pytest.mark.parametrize("start_s", [0.1, 7.3, 1000.1])
def test_the_longest_wait_is_over_at_the_very_moment_of_its_timer(start_s: float) -> None:
    """The timer comes once: whoever it finds a rounding error too early would wait for ever."""
    world = World(P, D, max_sequences=1)
    world.submit("first")
    world.clock.time_s = start_s
    sink = world.submit("waits")
    world.clock.time_s = start_s + DispatcherPolicy().max_queue_wait_s
    for record in world.dispatcher.fleet.records():
        record.pulse.heard(world.clock.time_s)
    world.dispatcher.step()
    assert [end.outcome for end in sink.ends] == [Outcome.SHED]
