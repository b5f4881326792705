"""What a simulated worker is made of besides the product's own objects: its plan, its counts, its doors for threads."""

from collections.abc import Callable
from dataclasses import dataclass

from opentelemetry.metrics import NoOpMeter

from tandem.chaos.simulation.world import World
from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.messages import PrefillDone
from tandem.core.types import Role
from tandem.engine.config import EngineConfig
from tandem.engine.results import StepResult
from tandem.prefix_cache.config import PrefixCacheConfig
from tandem.worker_host.inbox import Action, Inbox
from tandem.worker_host.instruments import WorkerInstruments
from tandem.worker_host.kv_memory import EngineBlockMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """What one worker is, over all its lives."""

    name: str
    role: Role
    num_blocks: int
    engine: EngineConfig
    prefill_token_s: float
    step_s: float
    chunk_s: float
    thread_lag_s: float
    preempt: float  # chance that another thread gets a turn in the middle of a copy
    cache: PrefixCacheConfig | None = None  # None = its blocks outlive no attempt


class SimInstruments(WorkerInstruments):
    """Measures nothing but what the run counts."""

    def __init__(self, role: Role, world: World) -> None:
        super().__init__(meter=NoOpMeter("simulation"), role=role)
        self._world = world

    def stepped(self, result: StepResult) -> None:
        """See WorkerInstruments."""
        for _ in range(result.stats.num_preempted):
            self._world.hit("preemption")
        for event in result.events:
            if isinstance(event, PrefillDone) and event.num_cached_tokens:
                self._world.hit("prefix_reused")


class WakingInbox(Inbox):
    """An Inbox that wakes the engine of a simulated process."""

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__()
        self._wake = wake

    def post(self, action: Action) -> None:
        """See Inbox."""
        super().post(action)
        self._wake()


class PreemptibleMemory(EngineBlockMemory):
    """Block memory of the KV threads; before each hold another thread of the process may get a turn."""

    preempt: Callable[[], None] = staticmethod(lambda: None)

    def pin(self, ref: BlockRef, key: AttemptKey) -> memoryview | None:
        """See EngineBlockMemory."""
        self.preempt()
        return super().pin(ref, key)

    def begin_write(self, ref: BlockRef, key: AttemptKey) -> memoryview | None:
        """See EngineBlockMemory."""
        self.preempt()
        return super().begin_write(ref, key)
