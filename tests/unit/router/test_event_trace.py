"""What the router tells the event log, judged by the checker itself; and a router that errs is found out."""

import pytest

from tandem.chaos.trace import Checker, Report
from tandem.core import reasons
from tandem.core.errors import Unavailable
from tandem.core.event_log.events import (
    Dispatched,
    Event,
    LogClosed,
    RequestAccepted,
    RequestEnded,
    Requeued,
    TokensForwarded,
    UsageRecorded,
    WorkerJudged,
)
from tandem.core.event_log.record import ProcessLife
from tandem.core.ids import RequestId
from tandem.core.types import FinishReason
from tandem.router.dispatcher import Dispatcher
from tandem.router.positions import ChildStream
from tests.unit.router.builders import D2, P2, D, P, make_delta
from tests.unit.router.world import Sink, World, done, handed, token


class Recorded(list[Event]):
    """An event log in memory."""

    def record(self, event: Event) -> None:
        self.append(event)

    def judge(self) -> Report:
        checker = Checker(check_serving=False)
        for event in [*self, LogClosed()]:
            checker.feed(ProcessLife("router-0", 1), event)
        return checker.finish()


def _serve(world: World, name: str = "r", *, attempt: int = 0, first: int = 0, last: int = 3) -> None:
    """Play an attempt of which P gives the first token and D the rest."""
    prefill = next(w for w, c in world.sent if w.worker_id.startswith("prefill") and _is_of(c, name, attempt))
    decode = next(w for w, c in world.sent if w.worker_id.startswith("decode") and _is_of(c, name, attempt))
    world.report(prefill, events=(done(name, attempt),), tokens=(token(first, name, attempt=attempt),))
    world.report(decode, events=(handed(name, attempt),))
    for position in range(first + 1, last + 1):
        finish = FinishReason.LENGTH if position == last else None
        world.report(decode, tokens=(token(position, name, attempt=attempt, finish=finish),))


def _is_of(command: object, name: str, attempt: int) -> bool:
    task = getattr(command, "task", None)
    return task is not None and (task.request_id, task.attempt) == (name, attempt)


def test_a_whole_request() -> None:
    log = Recorded()
    world = World(P, D, event_log=log)
    assert log == [
        WorkerJudged(worker="prefill-0", worker_epoch=1, health="alive"),
        WorkerJudged(worker="decode-0", worker_epoch=1, health="alive"),
    ]
    log.clear()
    sink = world.submit()
    _serve(world)
    assert sink.tokens == [0, 1, 2, 3]
    assert log == [
        RequestAccepted(request="r", num_sequences=1),
        Dispatched(request="r", attempt=0, prefill="prefill-0", prefill_epoch=1, decode="decode-0", decode_epoch=1),
        *(TokensForwarded(request="r", child=0, position=position, count=1) for position in range(4)),
        UsageRecorded(request="r", num_prompt_tokens=10, num_output_tokens=4),
        RequestEnded(request="r", outcome="ok", reason="", num_output_tokens=4),
    ]
    assert log.judge().violations == []


def test_a_lost_worker_cancels_overflows_and_a_drain() -> None:
    log = Recorded()
    world = World(P, P2, D, D2, event_log=log)
    world.submit("moved")
    _, decode = world.sent[0][0], world.sent[1][0]
    world.report(world.sent[0][0], events=(done("moved"),), tokens=(token(0, "moved"),))
    world.report(decode, events=(handed("moved"),), tokens=(token(1, "moved"),))
    world.dispatcher.on_lost(decode)
    _serve(world, "moved", attempt=1, first=2, last=4)
    world.submit("cancelled")
    world.dispatcher.cancel(RequestId("cancelled"))
    world.submit("slow", sink=Sink(room=1))
    _serve(world, "slow", last=6)
    world.submit("late", deadline_in_s=0.5)
    world.wait(1.0, alive=(P, P2))
    world.submit("last")
    world.dispatcher.fail_all(Unavailable("over", reason=reasons.DRAINING))
    report = log.judge()
    assert [str(violation) for violation in report.violations] == []
    assert report.num_checks["I4"] == 2 * 5
    requeued = [event for event in log if isinstance(event, Requeued)]
    assert [(event.request, event.attempt) for event in requeued] == [("moved", 1)]
    outcomes = {event.request: event.outcome for event in log if isinstance(event, RequestEnded)}
    assert outcomes == {
        "moved": "ok",
        "cancelled": "cancelled",
        "slow": "cancelled",
        "late": "deadline",
        "last": "failed",
    }
    health = [event.health for event in log if isinstance(event, WorkerJudged) and event.worker == decode.worker_id]
    assert health[:2] == ["alive", "suspect"]


def test_a_silent_worker_is_judged() -> None:
    log = Recorded()
    world = World(P, D, event_log=log)
    world.wait(20.0, alive=(P,))
    judged = [event.health for event in log if isinstance(event, WorkerJudged) and event.worker == "decode-0"]
    assert judged == ["alive", "suspect", "dead"]


def test_a_router_that_repeats_tokens_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Recorded()
    world = World(P, D, event_log=log)
    world.submit()

    def careless(self: ChildStream, delta: object, now_s: float) -> tuple[object, ...]:
        return (delta,)

    monkeypatch.setattr(ChildStream, "accept", careless)
    decode = world.sent[1][0]
    for position in (0, 1, 1, 3):
        world.report(decode, tokens=(make_delta(position, request_id=RequestId("r")),))
    world.dispatcher.cancel(RequestId("r"))
    problems = [v.problem for v in log.judge().violations if v.invariant == "I5"]
    assert len(problems) == 2
    assert "repeats: position 1" in problems[0]
    assert "jumps: position 3" in problems[1]


def test_a_router_that_ends_a_request_twice_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Recorded()
    world = World(P, D, event_log=log)
    world.submit()
    honest = Dispatcher._end

    def twice(self: Dispatcher, live: object, ended: object) -> None:
        honest(self, live, ended)  # type: ignore[arg-type]
        honest(self, live, ended)  # type: ignore[arg-type]

    monkeypatch.setattr(Dispatcher, "_end", twice)
    world.dispatcher.cancel(RequestId("r"))
    problems = sorted(v.problem for v in log.judge().violations)
    assert len(problems) == 2
    assert "ends twice" in problems[0]
    assert "recorded twice" in problems[1]
