"""A role that starts every task locally on a scripted engine, passes tokens on and notes what it was asked."""

from tandem.core.errors import TandemError
from tandem.core.messages import Abort, Command, ForwardGrant, ReserveDecode
from tandem.core.reasons import WRONG_ROLE
from tandem.core.types import Role
from tandem.engine.results import StepResult
from tandem.worker_host.outbox import Outbox
from tests.fakes.scripted_engine import ScriptedEngine


class ScriptedRole:
    """Peer of `tandem.decode_worker.role.DecodeRole`."""

    role = Role.DECODE
    num_handovers = 0

    def __init__(self, engine: ScriptedEngine, outbox: Outbox) -> None:
        self._engine = engine
        self._outbox = outbox
        self.handled: list[Command] = []
        self.aborted: list[Abort] = []
        self.num_closed = 0
        self.refuse_grants = False

    def handle(self, command: Command) -> None:
        """Start a reserved task; refuses as the engine does."""
        if self.refuse_grants and isinstance(command, ForwardGrant):
            raise TandemError("this worker decodes", reason=WRONG_ROLE)
        self.handled.append(command)
        if isinstance(command, ReserveDecode):
            self._engine.start_local(command.task)

    def abort(self, command: Abort) -> None:
        """Note it."""
        self.aborted.append(command)

    def after_step(self, result: StepResult) -> None:
        """Pass everything on."""
        for delta in result.tokens:
            self._outbox.token(delta)
        for event in result.events:
            self._outbox.event(event)

    def close(self) -> None:
        """Count it."""
        self.num_closed += 1
