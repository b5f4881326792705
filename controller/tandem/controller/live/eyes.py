"""Looks at the cluster: the registry, every worker, every router, all at once; what does not answer stays as it was."""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

import structlog

from tandem.controller.live.ports import Ports
from tandem.controller.live.roster import Expected, Roster, described, observation_of, registered, replanned
from tandem.controller.live.traffic import WINDOW_S, class_traffic
from tandem.controller.moves.command import Command, heard, lost, polls
from tandem.controller.observation import Observation
from tandem.controller.policy.model import PolicySpec
from tandem.core.clock import Clock
from tandem.core.description import WorkerDescription
from tandem.core.errors import TandemError
from tandem.core.ids import WorkerId
from tandem.core.role_commands import RoleAnswer, RoleCommand
from tandem.core.traffic import TrafficReport
from tandem.core.types import Role, WorkerInfo

_log = structlog.get_logger(__name__)
Answer = TypeVar("Answer")


class Eyes:
    """The picture of the cluster, kept from round to round."""

    def __init__(self, ports: Ports, clock: Clock) -> None:
        self._ports = ports
        self._clock = clock
        self.roster = Roster()
        self._reports: tuple[TrafficReport, ...] = ()
        self._reports_s = clock.now_s()
        self._has_reports = False

    async def look(self, command: Command) -> Command:
        """Bring the picture up to date, claiming whoever is not claimed; return what is known of the workers' roles."""
        infos = await self._ports.registry.list_workers()
        if infos is not None:
            self.roster = registered(self.roster, infos, self._clock.now_s())
        listed = self.roster.listed()
        for name in command.workers.keys() - {info.worker_id for info in listed}:
            command = lost(command, name)
        await self._ports.workers.keep_only(listed)
        lives = [(info.worker_id, info.epoch) for info in listed]
        # Claims first: what a worker says of itself counts only once it obeys nobody else.
        command = await self.ask(command, polls(command, lives))
        descriptions, reports = await asyncio.gather(
            asyncio.gather(*(self._describe(info) for info in listed)), self._traffic()
        )
        now_s = self._clock.now_s()
        for description in descriptions:
            if description is not None:
                self.roster = described(self.roster, description, now_s)
        if reports is not None:
            self._reports, self._reports_s, self._has_reports = reports, now_s, True
        return command

    async def ask(self, command: Command, orders: Iterable[RoleCommand]) -> Command:
        """Send commands to their workers, all at once, and take what they answer."""
        by_name = {info.worker_id: info for info in self.roster.listed()}
        known = [(by_name[order.worker_id], order) for order in orders if order.worker_id in by_name]
        answers = await asyncio.gather(*(self._command(info, order) for info, order in known))
        for answer in answers:
            if answer is not None:
                command = heard(command, answer.report)
        return command

    def observation(self, command: Command, spec: PolicySpec, *, calm_s: float) -> Observation | None:
        """Return the round's view; None while there is none. The split has been what it is for ``calm_s``."""
        if not self._has_reports:
            return None
        return observation_of(
            self.roster,
            command,
            class_traffic(self._reports, spec.classes.promises(), interval_s=spec.interval_s, calm_s=calm_s),
            measured_s=self._reports_s,
            queued_work_s=sum(report.queued_work_s for report in self._reports),
        )

    def expect(self, workers: Mapping[WorkerId, Role], until_s: float) -> None:
        """These were ordered."""
        expected = {name: Expected(role=role, until_s=until_s) for name, role in workers.items()}
        self.roster = replace(
            self.roster,
            expected={**self.roster.expected, **expected},
            removed=self.roster.removed - expected.keys(),
        )

    def replanned(self) -> None:
        """A move begins."""
        self.roster = replanned(self.roster)

    def removed(self, names: Iterable[WorkerId]) -> None:
        """These are to end: they count for nothing any more."""
        self.roster = replace(self.roster, removed=self.roster.removed | frozenset(names))

    async def _describe(self, info: WorkerInfo) -> WorkerDescription | None:
        return await _or_none(self._ports.workers.describe(info), info.worker_id)

    async def _command(self, info: WorkerInfo, order: RoleCommand) -> RoleAnswer | None:
        return await _or_none(self._ports.workers.command(info, order), info.worker_id)

    async def _traffic(self) -> tuple[TrafficReport, ...] | None:
        return await _or_none(self._ports.routers.traffic(WINDOW_S), "routers")


async def _or_none(asked: Awaitable[Answer], whom: str) -> Answer | None:
    try:
        return await asked
    except TandemError as error:
        _log.info("no_answer", whom=whom, reason=error.reason)
        return None
