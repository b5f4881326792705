"""Admission in the dispatcher: what is refused, displaced, shed late, paused, and that nothing stays reserved."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core import reasons
from tandem.core.errors import Overloaded, QuotaExceeded
from tandem.core.ids import RequestId, Tenant
from tandem.core.messages import Abort, ReserveDecode, StartPrefill
from tandem.core.types import FinishReason, Outcome, PriorityClass, WorkerLoad
from tandem.router.admission.buckets import TenantLimit
from tandem.router.admission.pressure import BrownOut
from tandem.router.admission.terms import AdmissionCause, AdmissionDecision, AdmissionPolicy
from tandem.router.live import DispatcherPolicy
from tandem.router.observer import SilentObserver
from tandem.router.placement import PlacementPolicy
from tandem.router.queue import CentralQueue, QueueBounds
from tests.unit.router.builders import D2, P2, D, P
from tests.unit.router.world import Sink, World, done, failed, handed, token

INTERACTIVE, STANDARD, BATCH = PriorityClass.INTERACTIVE, PriorityClass.STANDARD, PriorityClass.BATCH


class Decisions(SilentObserver):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[AdmissionDecision] = []

    def admission(self, decision: AdmissionDecision) -> None:
        self.seen.append(decision)


class Door(World):
    """A world with an observer of admission."""

    def __init__(
        self, *workers: object, max_count: int = 4096, admission: AdmissionPolicy | None = None, **more: object
    ) -> None:
        policy = DispatcherPolicy(placement=PlacementPolicy(tie_share=None), admission=admission or AdmissionPolicy())
        super().__init__(*workers, policy=policy, **more)  # type: ignore[arg-type]
        self.decisions = Decisions()
        self.dispatcher.admitting._observer = self.decisions
        self.dispatcher.queue.bounds = QueueBounds(max_count=max_count)

    def run(self, name: str, *, num_tokens: int = 1, end: bool = False) -> None:
        """Compute a request's prompt and hand it over; ``end``: all of its answer comes."""
        self.report(P, events=(done(name),), tokens=(token(0, name),))
        self.report(D, events=(handed(name),))
        for position in range(1, num_tokens):
            finish = FinishReason.STOP if end and position == num_tokens - 1 else None
            self.report(D, tokens=(token(position, name, finish=finish),))


def test_every_request_has_one_decision_with_its_numbers() -> None:
    world = Door(P, D, max_sequences=1)
    world.submit("a", prompt=100)
    world.submit("b", prompt=100)
    world.submit("c", prompt=100)
    assert [d.request_id for d in world.decisions.seen] == ["a", "b", "c"]
    assert [d.cause for d in world.decisions.seen] == [AdmissionCause.ROOM, AdmissionCause.ROOM, AdmissionCause.FITS]
    third = world.decisions.seen[2].forecast
    assert third is not None
    assert third.slot_wait_s > 0.0


def test_a_tenants_limit_refuses_before_anything_is_kept() -> None:
    world = Door(P, D, admission=AdmissionPolicy(limits={Tenant("a"): TenantLimit(requests=1.0)}))
    world.submit("a", tenant="a")
    with pytest.raises(QuotaExceeded) as caught:
        world.submit("b", tenant="a")
    assert caught.value.retry_after_s == pytest.approx(60.0)
    assert world.dispatcher.num_live == 1
    world.submit("c", tenant="c")


def test_who_has_no_request_left_is_refused_before_its_prompt_is_read() -> None:
    world = Door(P, D, admission=AdmissionPolicy(default_limit=TenantLimit(requests=1.0)))
    admitting = world.dispatcher.admitting

    def turn_away(tenant: str) -> None:
        admitting.turn_away(
            RequestId("early"), Tenant(tenant), PriorityClass.STANDARD, caller_attempt=2, now_s=world.clock.now_s()
        )

    for _ in range(5):
        turn_away("a")  # a question takes nothing
    world.submit("a", tenant="a")
    with pytest.raises(QuotaExceeded) as caught:
        turn_away("a")
    assert caught.value.retry_after_s == pytest.approx(60.0)
    decision = world.decisions.seen[-1]
    assert (decision.request_id, decision.cause, decision.attempt) == ("early", AdmissionCause.REQUEST_RATE, 2)
    turn_away("b")


def test_token_charges_are_settled_when_the_request_ends() -> None:
    world = Door(P, D, admission=AdmissionPolicy(limits={Tenant("a"): TenantLimit(tokens=600.0)}))
    world.submit("a", tenant="a", prompt=10, max_tokens=500)  # charged 510
    with pytest.raises(QuotaExceeded):
        world.submit("b", tenant="a", prompt=100, max_tokens=500)
    world.run("a", num_tokens=5, end=True)  # … and was worth 15
    world.submit("c", tenant="a", prompt=10, max_tokens=500)


def test_a_full_queue_sheds_batch_for_a_more_urgent_request() -> None:
    world = Door(P, D, max_sequences=1, max_count=2)
    world.submit("running")
    old, new = world.submit("old", priority=BATCH), world.submit("new", priority=BATCH)
    world.submit("urgent", priority=STANDARD)
    assert old.ends == []
    assert new.ends[0].outcome is Outcome.SHED
    assert isinstance(new.error, Overloaded)
    assert new.error.reason == "DISPLACED"
    assert new.error.retry_after_s is not None
    with pytest.raises(Overloaded) as caught:
        world.submit("batch", priority=BATCH)
    assert caught.value.reason == "QUEUE_FULL"
    assert len(world.dispatcher.queue) == 2


def test_a_full_queue_sheds_the_tenant_that_is_over_its_share() -> None:
    world = Door(P, D, max_sequences=1, max_count=3)
    world.submit("running", tenant="flood")
    flood = [world.submit(f"f{i}", tenant="flood") for i in range(3)]
    world.submit("v", tenant="victim")
    assert [bool(sink.ends) for sink in flood] == [False, False, True]
    with pytest.raises(Overloaded):
        world.submit("f9", tenant="flood")


def test_who_can_not_be_in_time_any_more_costs_no_prefill() -> None:
    world = Door(P, D, max_sequences=1, admission=AdmissionPolicy(ttft_slo_s={STANDARD: 1.0}))
    world.submit("running")
    first, second = world.submit("first"), world.submit("second")
    assert [d.cause for d in world.decisions.seen][1:] == [AdmissionCause.ROOM, AdmissionCause.FITS]
    world.wait(1.5, alive=(P, D))
    world.report(D, tokens=(token(0, "running", finish=FinishReason.STOP),))
    assert [task.request_id for task in world.tasks(StartPrefill)] == ["running", "first"], "taken in any case"
    assert first.ends == []
    world.report(D, tokens=(token(0, "first", finish=FinishReason.STOP),))
    assert [task.request_id for task in world.tasks(StartPrefill)] == ["running", "first"]
    assert second.ends[0].outcome is Outcome.SHED
    assert second.error is not None
    assert second.error.reason == "LATE"
    world.assert_empty()


def test_the_prediction_error_is_learnt_from_first_tokens_only() -> None:
    world = Door(P, D, max_sequences=1)
    error = world.dispatcher.admitting.gate.error
    world.submit("a")
    world.submit("b")
    world.dispatcher.cancel(RequestId("b"))
    assert len(error) == 0
    world.run("a")
    assert len(error) == 1


def batch_full_world() -> tuple[Door, list[Sink]]:
    """Two slots, both taken by batch requests that decode; the second has fewer tokens."""
    world = Door(P, D, max_sequences=2)
    sinks = []
    for name, count in (("b0", 6), ("b1", 3)):
        sinks.append(world.submit(name, priority=BATCH, max_tokens=100))
        world.run(name, num_tokens=count)
    return world, sinks


def test_batch_gives_its_slot_to_an_interactive_request_and_goes_on_later() -> None:
    world, sinks = batch_full_world()
    world.submit("i", priority=INTERACTIVE)
    assert [a.request_id for a in world.commands(Abort, D) if isinstance(a, Abort)] == ["b1"], "least to do again"
    assert world.tasks(ReserveDecode)[-1].request_id == "i"
    assert len(world.dispatcher.queue) == 1
    world.run("i", num_tokens=2, end=True)
    again = world.tasks(ReserveDecode)[-1]
    assert (again.request_id, again.attempt, again.emitted) == ("b1", 1, ((0, 1, 2),))
    assert sinks[1].ends == []
    world.report(P, events=(done("b1", 1),))
    world.report(D, events=(handed("b1", 1),), tokens=(token(3, "b1", attempt=1, finish=FinishReason.STOP),))
    assert sinks[1].tokens == [0, 1, 2, 3], "no token twice, none missing"
    assert sinks[1].ends[0].outcome is Outcome.OK


def test_nobody_yields_twice_and_nobody_to_standard() -> None:
    world, _ = batch_full_world()
    world.submit("s", priority=STANDARD)
    assert world.commands(Abort, D) == []
    world.dispatcher.cancel(RequestId("s"))
    num_before = len(world.commands(Abort, D))
    world.submit("i", priority=INTERACTIVE)
    world.run("i", num_tokens=2, end=True)
    world.report(P, events=(done("b1", 1),))
    world.report(D, events=(handed("b1", 1),), tokens=(token(3, "b1", attempt=1),))
    world.clock.time_s += 1.0
    world.submit("i2", priority=INTERACTIVE)
    world.clock.time_s += 1.0
    world.submit("i3", priority=INTERACTIVE)
    world.dispatcher.step()
    aborted = [a.request_id for a in world.commands(Abort, D) if isinstance(a, Abort)][num_before:]
    assert [name for name in aborted if name.startswith("b")] == ["b1", "b0"]
    assert len(world.dispatcher.queue) == 2, "b0 and i3 wait"


def test_what_a_tenant_got_too_little_of_for_its_charge_is_settled() -> None:
    world = Door(P, D, max_sequences=1)
    world.submit("a", tenant="a", prompt=10, max_tokens=500)
    charged = world.dispatcher.queue._counters[Tenant("a")]
    world.run("a", num_tokens=5, end=True)
    assert charged == pytest.approx(10 + 2 * 500)
    assert world.dispatcher.queue._counters[Tenant("a")] == pytest.approx(10 + 2 * 5)


@pytest.mark.parametrize("priority", [STANDARD, INTERACTIVE])
def test_only_batch_yields(priority: PriorityClass) -> None:
    world = Door(P, D, max_sequences=1)
    world.submit("r", priority=priority)
    world.run("r", num_tokens=3)
    world.submit("i", priority=INTERACTIVE)
    assert world.commands(Abort) == []


def test_yielding_can_be_switched_off() -> None:
    world = Door(P, D, max_sequences=1, admission=AdmissionPolicy(yields=False))
    world.submit("b", priority=BATCH)
    world.run("b", num_tokens=3)
    world.submit("i", priority=INTERACTIVE)
    assert world.commands(Abort) == []


def test_in_a_brown_out_batch_answers_are_capped() -> None:
    world = Door(P, D, max_sequences=2, admission=AdmissionPolicy(batch_max_tokens=16))
    for index in range(4):
        world.submit(f"s{index}")
    world.wait(20.0, alive=(P, D))
    world.submit("b", priority=BATCH, max_tokens=500)
    assert world.dispatcher._lives[RequestId("b")].ledger.task.stop.max_tokens == 16


def test_a_pool_full_of_batch_work_is_no_brown_out() -> None:
    world = Door(P, D, max_sequences=2)
    for index in range(6):
        world.submit(f"b{index}", priority=BATCH)
    world.wait(20.0, alive=(P, D))
    assert world.dispatcher.admitting.gate.load.level < 0.01
    assert world.dispatcher.admitting.gate.load.step is BrownOut.NONE


endings = st.lists(
    st.tuples(
        st.sampled_from(["ok", "cancel", "deadline", "fail", "lose-p", "lose-d", "give-up", "yield"]),
        st.sampled_from(list(PriorityClass)),
        st.sampled_from(["queued", "sent", "computed", "decoding"]),
    ),
    min_size=1,
    max_size=8,
)


@given(steps=endings, seed=st.integers(0, 99))
def test_a_reservation_ends_with_its_attempt_in_every_ending(
    steps: list[tuple[str, PriorityClass, str]], seed: int
) -> None:
    """Slots, blocks and prompt work of every worker, what waits, and the tenants' backlog are all zero again."""
    dice = random.Random(seed)
    world = Door(P, P2, D, D2, max_sequences=2)
    for index, (ending, priority, stage) in enumerate(steps):
        name = f"r{index}"
        world.submit(name, priority=priority, deadline_in_s=5.0 if ending == "deadline" else None, max_tokens=50)
        live = world.dispatcher._lives[RequestId(name)]
        if live.placement is not None and stage != "queued" and live.placement.prefill is not None:
            prefill, decode = live.placement.prefill, live.placement.decode
            if stage in ("computed", "decoding"):
                world.report(prefill, events=(done(name),), tokens=(token(0, name),))
            if stage == "decoding":
                world.report(decode, events=(handed(name),), tokens=(token(1, name),))
            if ending == "fail":
                world.report(dice.choice((prefill, decode)), events=(failed(reasons.ENGINE, name),))
            if ending == "lose-p":
                world.dispatcher.on_lost(prefill)
                world.dispatcher.on_attached(prefill)
            if ending == "lose-d":
                world.dispatcher.on_lost(decode)
                world.dispatcher.on_attached(decode)
        if ending == "yield" and live.entry.priority is BATCH:
            world.clock.time_s += 1.0
            world.submit(f"{name}-i", priority=INTERACTIVE)
        if ending == "cancel":
            world.dispatcher.cancel(RequestId(name))
    world.wait(6.0, alive=(P, P2, D, D2))
    for name in list(world.dispatcher._lives):
        world.dispatcher.cancel(name)
    world.assert_empty()
    assert world.dispatcher.queue.waiting().cost_tokens == 0.0
    pools = world.dispatcher.admitting.pools(1)
    assert (pools.free_slots, pools.queued_prefill_s) == (pools.total_slots, 0.0)


def test_the_newcomers_of_a_flooded_router_are_not_the_floods() -> None:
    """One tenant's flood fills its own bound; another tenant's request goes next."""
    world = Door(P, D, max_sequences=1, admission=AdmissionPolicy(ttft_slo_s={STANDARD: 2.0}))
    reasons_seen = []
    for index in range(500):
        try:
            world.submit(f"f{index}", tenant="flood")
        except Overloaded as error:
            reasons_seen.append(error.reason)
    assert set(reasons_seen) == {"SLO_UNREACHABLE"}
    assert len(reasons_seen) > 400
    world.submit("v", tenant="victim")
    world.report(
        D, tokens=(token(0, "f0", finish=FinishReason.STOP),), load=WorkerLoad(free_blocks=1000, total_blocks=1000)
    )
    assert world.tasks(StartPrefill)[-1].request_id in ("v", "f1")
    assert isinstance(world.dispatcher.queue, CentralQueue)
