"""What happens to requests when a worker's stream breaks, or its life is over. Zero I/O."""

from collections.abc import Callable, Mapping, Sequence

from tandem.core.ids import RequestId
from tandem.router.actions import Action, WorkerKey
from tandem.router.crashes import CrashWatch
from tandem.router.fleet import Fleet, FleetChange
from tandem.router.live import Live
from tandem.router.pairs import PairBreakers

Apply = Callable[[Live, Sequence[Action], float], None]


class WorkerLosses:
    """Takes away from a lost worker what it had, and shares the blame. Whoever calls it places again afterwards."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        crashes: CrashWatch,
        pairs: PairBreakers,
        lives: Mapping[RequestId, Live],
        apply: Apply,
    ) -> None:
        self._fleet = fleet
        self._crashes = crashes
        self._pairs = pairs
        self._lives = lives
        self._apply = apply

    def stream_broke(self, worker: WorkerKey, now_s: float) -> None:
        """It holds nothing of ours any more, and may be dead or not."""
        self._crashes.stream_broke(worker, now_s)
        self._take_away(worker, now_s)

    def died(self, worker: WorkerKey, now_s: float) -> None:
        """That life of a worker is over, or it is silent for so long that it counts as over."""
        self._crashes.worker_died(worker, now_s)
        self._take_away(worker, now_s)

    def directory_changed(self, change: FleetChange, now_s: float) -> None:
        """Workers left the directory: those whose next life has joined are dead, others may be out of sight."""
        reborn = {info.worker_id for info in change.joined}
        for worker in change.left:
            if worker.worker_id in reborn:
                self.died(worker, now_s)
            else:
                self.stream_broke(worker, now_s)

    def judge_doubted(self, now_s: float) -> None:
        """Whose stream broke and did not come back in time is dead; it lost what it held when the stream broke."""
        overdue = self._crashes.overdue(now_s)
        for worker in overdue:
            self._crashes.worker_died(worker, now_s)
        if overdue:
            for live in list(self._lives.values()):
                self._apply(live, live.ledger.check_condemned(now_s), now_s)

    def _take_away(self, worker: WorkerKey, now_s: float) -> None:
        record = self._fleet.get(worker)
        if record is not None:
            record.pulse.stream_broke()
        for live in list(self._lives.values()):
            self._apply(live, live.ledger.on_worker_lost(worker, now_s), now_s)
        self._pairs.forget(worker)
        if record is not None:
            record.in_flight.clear()
