"""How many seeds it takes to notice that a guard is missing."""

from dataclasses import dataclass

from tandem.chaos.simulation.mutants import Mutant, only_peeled, without_guard
from tandem.chaos.simulation.plan import Timeline
from tandem.chaos.simulation.run import run_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Where a mutant was noticed, and whether its control passed."""

    seed: int | None
    violation: str
    num_seeds: int
    control_failed: str | None

    def describe(self) -> str:
        """In words."""
        if self.control_failed is not None:
            return f"CONTROL FAILED: {self.control_failed}"
        if self.seed is None:
            return f"NOT FOUND in {self.num_seeds} seeds"
        return f"found by seed {self.seed}: {self.violation.splitlines()[0][:120]}"


def hunt(mutant: Mutant, *, timeline: Timeline | None = None, control_seeds: int = 10) -> Found:
    """Run seeds with the guard taken out until one breaks an oracle; first the same without its outer guards alone."""
    control = None
    if mutant.peeled is not None:
        with only_peeled(mutant):
            control = next(
                (
                    f"seed {s}: {broken}"
                    for s in range(control_seeds)
                    if (broken := _broken(s, mutant, timeline)) is not None
                ),
                None,
            )
    with without_guard(mutant):
        for seed in range(mutant.most_seeds):
            broken = _broken(seed, mutant, timeline)
            if broken is not None:
                return Found(seed=seed, violation=broken, num_seeds=seed + 1, control_failed=control)
    return Found(seed=None, violation="", num_seeds=mutant.most_seeds, control_failed=control)


def _broken(seed: int, mutant: Mutant, timeline: Timeline | None) -> str | None:
    """The first broken oracle of a seed; what the product raises outside its engine thread counts too."""
    try:
        result = run_seed(seed, timeline=timeline, focus=mutant.focus, alter=mutant.alter)
    except Exception as error:  # noqa: BLE001  a mutant may break anything
        return f"raised {type(error).__name__}: {error}"
    return result.violations[0] if result.violations else None
