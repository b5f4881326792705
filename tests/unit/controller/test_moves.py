"""A controller's command of workers, and the way of one move."""

from dataclasses import replace

import pytest

from tandem.controller.deciding.values import AddWorkers, ExchangeWorker, RemoveWorkers, SwitchRoles
from tandem.controller.moves import command as commanding
from tandem.controller.moves.command import Command, claims, drain, heard, is_drained, lost, switch, undrain
from tandem.controller.moves.progress import Advanced, Progress, StopWorker, advance, progress_of
from tandem.controller.policy.pools import PoolPolicy
from tandem.core.ids import Epoch, WorkerId
from tandem.core.role_commands import CommandKind, RoleCommand, RoleGuard, RoleReport, obey
from tandem.core.types import Role

P0, P1, D0 = (WorkerId(name) for name in ("p0", "p1", "d0"))
ONE = Epoch(1)
UNDRAINING = PoolPolicy.model_validate({"maxReplicas": 4, "drain": {"timeout": "30s"}})
RECOVERING = PoolPolicy.model_validate({"maxReplicas": 4, "drain": {"timeout": "30s", "onTimeout": "Recover"}})


def report(worker_id: WorkerId, role: Role = Role.PREFILL, **changes: object) -> RoleReport:
    plain = RoleReport(worker_id=worker_id, epoch=ONE, term=3, sequence=0, role=role, draining=False, busy=False)
    return replace(plain, **changes)  # type: ignore[arg-type]


def claimed() -> Command:
    command = Command(term=3)
    for each in (report(P0), report(P1), report(D0, Role.DECODE)):
        command = heard(command, each)
    return command


def sent(worker_id: WorkerId, kind: CommandKind, sequence: int, role: Role | None = None) -> RoleCommand:
    return RoleCommand(kind=kind, worker_id=worker_id, epoch=ONE, term=3, sequence=sequence, role=role)


# --- the worker's guard -------------------------------------------------------------------------------------------

GUARD = RoleGuard(worker_id=P0, epoch=ONE, role=Role.PREFILL, term=3, sequence=5)


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        (sent(P0, CommandKind.DRAIN, 5), "command 5 came after 5"),
        (sent(P0, CommandKind.DRAIN, 4), "command 4 came after 5"),
        (replace(sent(P0, CommandKind.DRAIN, 9), term=2), "term 2 is over; term 3 is obeyed"),
        (replace(sent(P0, CommandKind.CLAIM, 0), term=2), "term 2 is over; term 3 is obeyed"),
        (replace(sent(P0, CommandKind.DRAIN, 9), term=4), "term 4 has not claimed this worker"),
        (replace(sent(P0, CommandKind.DRAIN, 9), epoch=Epoch(2)), "meant for another life (epoch 2)"),
        (sent(P1, CommandKind.DRAIN, 9), "meant for another life (epoch 1)"),
    ],
)
def test_what_a_worker_does_not_obey_changes_nothing(command: RoleCommand, refusal: str) -> None:
    assert obey(GUARD, command, busy=False).refusal == refusal
    assert obey(GUARD, command, busy=False).guard == GUARD


def test_a_worker_drains_switches_and_takes_work_again() -> None:
    drained = obey(GUARD, sent(P0, CommandKind.DRAIN, 6), busy=True)
    assert (drained.refusal, drained.guard.draining, drained.guard.role) == ("", True, Role.PREFILL)
    early = obey(drained.guard, sent(P0, CommandKind.SWITCH, 7, Role.DECODE), busy=True)
    assert (early.refusal, early.guard.role, early.guard.sequence) == ("not drained", Role.PREFILL, 7)
    switched = obey(early.guard, sent(P0, CommandKind.SWITCH, 8, Role.DECODE), busy=False).guard
    assert (switched.role, switched.draining) == (Role.DECODE, False)
    assert obey(GUARD, sent(P0, CommandKind.SWITCH, 6, Role.DECODE), busy=False).refusal == "not drained"
    undrained = obey(drained.guard, sent(P0, CommandKind.UNDRAIN, 7), busy=True).guard
    assert (undrained.role, undrained.draining) == (Role.PREFILL, False)


def test_a_claim_raises_the_term_and_a_repeated_one_forgets_no_sequence() -> None:
    higher = obey(GUARD, replace(sent(P0, CommandKind.CLAIM, 0), term=4), busy=False).guard
    assert (higher.term, higher.sequence) == (4, 0)
    assert obey(GUARD, sent(P0, CommandKind.CLAIM, 0), busy=False).guard == GUARD
    assert GUARD.report(busy=True) == report(P0, sequence=5, busy=True)


# --- the controller's side ----------------------------------------------------------------------------------------


def test_only_what_is_not_claimed_is_claimed() -> None:
    command = claimed()
    everyone = [(P0, ONE), (P1, Epoch(2)), (WorkerId("new"), ONE)]
    assert [(each.worker_id, each.epoch) for each in claims(command, everyone)] == everyone[1:]
    assert claims(replace(command, deposed=True), everyone) == ()


def test_a_higher_term_deposes_for_good() -> None:
    deposed = heard(claimed(), report(P0, term=4))
    assert deposed.deposed
    assert drain(deposed, P0).refusal == "another controller rules"
    assert drain(deposed, P0).send is None
    assert undrain(deposed, P0).send is None


def test_reports_from_before_the_claim_or_overtaken_ones_are_dropped() -> None:
    command = claimed()
    assert heard(command, report(P0, term=2, draining=True)) == command
    newer = heard(command, report(P0, sequence=4, busy=True))
    assert heard(newer, report(P0, sequence=3, draining=True)) == newer


def test_the_last_that_surely_serves_is_not_drained() -> None:
    command = claimed()
    assert drain(command, D0).refusal == "d0 is the last decode worker that surely serves"
    first = drain(command, P0)
    assert first.send == sent(P0, CommandKind.DRAIN, 1)
    assert drain(first.command, P1).refusal == "p1 is the last prefill worker that surely serves"
    assert drain(first.command, P0).refusal == "p0 does not serve"
    back = undrain(first.command, P0)
    assert back.send == sent(P0, CommandKind.UNDRAIN, 2)
    assert drain(back.command, P1).refusal, "undrained counts only once it has said so"
    answered = heard(back.command, report(P0, sequence=2))
    assert drain(answered, P1).send == sent(P1, CommandKind.DRAIN, 3)
    assert drain(lost(command, P1), P0).refusal
    assert drain(command, WorkerId("x")).refusal == "x is not claimed"


def test_a_switch_waits_for_the_workers_own_word() -> None:
    command = drain(claimed(), P0).command
    for late in (command, heard(command, report(P0, sequence=1, draining=True, busy=True))):
        assert switch(late, P0, Role.DECODE).refusal == "p0 has not said that it is drained"
    drained = heard(command, report(P0, sequence=1, draining=True))
    assert is_drained(drained, P0)
    assert commanding.left_draining(drained) == (P0,)
    assert switch(drained, P0, Role.DECODE).send == sent(P0, CommandKind.SWITCH, 2, Role.DECODE)


# --- a move's way -------------------------------------------------------------------------------------------------


def answered(step: Advanced, *, busy: bool = False) -> Command:
    """The worker obeys at once and says so."""
    assert step.send is not None
    known = step.command.workers[step.send.worker_id].report
    guard = RoleGuard(
        worker_id=known.worker_id, epoch=ONE, role=known.role, draining=known.draining, term=3,
        sequence=known.sequence,
    )  # fmt: skip
    return heard(step.command, obey(guard, step.send, busy=busy).guard.report(busy=busy))


def test_a_switch_goes_worker_by_worker() -> None:
    command = heard(claimed(), report(WorkerId("p2")))
    progress = progress_of(SwitchRoles(workers=(P0, P1), to=Role.DECODE))
    kinds, at = [], 0.0
    while not progress.is_over:
        step = advance(command, progress, UNDRAINING, at)
        command, progress, at = step.command, step.progress, at + 1.0
        if step.send is not None:
            kinds.append((step.send.worker_id, step.send.kind))
            command = answered(step)
        assert at < 20
    assert kinds == [
        (P0, CommandKind.DRAIN), (P0, CommandKind.SWITCH), (P1, CommandKind.DRAIN), (P1, CommandKind.SWITCH),
    ]  # fmt: skip
    assert (progress.done, progress.problem) == ((P0, P1), "")
    assert command.num_serving(Role.DECODE) == 3


def begun(pool: PoolPolicy, progress: Progress, *, busy: bool) -> Advanced:
    step = advance(claimed(), progress, pool, 0.0)
    return replace(step, command=answered(step, busy=busy), send=None)


def test_a_removal_stops_the_drained_life_only() -> None:
    step = begun(UNDRAINING, progress_of(RemoveWorkers(workers=(P0,), role=Role.PREFILL)), busy=False)
    ended = advance(step.command, step.progress, UNDRAINING, 1.0)
    assert ended.stop == StopWorker(worker_id=P0, epoch=ONE)
    assert ended.progress.is_over
    assert advance(ended.command, ended.progress, UNDRAINING, 2.0).stop is None


def test_a_drain_that_takes_too_long_is_undone() -> None:
    progress = progress_of(SwitchRoles(workers=(P0,), to=Role.DECODE))
    step = begun(UNDRAINING, progress, busy=True)
    assert advance(step.command, step.progress, UNDRAINING, 29.0).send is None
    late = advance(step.command, step.progress, UNDRAINING, 30.0)
    assert late.send == sent(P0, CommandKind.UNDRAIN, 2)
    assert late.progress.problem == "p0 did not drain in 30 s"
    assert advance(late.command, late.progress, UNDRAINING, 31.0).send is None
    again = advance(late.command, late.progress, UNDRAINING, 33.0)
    assert again.send == sent(P0, CommandKind.UNDRAIN, 3), "the order or its answer was lost: again, newly numbered"
    over = advance(answered(again), again.progress, UNDRAINING, 34.0)
    assert over.progress.is_over
    assert over.progress.done == ()


def test_what_does_not_end_in_time_may_be_left_to_recovery() -> None:
    removal = begun(RECOVERING, progress_of(RemoveWorkers(workers=(P0,), role=Role.PREFILL)), busy=True)
    assert advance(removal.command, removal.progress, RECOVERING, 29.0).stop is None
    assert advance(removal.command, removal.progress, RECOVERING, 30.0).stop == StopWorker(worker_id=P0, epoch=ONE)
    change = begun(RECOVERING, progress_of(SwitchRoles(workers=(P0,), to=Role.DECODE)), busy=True)
    told = advance(change.command, change.progress, RECOVERING, 30.0)
    assert told.send == sent(P0, CommandKind.HAND_OVER, 2)
    waits = advance(answered(told, busy=True), told.progress, RECOVERING, 31.0)
    assert waits.send is None, "once is enough"
    empty = advance(answered(told), waits.progress, RECOVERING, 32.0)
    assert empty.send == sent(P0, CommandKind.SWITCH, 3, Role.DECODE)
    stuck = advance(answered(told, busy=True), waits.progress, RECOVERING, 45.0)
    assert stuck.send == sent(P0, CommandKind.UNDRAIN, 3), "who can't hand over serves on"


def test_a_switch_that_is_refused_again_and_again_is_given_up() -> None:
    step = begun(UNDRAINING, progress_of(SwitchRoles(workers=(P0,), to=Role.DECODE)), busy=False)
    first = advance(step.command, step.progress, UNDRAINING, 1.0)
    assert first.send == sent(P0, CommandKind.SWITCH, 2, Role.DECODE)
    refused = answered(first, busy=True)  # not drained after all, in its own eyes
    refused = heard(refused, replace(refused.workers[P0].report, busy=False))
    assert advance(refused, first.progress, UNDRAINING, 2.0).send is None
    again = advance(refused, first.progress, UNDRAINING, 4.0)
    assert again.send == sent(P0, CommandKind.SWITCH, 3, Role.DECODE)
    still = answered(again, busy=True)
    still = heard(still, replace(still.workers[P0].report, busy=False))
    over = advance(still, again.progress, UNDRAINING, 61.0)
    assert over.send == sent(P0, CommandKind.UNDRAIN, 4)
    assert over.progress.problem == "p0 did not change its role"


def test_a_move_ends_with_its_worker_or_its_controller() -> None:
    step = begun(UNDRAINING, progress_of(SwitchRoles(workers=(P0,), to=Role.DECODE)), busy=True)
    assert advance(lost(step.command, P0), step.progress, UNDRAINING, 1.0).progress.problem == "p0 is gone"
    deposed = heard(step.command, report(P1, term=9))
    ended = advance(deposed, step.progress, UNDRAINING, 1.0)
    assert (ended.send, ended.progress.problem) == (None, "another controller rules")


def test_a_refused_drain_ends_the_move_before_it_began() -> None:
    step = advance(claimed(), progress_of(SwitchRoles(workers=(D0,), to=Role.PREFILL)), UNDRAINING, 0.0)
    assert step.send is None
    assert step.progress.is_over
    assert "last decode worker" in step.progress.problem


def test_additions_have_nothing_to_drain() -> None:
    assert progress_of(AddWorkers(prefill=1)).is_over
    assert progress_of(ExchangeWorker(remove=P0, add=Role.DECODE)).left == (P0,)
