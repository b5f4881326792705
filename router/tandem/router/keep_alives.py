"""What is done for all live requests now and then: keep-alives, the gauges, old timers. Zero I/O."""

from collections.abc import Mapping

from tandem.core.ids import RequestId
from tandem.router.live import Live
from tandem.router.observer import Observer
from tandem.router.queue import CentralQueue
from tandem.router.timers import Timers

_MANY_TIMERS = 1024


class KeepAlives:
    """Looks at every live request each fifth of ``every_s``."""

    def __init__(
        self,
        lives: Mapping[RequestId, Live],
        queue: CentralQueue,
        timers: Timers,
        observer: Observer,
        *,
        every_s: float,
    ) -> None:
        self._lives = lives
        self._queue = queue
        self._timers = timers
        self._observer = observer
        self._every_s = every_s
        self._last_s: float | None = None

    def step(self, now_s: float) -> None:
        """Do what is due; call it with the tick."""
        if self._last_s is None:
            self._last_s = now_s
        if now_s - self._last_s < self._every_s / 5.0:
            return
        self._last_s = now_s
        for live in self._lives.values():
            if now_s - live.last_put_s >= 0.8 * self._every_s:
                live.last_put_s = now_s
                live.sink.put_keep_alive()
        if len(self._timers) > 4 * len(self._lives) + _MANY_TIMERS:
            self._timers.keep_only(self._lives.keys())
        self._observer.depth(num_queued=len(self._queue), num_live=len(self._lives))
