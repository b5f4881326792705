"""Service levels: what each class of requests is promised."""

import pydantic

from tandem.controller.policy.base import Duration, PolicyModel, complain
from tandem.core.traffic import ClassTargets
from tandem.core.types import PriorityClass


class Objective(PolicyModel):
    """A bound that a share of the requests must keep."""

    target_s: Duration = pydantic.Field(gt=0)
    """Longest time allowed, with its unit."""
    percentile: float = pydantic.Field(default=95.0, ge=50.0, le=99.9)
    """Which percentage of the values must be at or below the target."""


class SloClass(PolicyModel):
    """The promise to one class of requests. What is not named is not promised."""

    ttft: Objective | None = None
    """Time to first token: from arrival to the first token."""
    itl: Objective | None = None
    """Inter-token latency: each single gap between two tokens."""
    tpot: Objective | None = None
    """Time per output token: the mean gap within one answer."""
    e2e: Objective | None = None
    """From arrival to the last token."""
    attainment: float = pydantic.Field(default=0.95, ge=0.5, le=1.0)
    """Share of requests that must keep every promise at once. Measured below it, the class counts as in trouble even
    where the model predicts that it is well."""

    @pydantic.model_validator(mode="after")
    def _something_is_promised(self) -> "SloClass":
        if not any((self.ttft, self.itl, self.tpot, self.e2e)):
            raise ValueError("promises nothing; give it at least one of ttft, itl, tpot, e2e")
        if self.ttft and self.e2e and self.ttft.target_s >= self.e2e.target_s:
            complain(
                ("e2e", "target"),
                "must be above ttft.target: an answer ends after its first token",
                self.e2e.model_dump()["target_s"],
            )
        return self


class ClassesSection(PolicyModel):
    """Classes of requests, most urgent first. A class without a promise takes what is left."""

    interactive: SloClass | None = None
    """People who wait for the answer."""
    standard: SloClass | None = None
    """The default class."""
    batch: SloClass | None = None
    """Whoever can wait; yields first."""

    def promises(self) -> dict[PriorityClass, SloClass]:
        """Return the classes that are promised something, most urgent first."""
        pairs = {
            PriorityClass.INTERACTIVE: self.interactive,
            PriorityClass.STANDARD: self.standard,
            PriorityClass.BATCH: self.batch,
        }
        return {name: promise for name, promise in pairs.items() if promise is not None}

    def targets(self) -> dict[PriorityClass, ClassTargets]:
        """Return what routers have to know of the promises to refuse those that would miss them."""
        return {
            name: ClassTargets(
                ttft_s=None if promise.ttft is None else promise.ttft.target_s,
                e2e_s=None if promise.e2e is None else promise.e2e.target_s,
            )
            for name, promise in self.promises().items()
        }
