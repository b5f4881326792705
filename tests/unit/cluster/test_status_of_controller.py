"""What `tandem status` says of the controller: the split it sees and wants, why, under which term, and when."""

from msgspec.structs import replace

from tandem.client import ClusterStatus
from tandem.cluster.commands.status import controller_lines, status_lines
from tandem.core.decisions import Admission, ControllerRound, Decision

ROUND = ControllerRound(
    term=7, policy="day", verdict="hold", current_prefill=1, current_decode=2, wished_prefill=2, wished_decode=1
)


def told(detail: ControllerRound | Admission) -> Decision:
    return Decision(sequence=1, unix_s=1000.0, source="controller-0", reason="cool-down", detail=detail)


def test_what_it_saw_and_wants() -> None:
    assert controller_lines(told(ROUND), now_unix_s=1028.5) == [
        "controller: controller-0, told 28 s ago, nothing new since: sees 1:2, wants 2:1 (hold: cool-down);"
        " policy day, term 7"
    ]


def test_who_has_not_said_even_the_same_again_is_silent() -> None:
    (line,) = controller_lines(told(ROUND), now_unix_s=1065.5)
    assert line.startswith("controller: controller-0, SILENT for 1 min 5 s, where a round is told at least every 30 s:")


def test_the_last_move_is_told_with_its_age() -> None:
    moved = replace(told(replace(ROUND, verdict="move", move="switch a to decode")), unix_s=700.0)
    assert controller_lines(told(ROUND), now_unix_s=1001.0, move=moved)[1:] == [
        "last move: 5 min 1 s ago: switch a to decode"
    ]


def test_a_round_without_a_wish_and_a_clock_that_is_behind() -> None:
    blind = ControllerRound(term=7, policy="day", verdict="freeze", current_prefill=1, current_decode=2)
    (line,) = controller_lines(told(blind), now_unix_s=900.0)
    assert line.startswith("controller: controller-0, told 0 s ago, nothing new since: sees 1:2 (freeze: cool-down)")


def test_where_no_controller_has_spoken() -> None:
    assert controller_lines(None, now_unix_s=0.0) == []
    assert controller_lines(told(Admission(taken=True, cause="empty")), now_unix_s=0.0) == []


def test_it_stands_above_the_workers() -> None:
    status = ClusterStatus(model="m", ready=True, router_id="router-0", uptime_s=1.0)
    assert status_lines(status, ["controller: x"])[-1] == "controller: x"
    assert len(status_lines(status)) == len(status_lines(status, ["controller: x"])) - 1
