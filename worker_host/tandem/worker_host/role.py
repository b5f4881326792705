"""What the shell asks of a role. `tandem.prefill_worker` and `tandem.decode_worker` each give one."""

from typing import Protocol

from tandem.core.messages import Abort, Command
from tandem.core.types import Role
from tandem.engine.results import StepResult


class RoleService(Protocol):
    """One role's reaction to commands and to finished steps. All methods run on the engine thread."""

    @property
    def role(self) -> Role:
        """Which role this is."""
        ...

    @property
    def num_handovers(self) -> int:
        """Hand-overs that are not over on this side; safe from any thread."""
        ...

    def handle(self, command: Command) -> None:
        """React to a router's command; raises TandemError when the task can't be taken."""
        ...

    def abort(self, command: Abort) -> None:
        """Stop an attempt and free what it holds; unknown attempts are no error."""
        ...

    def after_step(self, result: StepResult) -> None:
        """Publish what a forward step brought."""
        ...

    def close(self) -> None:
        """Stop the role's own threads and close its sockets."""
        ...
