"""Controllers as processes of their own, started again when they end, and what they tell of their rounds."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tandem.cluster.processes.child import ChildSpec
from tandem.cluster.processes.service import Service
from tandem.cluster.programs.config import ControllerProgramConfig
from tandem.core.environment import child_environment
from tandem.core.errors import SetupError

MODULE = "tandem.cluster.programs.controller_process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One round, as its controller told it."""

    at_s: float
    controller: str
    facts: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """What the round ended in."""
        return str(self.facts["verdict"])

    @property
    def term(self) -> int:
        """The term of its controller."""
        return int(self.facts["term"])

    @property
    def decided_s(self) -> float:
        """When it was made, by the wall clock of its controller."""
        return float(self.facts["time_s"])

    @property
    def move(self) -> str:
        """The move that was begun; empty = none. What gives a worker back the role it died in is none."""
        return "" if self.facts.get("is_repair") else self._begun

    @property
    def repair(self) -> str:
        """The repair that was begun; empty = none."""
        return self._begun if self.facts.get("is_repair") else ""

    @property
    def _begun(self) -> str:
        return str(self.facts.get("move") or "") if self.verdict == "move" else ""


@dataclass(slots=True, kw_only=True)
class Rounds:
    """Everything controllers have told."""

    told: list[Told] = field(default_factory=list)

    def between(self, begin_s: float, end_s: float) -> list[Told]:
        """Rounds of a span of time."""
        return [one for one in self.told if begin_s <= one.at_s < end_s]


class ControllerUnit:
    """One controller under supervision. Use `start`, then always `stop`."""

    def __init__(
        self, config: ControllerProgramConfig, rounds: Rounds, *, logs: Path, variables: Mapping[str, str]
    ) -> None:
        self.name = config.controller_id
        self._rounds = rounds
        self._service = Service(
            ChildSpec(
                name=self.name,
                module=MODULE,
                config_json=config.model_dump_json(),
                log_file=logs / f"{self.name}.log",
                environment={**child_environment(num_threads=1), **variables},
            ),
            on_event=self._on_event,
        )
        self._task: asyncio.Task[None] | None = None
        self.num_deaths = 0

    async def start(self) -> None:
        """Start it and keep it up."""
        await self._service.start(60.0)
        self._task = asyncio.create_task(self._keep_up(), name=f"keep {self.name}")

    async def stop(self) -> None:
        """End it. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._service.stop(grace_s=5.0)

    def kill(self) -> None:
        """kill -9; it comes again."""
        self._service.kill()

    async def _keep_up(self) -> None:
        while True:
            await self._service.wait()
            self.num_deaths += 1
            await asyncio.sleep(0.2)
            try:
                await self._service.start(60.0)
            except SetupError:
                await asyncio.sleep(1.0)

    def _on_event(self, status: dict[str, Any]) -> None:
        if status.get("event") == "round":
            self._rounds.told.append(Told(at_s=time.monotonic(), controller=self.name, facts=status))
