"""The controller and a small cluster on virtual time: shifts of the load, steps, square waves, blindness."""

import itertools
from pathlib import Path

import pytest

from tandem.controller.deciding.values import AddWorkers, RemoveWorkers, SwitchRoles, Verdict
from tandem.controller.policy.bounds import Split
from tandem.controller.policy.model import AutoscalingPolicy
from tandem.controller.policy.sections import BorrowSection
from tandem.core.config.yaml_file import load_yaml_config
from tandem.core.types import Role
from tests.fakes.controller_plant import UNIX_S, Load, Plant
from tests.unit.controller.worlds import policy

ROOT = Path(__file__).parents[3]
PINNED = load_yaml_config(ROOT / "deploy" / "examples" / "pinned-budget.policy.yaml", AutoscalingPolicy)
ALONE = PINNED.model_copy(update={"spec": PINNED.spec.model_copy(update={"borrow": BorrowSection(enabled=False)})})
PROMPT_HEAVY = Load(rate_per_s=8, prompt_tokens=4000, output_tokens=60)
ANSWER_HEAVY = Load(rate_per_s=8, prompt_tokens=300, output_tokens=500)
KEPT = {"ttft_s": 1.0, "gap_s": 0.05}


def shifting(now_s: float) -> Load:
    return ANSWER_HEAVY if 400 <= now_s < 900 else PROMPT_HEAVY


def _of(split: Split | None, role: Role) -> int:
    assert split is not None
    return split.prefill if role is Role.PREFILL else split.decode


def switches_per_minute(plant: Plant) -> int:
    times = [at for at, move in plant.moves if isinstance(move, SwitchRoles)]
    return max((sum(1 for each in times if at <= each < at + 60.0) for at in times), default=0)


@pytest.fixture(scope="module")
def shifted() -> Plant:
    """Without the fastest speed, which would do alone."""
    return Plant(policy=ALONE, start=Split(prefill=4, decode=4), load=shifting).run_until(1300)


def test_each_shift_converges_in_at_most_three_moves(shifted: Plant) -> None:
    """The last shift begins with the wrong ratio; afterwards it rests, and nearly everybody is served in time."""
    for begin_s, end_s in ((0, 400), (400, 900), (900, 1300)):
        assert 1 <= len(shifted.moves_between(begin_s, end_s)) <= 3
        assert shifted.kept(end_s - 150, end_s, **KEPT) >= 0.95
    assert shifted.split.prefill > shifted.split.decode
    middle = next(split for at, split in shifted.splits if at >= 890)
    assert middle.decode >= middle.prefill


def test_a_pinned_budget_moves_only_the_ratio(shifted: Plant) -> None:
    assert {type(move) for _, move in shifted.moves} == {SwitchRoles}
    assert {split.prefill + split.decode for _, split in shifted.splits} <= {7, 8}  # 7: one of them is switching
    assert switches_per_minute(shifted) <= 1


def test_where_borrowing_does_no_worker_switches() -> None:
    plant = Plant(policy=PINNED, start=Split(prefill=4, decode=4), load=shifting).run_until(1300)
    assert plant.moves == []
    assert plant.kept(0, 1300, **KEPT) >= 0.95
    assert max(share for _, share in plant.borrowed) > 0.1


def test_it_borrows_before_the_switch_is_due() -> None:
    """Milliseconds before seconds: the share rises at once, and falls back once the pool has grown."""

    def rising(now_s: float) -> Load:
        return ANSWER_HEAVY if now_s < 300 else Load(rate_per_s=11, prompt_tokens=4000, output_tokens=20)

    plant = Plant(policy=PINNED, start=Split(prefill=2, decode=6), load=rising).run_until(800)
    first_switch_s = next(at for at, _ in plant.moves)
    shares = [share for at, share in plant.borrowed if 305 <= at <= first_switch_s]
    assert max(shares) == pytest.approx(0.5)
    assert plant.borrowed[-1][1] <= 0.3
    assert plant.kept(650, 800, **KEPT) >= 0.95


def test_without_a_controller_the_same_load_is_served_worse(shifted: Plant) -> None:
    off = policy(mode="Off", budget={"min": 8, "max": 8})
    alone = Plant(policy=off, start=Split(prefill=4, decode=4), load=shifting).run_until(400)
    assert alone.moves == []
    assert alone.kept(250, 400, **KEPT) < shifted.kept(250, 400, **KEPT) - 0.1


def test_every_round_says_why(shifted: Plant) -> None:
    for record in shifted.records:
        assert record.reason
        assert "nan" not in record.reason
    for record in (each for each in shifted.records if each.verdict is Verdict.MOVE):
        assert record.numbers["stress_wished"] < record.numbers["stress"]
        assert " ms of " in record.reason


def test_a_square_wave_of_thirty_seconds_does_not_make_it_flap() -> None:
    def wave(now_s: float) -> Load:
        return ANSWER_HEAVY if int(now_s / 30) % 2 else PROMPT_HEAVY

    plant = Plant(policy=PINNED, start=Split(prefill=4, decode=4), load=wave).run_until(900)
    assert switches_per_minute(plant) <= 1
    assert len(plant.moves) <= 4
    directions = [move.to for _, move in plant.moves if isinstance(move, SwitchRoles)]
    assert sum(a is not b for a, b in itertools.pairwise(directions)) <= 2


def test_a_threefold_step_grows_and_the_lull_after_it_shrinks() -> None:
    def step(now_s: float) -> Load:
        return Load(rate_per_s=9 if 100 <= now_s < 500 else 3, prompt_tokens=2500, output_tokens=150)

    wanted = policy(damping={"dwell": "20s", "cooldown": "30s"})
    plant = Plant(policy=wanted, start=Split(prefill=2, decode=1), load=step).run_until(1600)
    grown = [move for move in plant.moves_between(100, 500) if isinstance(move, AddWorkers)]
    assert 1 <= len(grown) <= 3
    assert plant.kept(400, 500, **KEPT) >= 0.95
    peak = max(split.prefill + split.decode for at, split in plant.splits if at < 600)
    assert plant.split.prefill + plant.split.decode < peak
    removals = [(at, move) for at, move in plant.moves if isinstance(move, RemoveWorkers)]
    assert removals
    for at, move in removals:  # HPA's five minutes before anything is taken away
        before = [each for each in plant.records if UNIX_S + at - 300 <= each.time_s < UNIX_S + at]
        assert all(_of(each.wished, move.role) < _of(each.current, move.role) for each in before)
    assert plant.kept(1000, 1600, **KEPT) >= 0.95


def test_nothing_moves_while_it_is_blind() -> None:
    plant = Plant(
        policy=PINNED, start=Split(prefill=4, decode=4), load=lambda now_s: ANSWER_HEAVY,
        blind=lambda now_s: 5 <= now_s < 300,
    ).run_until(450)  # fmt: skip
    assert plant.moves_between(0, 300 + 20) == []
    frozen = [record for record in plant.records if record.verdict is Verdict.FREEZE]
    assert {record.reason for record in frozen} == {"there are no metrics: nothing moves"}


@pytest.mark.parametrize("seed", range(3))
def test_a_steady_load_is_left_alone(seed: int) -> None:
    def steady(now_s: float) -> Load:
        return Load(rate_per_s=5, prompt_tokens=2000, output_tokens=200)

    plant = Plant(policy=PINNED, start=Split(prefill=4, decode=4), load=steady, seed=seed).run_until(400)
    assert plant.moves == []
    assert plant.kept(50, 400, **KEPT) >= 0.98
