"""What the tagged worker program takes beside the worker's own configuration. Zero I/O."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

import pydantic

from tandem.chaos.tagged.race import RaceSettings
from tandem.cluster.programs.config import WorkerProgramConfig
from tandem.core.config.model import ConfigModel
from tandem.kvtransfer.layout import PROTOCOL_VERSION, KvLayout


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


class TaggedLayout(ConfigModel):
    """What the worker says of its KV, where that is not what the engine's is: a worker of another version."""

    dtype: Literal["float32", "float16"] = "float32"
    """Numbers."""
    protocol_version: int = pydantic.Field(default=PROTOCOL_VERSION, ge=1)
    """Version of the hand-over."""
    rope_digest: str | None = None
    """Digest of the rotary embedding's parameters; nothing = the model's."""

    def of(self, layout: KvLayout) -> KvLayout:
        """Return the layout as it is told."""
        rope_digest = layout.rope_digest if self.rope_digest is None else self.rope_digest
        return replace(layout, dtype=self.dtype, protocol_version=self.protocol_version, rope_digest=rope_digest)


class TaggedWorkerConfig(WorkerProgramConfig):
    """One worker process with the tagged engine. A plain worker's line is one too."""

    cost: TaggedCost = TaggedCost()
    """How long it pretends to compute."""
    race: RaceSettings = RaceSettings()
    """Races to be provoked in its KV hand-over; needs `evidence_folder`."""
    layout: TaggedLayout = TaggedLayout()
    """What it says of its KV."""
    evidence_folder: Path | None = None
    """Where it counts what it verified and records what did not fit; nothing = it only fails the requests."""

    @pydantic.model_validator(mode="after")
    def _races_leave_evidence(self) -> Self:
        if self.race.is_on and self.evidence_folder is None:
            raise ValueError("race needs evidence_folder: what is provoked must be recorded")
        return self
