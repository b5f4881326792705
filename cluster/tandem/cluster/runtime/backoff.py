"""How long to wait before a dead process is started again. Pure."""

FIRST_S = 0.2
MAX_S = 15.0
HEALTHY_S = 30.0


class Backoff:
    """Pauses that double while a process keeps dying young, and begin anew once one has lived long enough."""

    def __init__(self) -> None:
        self._next_s = FIRST_S

    def after(self, *, lived_s: float) -> float:
        """Return the pause after a life of ``lived_s`` seconds."""
        if lived_s >= HEALTHY_S:
            self._next_s = FIRST_S
        pause_s = self._next_s
        self._next_s = min(2 * pause_s, MAX_S)
        return pause_s
