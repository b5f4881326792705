"""The chain of those who watch the dispatcher, made from the router's configuration."""

import time

from tandem.core.clock import Clock
from tandem.core.event_log import EventSink
from tandem.core.types import Role
from tandem.router.actions import WorkerKey
from tandem.router.config import RouterConfig
from tandem.router.decisions.log import open_decision_log
from tandem.router.decisions.observer import DecisionObserver
from tandem.router.dispatcher import Dispatcher
from tandem.router.event_trace import record_health
from tandem.router.health import Health
from tandem.router.observer import Observer
from tandem.router.samples import Levels, Samples
from tandem.router.traffic import TrafficMeter


class Watching:
    """Decisions and samples in front of ``inner``, which measures. ``observer`` is the dispatcher's."""

    def __init__(self, config: RouterConfig, inner: Observer, *, clock: Clock, event_log: EventSink | None) -> None:
        """Raises ConfigError or EnvironmentProblem when the decisions can't be kept as configured."""
        self.samples = Samples(
            inner,
            clock=clock,
            offset_s=time.time() - clock.now_s(),
            promised_s=config.admission.policy().ttft_slo_s,
        )
        self.log = open_decision_log(config.decisions, router_id=config.router_id, clock=clock)
        self._decisions = None if self.log is None else DecisionObserver(self.samples, self.log)
        self._event_log = event_log

    @property
    def observer(self) -> Observer:
        """What the dispatcher tells."""
        return self.samples if self._decisions is None else self._decisions

    def judged(self, worker: WorkerKey, health: Health) -> None:
        """The fleet believes something else of a worker."""
        if self._event_log is not None:
            record_health(self._event_log, worker, health)
        if self._decisions is not None:
            self._decisions.judged(worker, health)

    def step(self, dispatcher: Dispatcher, meter: TrafficMeter, now_s: float) -> None:
        """Take a sample when one is due; call it with the tick."""
        if self.samples.is_due(now_s):
            self.samples.promised_s = dispatcher.admitting.gate.policy.ttft_slo_s
            queued = dispatcher.queue.num_by_class()
            levels = Levels(
                num_prefill=dispatcher.fleet.num_alive(Role.PREFILL),
                num_decode=dispatcher.fleet.num_alive(Role.DECODE),
                num_running=dispatcher.num_live - sum(queued.values()),
                queued=queued,
                output_tokens=meter.num_output_tokens,
            )
            self.samples.take(levels, now_s)

    def close(self) -> None:
        """Write what is left; waits for the disk."""
        if self.log is not None:
            self.log.close()
