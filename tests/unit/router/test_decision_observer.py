"""What the dispatcher decides is in the log: with the reason, the numbers behind it, and nothing of the prompt."""

import msgspec
import pytest

from tandem.core import reasons
from tandem.core.clock import Clock
from tandem.core.cluster import PairState
from tandem.core.decisions import (
    Admission,
    Decision,
    DecisionFilter,
    Finished,
    HandoverFailed,
    Placed,
    Recovery,
    Waiting,
    WorkerJudged,
)
from tandem.core.errors import InvalidArgument, TandemError
from tandem.core.ids import RequestId, Tenant
from tandem.core.types import FinishReason, PriorityClass
from tandem.core.watching import ClusterSample
from tandem.router.decisions.log import DecisionLog
from tandem.router.decisions.observer import DecisionObserver
from tandem.router.decisions.refused import note_refusal
from tandem.router.health import Health
from tandem.router.live import DispatcherPolicy
from tandem.router.observer import SilentObserver
from tandem.router.samples import Levels, Samples
from tandem.router.sharing import SharingMode, SharingPolicy
from tandem.rpc.context import CallContext
from tests.fakes.reserver import FakeReserver
from tests.unit.router.builders import D2, P2, D, P, SteppedClock
from tests.unit.router.world import World, done, failed, handed, token


class Watched(World):
    """A world whose decisions are kept."""

    def __init__(self, *workers: object, promised_s: float = 10.0, **options: object) -> None:
        self.log = DecisionLog("router-0", clock=SteppedClock(), unix_s=lambda: 0.0)
        clock: Clock = SteppedClock()
        promised = {PriorityClass.STANDARD: promised_s}
        self.samples = Samples(SilentObserver(), clock=clock, offset_s=0.0, promised_s=promised)
        super().__init__(*workers, observer=DecisionObserver(self.samples, self.log), **options)  # type: ignore[arg-type]

    def life(self, name: str = "r") -> list[Decision]:
        return list(self.log.of_request(name).decisions)

    def sample(self) -> ClusterSample:
        levels = Levels(num_prefill=1, num_decode=2, num_running=0, queued={}, output_tokens=0)
        self.samples.take(levels, 2.0)
        return self.samples.after(-1.0)[-1]


def test_a_request_on_a_pair() -> None:
    world = Watched(P, P2, D, D2)
    world.submit(prompt=4, tenant="acme-corporation")
    placed = world.life()[-1].detail
    assert isinstance(placed, Placed)
    prefill = next(key for key in (P, P2) if key.worker_id == placed.prefill)
    decode = next(key for key in (D, D2) if key.worker_id == placed.decode)
    world.report(prefill, events=(done(),), tokens=(token(0),))
    world.report(decode, events=(handed(),), tokens=(token(1, finish=FinishReason.LENGTH),))
    kinds = [decision.kind for decision in world.life()]
    assert kinds == ["admission", "placement", "end"]
    admission, _, end = (decision.detail for decision in world.life())
    assert isinstance(admission, Admission)
    assert (admission.taken, admission.cause) == (True, "room")
    assert (placed.cause, placed.attempt, placed.prompt_tokens) == ("pair", 0, 4)
    assert {one.worker for one in placed.prefills} == {P.worker_id, P2.worker_id}
    assert {one.worker for one in placed.decodes} == {D.worker_id, D2.worker_id}
    chosen = next(one for one in placed.prefills if one.worker == placed.prefill)
    assert chosen.queued_s + chosen.compute_s == pytest.approx(placed.predicted_ttft_s)
    assert all(one.local_s > 0.0 for one in placed.decodes)
    assert isinstance(end, Finished)
    assert (end.outcome, end.output_tokens, end.num_attempts) == ("ok", 2, 1)
    assert end.predicted_prefill_s == placed.predicted_prefill_s
    told = msgspec.json.encode(world.life()).decode()
    assert "acme" not in told
    assert all(one.tenant_hash == world.log.pseudonyms.of("acme-corporation") for one in world.life())


def test_what_the_routers_agreed_on() -> None:
    reserver = FakeReserver()
    world = Watched(P, P2, D, reserver=reserver, policy=DispatcherPolicy(sharing=SharingPolicy(mode=SharingMode.ON)))
    world.submit()
    own = reserver.asked[0].candidates[0].worker
    assert [decision.kind for decision in world.life()] == ["admission"], "nothing is decided yet"
    world.clock.time_s += 0.004
    agreed = reserver.answer(P2 if own == P else P)
    placed = world.life()[-1].detail
    assert isinstance(placed, Placed)
    assert (placed.prefill, placed.own_prefill) == (agreed.worker_id, own.worker_id)
    assert placed.asked_s == pytest.approx(0.004)
    assert {one.worker for one in placed.prefills} == {"prefill-0", "prefill-1"}, "both were weighed"
    assert f"{own.worker_id} is reserved for more work" in world.life()[-1].reason
    alone = Watched(P, P2, D)
    alone.submit()
    other = alone.life()[-1].detail
    assert isinstance(other, Placed)
    assert (other.own_prefill, other.asked_s) == ("", 0.0)


def test_a_lost_worker_and_what_follows() -> None:
    world = Watched(P, D, D2)
    world.submit()
    first = world.life()[-1].detail
    assert isinstance(first, Placed)
    decode = D if first.decode == D.worker_id else D2
    world.report(P, events=(done(),), tokens=(token(0),))
    world.report(decode, events=(handed(),), tokens=(token(1),))
    world.dispatcher.on_lost(decode)
    assert [decision.kind for decision in world.life()] == ["admission", "placement", "recovery", "placement"]
    recovery, again = world.life()[2], world.life()[3].detail
    assert isinstance(recovery.detail, Recovery)
    assert recovery.reason == "the answer goes on after the tokens that the caller has"
    detail = recovery.detail
    assert (detail.cause, detail.lost, detail.worker, detail.emitted_tokens) == (
        reasons.WORKER_LOST, True, decode.worker_id, 2,
    )  # fmt: skip
    assert isinstance(again, Placed)
    assert (again.attempt, again.avoided) == (1, (decode.worker_id,))


def test_a_failed_hand_over_keeps_the_kv_and_tells_of_the_pair() -> None:
    world = Watched(P, D, D2)
    world.submit()
    first = world.life()[-1].detail
    assert isinstance(first, Placed)
    decode = D if first.decode == D.worker_id else D2
    world.report(P, events=(done(),), tokens=(token(0),))
    world.report(decode, events=(failed(reasons.KV_TIMEOUT),))
    recovery = next(one.detail for one in world.life() if isinstance(one.detail, Recovery))
    assert (recovery.keeps_kv, recovery.avoid_pairs) == (True, (f"{P.worker_id} > {decode.worker_id}",))
    judged = [one.detail for one in world.log.page_after(0, DecisionFilter(kinds=("handover",))).decisions]
    assert judged == [
        HandoverFailed(
            prefill=P.worker_id, decode=decode.worker_id, cause=reasons.KV_TIMEOUT, state=PairState.FAILING.value
        )
    ]


def test_waiting_is_told_once_for_each_reason() -> None:
    world = Watched(P)  # nobody decodes
    world.submit()
    for _ in range(20):
        world.dispatcher.step()
    waits = [one for one in world.life() if isinstance(one.detail, Waiting)]
    assert [one.reason for one in waits] == ["no decode worker is alive"]


def test_what_is_believed_of_workers_and_who_was_refused() -> None:
    log = DecisionLog("router-0", clock=SteppedClock(), unix_s=lambda: 0.0)
    DecisionObserver(SilentObserver(), log).judged(D, Health.DEAD)
    call = CallContext(method="m", request_id=RequestId("q"), tenant=Tenant("acme"))
    error: TandemError = InvalidArgument("prompt", "says SECRET", remedy="be brief")
    note_refusal(log, call, PriorityClass.BATCH, error)
    note_refusal(log, call, PriorityClass.BATCH, error)
    first, second = log.page_after(0, DecisionFilter()).decisions
    assert first.detail == WorkerJudged(worker=D.worker_id, worker_epoch=D.epoch, health="dead")
    assert second.detail == Admission(taken=False, cause="invalid_argument")
    assert "SECRET" not in msgspec.json.encode(second).decode()


def test_samples_count_what_happened_between_them() -> None:
    world = Watched(P, D, promised_s=1e-9)
    world.submit("a")
    world.report(P, events=(done("a"),), tokens=(token(0, "a"),))
    world.report(D, events=(handed("a"),), tokens=(token(1, "a", finish=FinishReason.LENGTH),))
    world.submit("b")
    world.dispatcher.cancel(RequestId("b"))
    sample = world.sample()
    assert (sample.num_split + sample.num_local, sample.prompt_tokens > 0) == (2, True)
    (standard,) = sample.classes
    assert (standard.priority, standard.num_ok, standard.num_shed, standard.num_other) == ("standard", 1, 0, 0)
    assert standard.num_in_time is not None
    assert world.sample().classes == ()
