"""The outbox: who gets what, in order, and until when."""

from tandem.core.blocks import AttemptKey
from tandem.core.ids import Epoch, RequestId
from tandem.core.messages import AttemptFailed, AttemptReleased, Granted, StepReport, WorkerMessage
from tandem.core.types import TokenDelta, WorkerLoad
from tandem.worker_host.outbox import Outbox

LOAD = WorkerLoad(free_blocks=3)


def _key(name: str, attempt: int = 0) -> AttemptKey:
    return AttemptKey(request_id=RequestId(name), attempt=attempt)


def _delta(name: str, position: int) -> TokenDelta:
    return TokenDelta(
        request_id=RequestId(name), attempt=0, child=0, position=position, token_ids=(position,), text="x"
    )


def _granted(name: str) -> Granted:
    return Granted(request_id=RequestId(name), attempt=0, grant=b"g")


class _Router:
    def __init__(self, outbox: Outbox, name: str) -> None:
        self.reports: list[StepReport] = []
        outbox.open_session(name, self._take)

    def _take(self, message: WorkerMessage) -> None:
        assert isinstance(message, StepReport)
        self.reports.append(message)


def test_each_router_gets_its_own_requests_only() -> None:
    outbox = Outbox(Epoch(7))
    first, second = _Router(outbox, "a"), _Router(outbox, "b")
    outbox.bind(_key("r1"), "a")
    outbox.bind(_key("r2"), "b")
    outbox.token(_delta("r1", 0))
    outbox.token(_delta("r2", 0))
    outbox.event(_granted("r2"))
    assert outbox.flush(LOAD) == 2
    assert [t.request_id for t in first.reports[0].tokens] == ["r1"]
    assert [e.request_id for e in second.reports[0].events] == ["r2"]
    assert first.reports[0].load == LOAD
    assert first.reports[0].worker_epoch == 7


def test_reports_are_numbered_and_silence_sends_nothing() -> None:
    outbox = Outbox(Epoch(1))
    router = _Router(outbox, "a")
    outbox.bind(_key("r"), "a")
    for position in range(3):
        outbox.token(_delta("r", position))
        assert outbox.flush(LOAD) == 1
        assert outbox.flush(LOAD) == 0
    assert [r.sequence for r in router.reports] == [1, 2, 3]
    assert [t.position for r in router.reports for t in r.tokens] == [0, 1, 2]


def test_an_attempt_is_bound_once() -> None:
    outbox = Outbox(Epoch(1))
    _Router(outbox, "a")
    _Router(outbox, "b")
    assert outbox.bind(_key("r"), "a")
    assert not outbox.bind(_key("r"), "a")
    assert not outbox.bind(_key("r"), "b")
    assert outbox.bind(_key("r", attempt=1), "b")
    assert outbox.open_attempts() == (_key("r"), _key("r", attempt=1))


def test_a_router_that_is_gone_begins_nothing() -> None:
    outbox = Outbox(Epoch(1))
    _Router(outbox, "a")
    outbox.close_session("a")
    assert not outbox.bind(_key("r"), "a")
    assert outbox.num_attempts == 0


def test_nothing_follows_a_terminal_event() -> None:
    outbox = Outbox(Epoch(1))
    router = _Router(outbox, "a")
    outbox.bind(_key("r"), "a")
    outbox.token(_delta("r", 0))
    outbox.event(AttemptReleased(request_id=RequestId("r"), attempt=0))
    outbox.token(_delta("r", 1))
    outbox.event(AttemptReleased(request_id=RequestId("r"), attempt=0))
    outbox.flush(LOAD)
    assert len(router.reports[0].tokens) == 1
    assert len(router.reports[0].events) == 1
    assert outbox.num_attempts == 0


def test_a_childs_failure_does_not_end_the_attempt() -> None:
    outbox = Outbox(Epoch(1))
    _Router(outbox, "a")
    outbox.bind(_key("r"), "a")
    failed = AttemptFailed(
        request_id=RequestId("r"), attempt=0, reason="NUMERICS", message="", retryable=False, child=1
    )
    outbox.event(failed)
    assert outbox.knows(_key("r"))


def test_closing_a_session_names_its_orphans() -> None:
    outbox = Outbox(Epoch(1))
    router, other = _Router(outbox, "a"), _Router(outbox, "b")
    for name, session in (("r1", "a"), ("r2", "b"), ("r3", "a")):
        outbox.bind(_key(name), session)
    assert outbox.close_session("a") == [_key("r1"), _key("r3")]
    outbox.token(_delta("r1", 0))
    outbox.token(_delta("r2", 0))
    assert outbox.flush(LOAD) == 1
    assert router.reports == []
    assert len(other.reports) == 1
    assert outbox.close_session("a") == []


def test_what_belongs_to_no_router_is_dropped() -> None:
    outbox = Outbox(Epoch(1))
    router = _Router(outbox, "a")
    outbox.token(_delta("unknown", 0))
    outbox.event(_granted("unknown"))
    assert outbox.flush(LOAD) == 0
    assert router.reports == []
