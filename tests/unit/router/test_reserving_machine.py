"""Shared reservations under any order of events: nobody is lost or placed twice, every reservation is released once."""

import contextlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tandem.core import reasons
from tandem.core.errors import Overloaded
from tandem.core.ids import RequestId
from tandem.core.latency import LatencyCoefficients
from tandem.core.messages import StartPrefill
from tandem.core.traffic import Guidance
from tandem.core.types import FinishReason, PriorityClass
from tandem.router.actions import WorkerKey
from tandem.router.attempt import Stage
from tandem.router.live import DispatcherPolicy
from tandem.router.placement import PlacementMode, PlacementPolicy
from tests.fakes.reserver import FakeReserver
from tests.unit.router.builders import D2, P2, D, P, key
from tests.unit.router.world import Sink, World, done, failed, handed, token

P3 = key("prefill-2")
WORKERS = (P, P2, P3, D, D2)


class ReservingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.reserver = FakeReserver()
        self.world = World(
            *WORKERS,
            max_sequences=2,
            policy=DispatcherPolicy(placement=PlacementPolicy(mode=PlacementMode.SPLIT, look_ahead_s=0.25)),
            reserver=self.reserver,
        )
        for record in self.world.dispatcher.fleet.records():
            record.profile(LatencyCoefficients(prefill=(0.1, 0.0, 0.0), step=(0.02, 0.0, 0.0), transfer=(0.0, 0.0)))
        self.dispatcher = self.world.dispatcher
        self.sinks: dict[str, Sink] = {}
        self.num_submitted = 0
        self.lost: set[WorkerKey] = set()

    @initialize()
    def two_routers(self) -> None:
        self.guided(2)

    @rule(num_routers=st.sampled_from((1, 2, 2, 2)))
    def guided(self, num_routers: int) -> None:
        guidance = Guidance(term=1, borrow_share=0.0, ttl_s=1.0, num_routers=num_routers)
        self.dispatcher.admitting.follow(guidance, self.world.clock.now_s())

    @rule(
        tenant=st.sampled_from("ab"),
        priority=st.sampled_from(tuple(PriorityClass)),
        deadline_in_s=st.none() | st.sampled_from((0.02, 0.5)),
    )
    def submit(self, tenant: str, priority: PriorityClass, deadline_in_s: float | None) -> None:
        self.num_submitted += 1
        name = f"r{self.num_submitted}"
        sink = Sink()
        with contextlib.suppress(Overloaded):  # refused at the door
            self.world.submit(
                name, sink=sink, tenant=tenant, priority=priority, deadline_in_s=deadline_in_s, max_tokens=2
            )
            self.sinks[name] = sink

    @precondition(lambda self: self.dispatcher.num_live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.dispatcher.cancel(data.draw(st.sampled_from(sorted(self.dispatcher._lives))))

    @precondition(lambda self: self.reserver.asked)
    @rule(data=st.data(), how=st.sampled_from(("book", "any", "miss")))
    def answer(self, data: st.DataObject, how: str) -> None:
        index = data.draw(st.integers(0, len(self.reserver.asked) - 1))
        if how == "miss":
            self.reserver.miss(index=index)
            return
        candidates = [one.worker for one in self.reserver.asked[index].candidates]
        self.reserver.answer(data.draw(st.sampled_from(candidates)) if how == "any" else None, index=index)

    @rule(seconds=st.sampled_from((0.01, 0.03, 0.3)))
    def time_passes(self, seconds: float) -> None:
        self.world.wait(seconds, alive=tuple(worker for worker in WORKERS if worker not in self.lost))

    @rule(data=st.data(), what=st.sampled_from(("prefilled", "ended", "failed")))
    def report(self, data: st.DataObject, what: str) -> None:
        running = [live for live in self.dispatcher._lives.values() if live.ledger.attempt is not None]
        if not running:
            return
        live = data.draw(st.sampled_from(running))
        attempt = live.ledger.attempt
        assert attempt is not None
        assert attempt.prefill is not None
        name, number = live.entry.request_id, attempt.number
        if what == "failed":
            self.world.report(attempt.prefill, events=(failed(reasons.ENGINE, name, number),))
            return
        self.world.report(attempt.prefill, events=(done(name, number),), tokens=(token(0, name, attempt=number),))
        if what == "ended" and live.ledger.attempt is attempt:
            self.world.report(attempt.decode, events=(handed(name, number),))
            self.world.report(attempt.decode, tokens=(token(1, name, attempt=number, finish=FinishReason.STOP),))

    @rule(worker=st.sampled_from(WORKERS))
    def stream_breaks(self, worker: WorkerKey) -> None:
        self.lost.add(worker)
        self.dispatcher.on_lost(worker)

    @precondition(lambda self: self.lost)
    @rule(data=st.data())
    def stream_stands_again(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.lost, key=lambda one: one.worker_id)))
        self.lost.discard(worker)
        self.dispatcher.on_attached(worker)

    @invariant()
    def everybody_is_in_one_place(self) -> None:
        waiting = self.dispatcher.reserving._asked
        for name, live in self.dispatcher._lives.items():
            places = [name in waiting, name in self.dispatcher.queue, live.ledger.attempt is not None]
            assert sum(places) <= 1, (name, places)
            if live.ledger.task.attempt == 0:
                assert sum(places) == 1, (name, places)
            if name in waiting:
                assert live.ledger.stage is Stage.ADMITTED
        assert waiting.keys() <= self.dispatcher._lives.keys()

    @invariant()
    def what_is_reserved_is_held_or_asked_for(self) -> None:
        """Every reservation has a request that runs, with its prompt still to be computed."""
        held = {(one.ticket, one.worker) for one in self.dispatcher.reserving._held.values()}
        assert {(name[1], w) for w, loads in self.reserver.book.loads.items() for name in loads} == held
        for ticket, worker in held:
            attempt = self.dispatcher._lives[ticket.request_id].ledger.attempt
            assert attempt is not None
            assert attempt.prefill == worker
            assert not attempt.prompt_computed

    @invariant()
    def nobody_ends_twice_or_runs_after_the_end(self) -> None:
        for name, sink in self.sinks.items():
            assert len(sink.ends) == (name not in self.dispatcher._lives)

    @invariant()
    def what_is_ahead_is_what_is_asked_for(self) -> None:
        reserving = self.dispatcher.reserving
        owed: dict[WorkerKey, float] = {}
        for asked in reserving._asked.values():
            owed[asked.own] = owed.get(asked.own, 0.0) + asked.load_s
        assert reserving.ahead_s == pytest.approx(owed)

    def teardown(self) -> None:
        """Whatever happened, all of them end, late answers included, and nothing stays."""
        for worker in sorted(self.lost, key=lambda one: one.worker_id):
            self.dispatcher.on_attached(worker)
        self.lost.clear()
        for name in list(self.dispatcher._lives):
            self.dispatcher.cancel(RequestId(name))
        while self.reserver.asked:
            self.reserver.answer()
        self.world.assert_empty()
        assert self.reserver.book.num_reservations == 0
        begun = [(task.request_id, task.attempt) for task in self.world.tasks(StartPrefill)]
        assert len(set(begun)) == len(begun)


TestReserving = ReservingMachine.TestCase
TestReserving.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
