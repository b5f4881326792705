"""What the tagged worker program takes beside the worker's own configuration. Zero I/O."""

from pathlib import Path
from typing import Self

import pydantic

from tandem.chaos.tagged.race import RaceSettings
from tandem.cluster.programs.config import WorkerProgramConfig
from tandem.core.config.model import ConfigModel


class TaggedCost(ConfigModel):
    """How long the engine pretends to compute. It sleeps: no core is taken from anybody."""

    prefill_token_s: float = pydantic.Field(default=0.0, ge=0.0, le=10.0)
    """Seconds per prompt token of a step."""
    step_s: float = pydantic.Field(default=0.0, ge=0.0, le=600.0)
    """Seconds per step."""
    row_s: float = pydantic.Field(default=0.0, ge=0.0, le=10.0)
    """Seconds per decode row of a step."""
    stall_s: float = pydantic.Field(default=30.0, ge=0.0, le=600.0)
    """Length of the step that a `Poison.STALL` prompt brings about."""

    def seconds(self, *, num_prefill_tokens: int, num_decode_rows: int) -> float:
        """How long a step takes."""
        return self.step_s + self.prefill_token_s * num_prefill_tokens + self.row_s * num_decode_rows


class TaggedWorkerConfig(WorkerProgramConfig):
    """One worker process with the tagged engine. A plain worker's line is one too."""

    cost: TaggedCost = TaggedCost()
    """How long it pretends to compute."""
    race: RaceSettings = RaceSettings()
    """Races to be provoked in its KV hand-over; needs `evidence_folder`."""
    evidence_folder: Path | None = None
    """Where it counts what it verified and records what did not fit; nothing = it only fails the requests."""

    @pydantic.model_validator(mode="after")
    def _races_leave_evidence(self) -> Self:
        if self.race.is_on and self.evidence_folder is None:
            raise ValueError("race needs evidence_folder: what is provoked must be recorded")
        return self
