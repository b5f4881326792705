"""What a fleet can make of a load at best: an oracle that has the best split of each phase from its first moment.

It switches at the instant of a change, for nothing, and is told nothing by chance; borrowing aside, no controller that
changes splits can do better on the same arrivals than by little.
"""

from dataclasses import dataclass

from benchmarks.controller_sim.play import play
from benchmarks.controller_sim.shapes import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The oracle's attainment, and its split of each phase."""

    attainment: float
    splits: tuple[str, ...]


async def best_of(shape: Shape, *, seed: int) -> Best:
    """Play every split of the shape's workers, each for all phases; take the best of each phase."""
    workers = sum(shape.split)
    kept: dict[str, list[float]] = {}
    for prefill in range(1, workers):
        split = (prefill, workers - prefill)
        played = await play(Shape(split=split, phases=shape.phases), seed=seed, controlled=False)
        kept[f"{split[0]}:{split[1]}"] = list(played.by_phase)
    counts = [phase.rate_per_s * phase.seconds for phase in shape.phases]
    best = [max(kept, key=lambda split: (kept[split][index], split)) for index in range(len(counts))]
    total = sum(count * kept[split][index] for index, (split, count) in enumerate(zip(best, counts, strict=True)))
    return Best(attainment=round(total / sum(counts), 3), splits=tuple(best))
