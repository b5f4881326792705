"""How long a request may wait for a worker, from when it began to wait, and the error it gets then. Zero I/O."""

from tandem.core import reasons
from tandem.core.errors import Overloaded, TandemError, Unavailable
from tandem.router.attempt import Stage
from tandem.router.live import DispatcherPolicy, Live
from tandem.router.timers import Timer, TimerKind, Timers


class Waits:
    """The bounds on waiting: one for every wait, and a shorter one while no decode worker takes work."""

    def __init__(self, policy: DispatcherPolicy, timers: Timers) -> None:
        self._policy = policy
        self._timers = timers
        self._no_decode_since_s: float | None = None

    def begin(self, live: Live, now_s: float) -> None:
        """The request waits from now on, in the queue or apart."""
        live.waiting_since_s = now_s
        timer = Timer(kind=TimerKind.WAIT_OVER, request_id=live.entry.request_id)
        self._timers.add(now_s + self._policy.max_queue_wait_s, timer)

    def note_decode_workers(self, num_alive: int, now_s: float) -> None:
        """So many decode workers take work now."""
        if num_alive:
            self._no_decode_since_s = None
        elif self._no_decode_since_s is None:
            self._no_decode_since_s = now_s

    def error_of_long_wait(self, live: Live, now_s: float) -> TandemError | None:
        """Why the request must be given up now, wherever it waits; None while it may wait on."""
        until_s = live.waiting_since_s + self._policy.max_queue_wait_s  # as its one timer is set, to the last bit
        if live.ledger.stage is not Stage.ADMITTED or now_s < until_s:
            return None
        return Overloaded("waited too long in the queue", retry_after_s=5.0)

    def error_without_decode_worker(self, live: Live, now_s: float) -> TandemError | None:
        """The same for want of any decode worker: nobody waits longer for that, however old the request is."""
        if self._no_decode_since_s is None:
            return None
        since_s = max(self._no_decode_since_s, live.waiting_since_s)
        if now_s - since_s < self._policy.no_worker_wait_s:
            return None
        return Unavailable("no decode worker is alive", reason="NO_WORKER", retry_after_s=5.0)


def lost_while_waiting() -> TandemError:
    """The error of a request that had sent tokens when it was given up."""
    return Unavailable("no worker could take the request over in time", reason=reasons.WORKER_LOST)
