"""What no message may ever tell: this process stood still, a token is missing, D let go before the end. Zero I/O."""

from collections.abc import Iterator, Mapping

from tandem.core.ids import RequestId
from tandem.router.live import Live

_STALL_S = 1.0  # the tick comes each 20 ms; later than this the process itself stood still


class OverdueWatch:
    """Requests whose next word is overdue, unless it may lie unread because the router itself was deaf."""

    def __init__(self, *, lives: Mapping[RequestId, Live], now_s: float) -> None:
        self._lives = lives
        self._watched: set[RequestId] = set()
        self._last_step_s = self._heed_from_s = now_s

    def add(self, request_id: RequestId) -> None:
        """Something of this request may be missing."""
        self._watched.add(request_id)

    def discard(self, request_id: RequestId) -> None:
        """The request is over."""
        self._watched.discard(request_id)

    def stalled_s(self, now_s: float) -> float:
        """Call it at each step: for how long the router stood still since the last one, 0 when it did not."""
        passed_s, self._last_step_s = now_s - self._last_step_s, now_s
        if passed_s <= _STALL_S:
            return 0.0
        self._heed_from_s = now_s + _STALL_S  # what is missing may wait to be read
        return passed_s

    def requests(self, now_s: float) -> Iterator[Live]:
        """Those to be looked at now, ordered by name; others are forgotten."""
        for request_id in sorted(self._watched):  # a set has another order in each process
            live = self._lives.get(request_id)
            if live is None or live.ledger.overdue_since_s is None:
                self._watched.discard(request_id)
            elif now_s >= self._heed_from_s:
                yield live
