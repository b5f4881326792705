"""One run of a shape on virtual time, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.controller_sim.shapes import Shape
from benchmarks.controller_sim.worker import Request
from benchmarks.controller_sim.world import UNIX_S, VirtualCluster
from benchmarks.controller_world.policies import TPOT_S, TTFT_S, slo_policy
from tandem.chaos.tagged.settings import TaggedCost
from tandem.controller.deciding.decide import describe

COST = TaggedCost(prefill_token_s=0.0025, step_s=0.1, row_s=0.012)


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of one run."""

    attainment: float
    by_phase: Sequence[float]
    moves: Sequence[str]
    moved_s: Sequence[float]
    rounds: Sequence[str]

    def line(self) -> str:
        """In a few words."""
        return f"{self.attainment:.3f} ({' '.join(f'{each:.2f}' for each in self.by_phase)})"


async def play(shape: Shape, *, seed: int, controlled: bool) -> Played:
    """Play a shape under the benchmark's policy, or under none. Raises RoleEmptied."""
    world = VirtualCluster(cost=COST, split=shape.split)
    policy = slo_policy(workers=sum(shape.split)) if controlled else None
    await world.run(shape.phases, seed=seed, policy=policy)
    times = [(one.record.time_s - UNIX_S - world.begin_s, one.record) for one in world.rounds]
    moves = [(at_s, record) for at_s, record in times if record.move is not None]
    return Played(
        attainment=_share(world.requests),
        by_phase=[_share([r for r in world.requests if r.phase == index]) for index in range(len(shape.phases))],
        moves=[f"{at_s:.0f} s {r.current}>{r.wished} {describe(r.move)}" for at_s, r in moves if r.move is not None],
        moved_s=[at_s for at_s, _ in moves],
        rounds=[
            f"  {at_s:5.0f} {r.current}>{r.wished} {r.verdict.value} borrow {r.borrow_share:.2f} "
            + " ".join(f"{name} {number:.2f}" for name, number in r.numbers.items())
            + f" {'; '.join(r.clamps)} {r.reason}"
            for at_s, r in times
        ],
    )


def _share(requests: Sequence[Request]) -> float:
    return sum(map(_keeps, requests)) / max(len(requests), 1)


def _keeps(request: Request) -> bool:
    if not request.is_over or request.first_s is None or request.last_s is None:
        return False
    if request.first_s - request.arrived_s > TTFT_S:
        return False
    return request.last_s - request.first_s <= TPOT_S * max(request.num_done - 1, 1)
