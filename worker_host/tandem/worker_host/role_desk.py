"""Where a worker obeys a controller: checks each command, drains, and changes the role over the same engine.

Every method runs on the engine thread, so that between the look at what is held and the change nothing can come in.
"""

from collections.abc import Callable
from dataclasses import replace

import structlog

from tandem.core.errors import TandemError
from tandem.core.role_commands import CommandKind, RoleAnswer, RoleCommand, RoleGuard, RoleReport, obey
from tandem.core.types import Role
from tandem.worker_host.engine_loop import EngineLoop
from tandem.worker_host.role import RoleService

_log = structlog.get_logger(__name__)
_LEAVING = "this worker is leaving"


class RoleDesk:
    """One worker's answer to role commands.

    Guarantees: the role changes only while nothing is held and nothing new is taken; a change that fails leaves the
    worker draining in the role it had.
    """

    def __init__(
        self,
        guard: RoleGuard,
        loop: EngineLoop,
        *,
        make_role: Callable[[Role], RoleService],
        on_change: Callable[[], None],
    ) -> None:
        """``on_change`` is told after the role changed, and after a drain began or ended."""
        self._guard = guard
        self._loop = loop
        self._make_role = make_role
        self._on_change = on_change
        self._is_leaving = False

    def leave(self) -> None:
        """The process is to end, or an operator drained it: no command brings it back."""
        self._is_leaving = True

    def obey(self, command: RoleCommand) -> RoleAnswer:
        """Carry a command out, or say why not."""
        if self._is_leaving and command.kind in (CommandKind.UNDRAIN, CommandKind.SWITCH):
            return RoleAnswer(report=self._report(), refusal=_LEAVING)
        obeyed = obey(self._guard, command, busy=self._loop.is_busy)
        refusal = obeyed.refusal
        if not refusal and command.kind is CommandKind.SWITCH and command.role is not None:
            refusal = self._switch(command.role)
        # A switch that failed was heard all the same: its number is used up, the role is the old one.
        self._guard = (
            replace(obeyed.guard, role=self._guard.role, draining=self._guard.draining) if refusal else obeyed.guard
        )
        if not refusal and command.kind is CommandKind.HAND_OVER:
            self._loop.hand_over_now()
        if self._loop.is_draining != (self._guard.draining or self._is_leaving):
            self._loop.set_draining(self._guard.draining or self._is_leaving)
            self._on_change()
        if refusal:
            _log.info("role_command_refused", command=command.kind.value, term=command.term, why=refusal)
        return RoleAnswer(report=self._report(), refusal=refusal)

    def _switch(self, role: Role) -> str:
        if role is self._loop.role.role:
            return ""
        try:
            self._loop.replace_role(lambda: self._make_role(role))
        except (TandemError, OSError) as error:
            _log.error("role_switch_failed", role=role.value, exc_info=True)
            return f"the {role.value} role could not be built: {type(error).__name__}"
        _log.info("role_switched", role=role.value)
        return ""

    def _report(self) -> RoleReport:
        report = self._guard.report(busy=self._loop.is_busy)
        return replace(report, role=self._loop.role.role, draining=self._loop.is_draining)
