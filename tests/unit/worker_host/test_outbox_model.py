"""The outbox against a list of who owns what: any order of routers, attempts, tokens, ends and flushes."""

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tandem.core.blocks import AttemptKey
from tandem.core.ids import Epoch, RequestId
from tandem.core.messages import AttemptFailed, AttemptReleased, Granted, RequestEvent, StepReport, WorkerMessage
from tandem.core.types import TokenDelta, WorkerLoad
from tandem.worker_host.outbox import Outbox

ROUTERS = st.sampled_from(["a", "b", "c"])
KEYS = st.builds(AttemptKey, st.sampled_from([RequestId("r"), RequestId("s")]), st.integers(0, 2))


def _event(key: AttemptKey, kind: str) -> RequestEvent:
    if kind == "granted":
        return Granted(request_id=key.request_id, attempt=key.attempt, grant=b"")
    if kind == "released":
        return AttemptReleased(request_id=key.request_id, attempt=key.attempt)
    return AttemptFailed(
        request_id=key.request_id,
        attempt=key.attempt,
        reason="X",
        message="",
        retryable=False,
        child=0 if kind == "child failed" else None,
    )


class OutboxMachine(RuleBasedStateMachine):
    """Every rule does the same to the outbox and to three plain dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(Epoch(9))
        self.owner: dict[AttemptKey, str] = {}
        self.waiting: dict[str, list[TokenDelta | RequestEvent]] = {}  # what must come with the next report
        self.received: dict[str, list[StepReport]] = {}
        self.num_reports: dict[str, int] = {}
        self.num_said = 0

    @rule(router=ROUTERS)
    def a_router_attaches(self, router: str) -> None:
        if router not in self.waiting:
            self.waiting[router], self.received[router], self.num_reports[router] = [], [], 0
            self.outbox.open_session(router, self._reader(router))

    def _reader(self, router: str) -> Callable[[WorkerMessage], None]:
        def read(message: WorkerMessage) -> None:
            assert isinstance(message, StepReport)
            assert router in self.waiting, "a report for a router that is gone"
            self.received[router].append(message)

        return read

    @rule(router=ROUTERS)
    def a_router_goes(self, router: str) -> None:
        self.waiting.pop(router, None)
        orphans = [key for key, owner in self.owner.items() if owner == router]
        assert sorted(self.outbox.close_session(router)) == sorted(orphans)
        for key in orphans:
            del self.owner[key]

    @rule(router=ROUTERS, key=KEYS)
    def an_attempt_begins(self, router: str, key: AttemptKey) -> None:
        if router not in self.waiting:
            return
        assert self.outbox.bind(key, router) == (key not in self.owner)
        self.owner.setdefault(key, router)

    @rule(key=KEYS)
    def a_token(self, key: AttemptKey) -> None:
        self.num_said += 1
        delta = TokenDelta(
            request_id=key.request_id,
            attempt=key.attempt,
            child=0,
            position=self.num_said,
            token_ids=(1,),
            text="",
        )
        self.outbox.token(delta)
        if key in self.owner:
            self.waiting[self.owner[key]].append(delta)

    @rule(key=KEYS, kind=st.sampled_from(["granted", "child failed", "failed", "released"]))
    def an_event(self, key: AttemptKey, kind: str) -> None:
        event = _event(key, kind)
        self.outbox.event(event)
        if key in self.owner:
            self.waiting[self.owner[key]].append(event)
            if kind in ("failed", "released"):
                del self.owner[key]

    @rule()
    def flush(self) -> None:
        load = WorkerLoad(num_running=self.num_said)
        news = {router: said for router, said in self.waiting.items() if said}
        assert self.outbox.flush(load) == len(news)
        for router, said in news.items():
            (report,) = self.received[router]
            self.received[router].clear()
            self.num_reports[router] += 1
            assert (report.worker_epoch, report.sequence, report.load) == (9, self.num_reports[router], load)
            assert list(report.tokens) == [one for one in said if isinstance(one, TokenDelta)]
            assert list(report.events) == [one for one in said if not isinstance(one, TokenDelta)]
            said.clear()

    @invariant()
    def it_knows_who_is_open(self) -> None:
        assert self.outbox.num_attempts == len(self.owner)
        assert all(self.outbox.knows(key) for key in self.owner)
        assert not any(self.received[router] for router in self.waiting)


OutboxMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestOutbox = OutboxMachine.TestCase
