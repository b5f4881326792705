"""What the controller asks of its surroundings. Each raises TandemError when the other side does not answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tandem.core.decisions import Decision
from tandem.core.description import WorkerDescription
from tandem.core.role_commands import RoleAnswer, RoleCommand
from tandem.core.traffic import Guidance, TrafficReport
from tandem.core.types import WorkerInfo


class WorkerList(Protocol):
    """The registry of workers."""

    async def list_workers(self) -> tuple[WorkerInfo, ...] | None:
        """Return who is registered; None when the registry can't be asked."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class WorkerPort(Protocol):
    """Workers, by what the registry says of them."""

    async def describe(self, info: WorkerInfo) -> WorkerDescription:
        """Ask a worker who it is and how it fares."""
        ...

    async def command(self, info: WorkerInfo, command: RoleCommand) -> RoleAnswer:
        """Command a worker."""
        ...

    async def keep_only(self, infos: tuple[WorkerInfo, ...]) -> None:
        """Close the connections to all others."""
        ...


class RouterPort(Protocol):
    """All routers."""

    async def traffic(self, window_s: float) -> tuple[TrafficReport, ...]:
        """Ask every router; fails if one does not answer, since its traffic would be missing."""
        ...

    async def guide(self, guidance: Guidance) -> int:
        """Tell every router; return the highest term that one has heard."""
        ...

    async def tell(self, source: str, decisions: Sequence[Decision]) -> None:
        """Put decisions into the log of every router; without any, let those catch up that missed some."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """All of them."""

    registry: WorkerList
    workers: WorkerPort
    routers: RouterPort
