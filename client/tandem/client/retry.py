"""When to try a call again. Pure policy: no clock, no sleep, and randomness is handed in.

Retries are for calls of which the caller has seen nothing yet, and only for errors that say the service can't take the
request now. A budget keeps a client from multiplying the load of a server in trouble: in the long run at most a tenth
of its calls are retries.
"""

from dataclasses import dataclass
from typing import Final

from tandem.core.errors import DuplicateRequest, Overloaded, TandemError, Unavailable

_RETRIED: Final = (Overloaded, Unavailable)
_RETRIED_AGAIN: Final = (*_RETRIED, DuplicateRequest)  # the call before it may still run: its end was not seen yet
_BASE_S: Final = 0.1
_CAP_S: Final = 2.0


class RetryBudget:
    """Tokens for retries: each costs one, each call that ended well gives back a tenth."""

    _SIZE = 10.0
    _GAIN = 0.1

    def __init__(self) -> None:
        self._tokens = self._SIZE

    def note_success(self) -> None:
        """A call ended well."""
        self._tokens = min(self._tokens + self._GAIN, self._SIZE)

    def take(self) -> bool:
        """Take one token; False when there is none."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Try again after ``delay_s``."""

    delay_s: float


def next_retry(
    error: TandemError, *, num_retries_done: int, max_retries: int, left_s: float, budget: RetryBudget, jitter: float
) -> Retry | None:
    """Return how to go on after ``error``, or None to give up and raise it.

    ``left_s`` is what remains of the call's deadline; ``jitter`` is uniform in [0, 1). The delay is what the server
    asks for, and up to a quarter more, so that its callers do not come back in one crowd; without such a wish it grows
    from 0.1 s to 2 s by doubling, half of it random.
    """
    kinds = _RETRIED_AGAIN if num_retries_done else _RETRIED
    if not isinstance(error, kinds) or not error.retryable or error.metadata.get("tokens_emitted", "0") != "0":
        return None
    if error.metadata.get("pushback") == "-1":
        return None  # the server asks its callers to stay away
    if num_retries_done >= max_retries:
        return None
    if error.retry_after_s is not None:
        delay_s = error.retry_after_s * (1.0 + jitter / 4)
    else:
        delay_s = min(_BASE_S * 2.0**num_retries_done, _CAP_S) * (0.5 + jitter / 2)
    if delay_s >= left_s or not budget.take():
        return None
    return Retry(delay_s=delay_s)
