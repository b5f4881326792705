"""One simulated router process: the product's dispatcher and all it joins, fed by simulated streams and a registry."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from tandem.chaos.simulation.attach import AttachLink
from tandem.chaos.simulation.events import Judge
from tandem.chaos.simulation.network import Network
from tandem.chaos.simulation.process import Process
from tandem.chaos.simulation.show import show_command, show_report
from tandem.chaos.simulation.worker import SimWorker
from tandem.core.latency import LatencyCoefficients
from tandem.core.messages import Beat, Command, StepReport
from tandem.core.types import WorkerInfo
from tandem.router.actions import WorkerKey
from tandem.router.config import RouterConfig
from tandem.router.directory import MemoryDirectory
from tandem.router.dispatcher import Dispatcher
from tandem.router.event_trace import record_health
from tandem.router.fleet import Fleet
from tandem.router.observer import SilentObserver
from tandem.router.queue import CentralQueue

TICK_S = 0.05
_DIRECTORY_S = 0.5


class SimRouter:
    """One life of one router."""

    def __init__(
        self,
        process: Process,
        config: RouterConfig,
        *,
        network: Network,
        directory: MemoryDirectory,
        find: Callable[[str], SimWorker | None],
        through_codec: bool,
        judge: Judge,
    ) -> None:
        self.process = process
        self.links: dict[WorkerKey, AttachLink] = {}
        self._network = network
        self._directory = directory
        self._find = find
        self._through_codec = through_codec
        self._seen: Sequence[WorkerInfo] = ()
        sink = judge.sink(process, process.world.rng.getrandbits(63))
        self.dispatcher = Dispatcher(
            fleet=Fleet(config.timers.health(), on_health=partial(record_health, sink)),
            queue=CentralQueue(config.queue.bounds(), config.queue.tenant_weights),
            policy=config.dispatcher_policy(),
            clock=process.clock,
            send=self._send,
            observer=SilentObserver(),
            event_log=sink,
        )
        process.every(TICK_S, self._tick)
        process.every(_DIRECTORY_S, self._watch)

    # --- LinkEvents ------------------------------------------------------------------------------------------------

    def on_profile(self, worker: WorkerKey, coefficients: LatencyCoefficients) -> None:
        """See `tandem.router.server`."""
        record = self.dispatcher.fleet.get(worker)
        if record is not None:
            record.profile(coefficients)

    def on_attached(self, worker: WorkerKey) -> None:
        """See `tandem.router.server`."""
        self.dispatcher.on_attached(worker)

    def on_report(self, worker: WorkerKey, report: StepReport) -> None:
        """See `tandem.router.server`."""
        self.process.world.tell(worker.worker_id, lambda: f"reports {show_report(report)}")
        self.dispatcher.on_report(worker, report)

    def on_beat(self, worker: WorkerKey, beat: Beat) -> None:
        """See `tandem.router.server`."""
        self.dispatcher.on_beat(worker, beat)

    def on_lost(self, worker: WorkerKey) -> None:
        """See `tandem.router.server`."""
        self.dispatcher.on_lost(worker)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _send(self, worker: WorkerKey, command: Command) -> None:
        link = self.links.get(worker)
        self.process.world.tell(self.process.name, lambda: f"to {worker.worker_id}: {show_command(command)}")
        if link is not None:
            link.send(command)

    def _tick(self) -> None:
        for worker in self.dispatcher.step():
            self.process.world.note(self.process.name, f"finds {worker.worker_id} dead")
            link = self.links.get(worker)
            if link is not None:
                link.restart()
        self._change((), self.dispatcher.fleet.forget_unlisted())

    def _watch(self) -> None:
        workers = self._directory.workers()
        if workers != self._seen:
            self._seen = workers
            change = self.dispatcher.fleet.apply(workers)
            self._change(change.joined, change.left)
            self.dispatcher.on_directory(change)

    def _change(self, joined: Iterable[WorkerInfo], left: Iterable[WorkerKey]) -> None:
        for key in left:
            link = self.links.pop(key, None)
            if link is not None:
                link.close()
        for info in joined:
            link = AttachLink(
                info,
                network=self._network,
                router=self.process,
                events=self,
                find=self._find,
                through_codec=self._through_codec,
            )
            self.links[link.key] = link
            link.start()

    # --- at the end ------------------------------------------------------------------------------------------------

    def leftovers(self) -> list[str]:
        """What is still there; empty when every request ended and everything was given back."""
        dispatcher = self.dispatcher
        problems = []
        if dispatcher.num_live:
            problems.append(f"{dispatcher.num_live} requests have not ended")
        if len(dispatcher.queue):
            problems.append(f"{len(dispatcher.queue)} requests are queued")
        for record in dispatcher.fleet.records():
            if len(record.in_flight):
                held = [f"{key.request_id}/{key.attempt}" for key in record.in_flight._charges]
                problems.append(f"{held} are counted in flight on {record.key.worker_id}")
        return problems
