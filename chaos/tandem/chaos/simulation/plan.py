"""What one seed's cluster, callers and troubles are like: everything is drawn here, before anything runs."""

import random
from dataclasses import dataclass, replace

from tandem.chaos.simulation.worker_parts import WorkerPlan
from tandem.chaos.simulation.workload import WorkloadPlan
from tandem.core.ids import Tenant
from tandem.core.types import Role
from tandem.engine.config import Batching, EngineConfig
from tandem.prefix_cache.config import PrefixCacheConfig
from tandem.prefix_cache.eviction.choice import EvictionName
from tandem.router.config import PlacementSection, QueueSection, RouterConfig
from tandem.router.placement import PlacementMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """When what happens, in simulated seconds."""

    end_s: float = 60.0

    @property
    def faults_end_s(self) -> float:
        """Every fault is over, and what was cut is whole again."""
        return 0.7 * self.end_s

    @property
    def load_ends_s(self) -> float:
        """The last ordinary request arrives."""
        return 0.75 * self.end_s

    @property
    def probes_s(self) -> float:
        """Requests that must end OK are sent."""
        return 0.82 * self.end_s

    @property
    def quiet_by_s(self) -> float:
        """Nothing may be left: two leases after the faults, and what the longest request may take."""
        return self.faults_end_s + 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlan:
    """One seed's cluster."""

    workers: tuple[WorkerPlan, ...]
    late: frozenset[str]  # workers that join in the middle
    router: RouterConfig
    workload: WorkloadPlan
    through_codec: bool
    skew: float  # 0 = all clocks agree
    mean_gap_s: float  # between faults


def draw_plan(rng: random.Random, *, is_calm: bool) -> ClusterPlan:
    """Draw a cluster; a calm one has no skew, no preemption and callers without bad habits."""
    is_small = rng.random() < 0.5
    # The router reserves what a tenant's answers usually need: only many requests of one tenant that come at once make
    # a decode worker preempt.
    is_tight = is_small and rng.random() < 0.3
    workers = []
    for role, most in ((Role.PREFILL, 2), (Role.DECODE, 3)):
        num_blocks = rng.randint(8, 24) if is_small else rng.choice((40, 64, 100))
        workers += [
            _draw_worker(rng, f"{role.value}-{index}", role, num_blocks, is_calm=is_calm, is_tight=is_tight)
            for index in range(1 if is_tight else rng.randint(1, most))
        ]
    names = [plan.name for plan in workers]
    late = (
        frozenset(rng.sample(names, rng.randint(1, len(names)))) if rng.random() < 0.2 and not is_calm else frozenset()
    )
    router = RouterConfig(
        placement=PlacementSection(mode=rng.choice((PlacementMode.AUTO, PlacementMode.SPLIT, PlacementMode.SPLIT))),
        queue=QueueSection(max_wait_s=30.0),
    )
    smallest = min(plan.num_blocks for plan in workers)
    workload = WorkloadPlan(
        per_s=3.0 if is_tight else rng.choice((0.5, 1.0, 1.0, 2.0)),
        cancel_share=0.0 if is_calm else rng.choice((0.0, 0.1, 0.5)),
        deadline_share=0.0 if is_calm else rng.choice((0.0, 0.3)),
        slow_share=0.0 if is_calm else rng.choice((0.0, 0.0, 0.2)),
        poison_share=0.0 if is_calm else rng.choice((0.0, 0.0, 0.03)),
        poisons=tuple(rng.sample(("exit", "raise", "nan", "oom"), 2)),
        num_tenants=1 if is_tight else rng.randint(1, 3),
        most_prompt_blocks=min(8, smallest // 2),
        most_output=min(24, 4 * (smallest // 2) - 4),
        smallest_pool=smallest,
        burst=10 if is_tight else rng.choice((1, 1, 3)),
    )
    return ClusterPlan(
        workers=tuple(workers),
        late=late,
        router=router,
        workload=workload,
        through_codec=rng.random() < 0.2,
        skew=0.0 if is_calm or rng.random() < 0.7 else 0.02,
        mean_gap_s=rng.choice((1.0, 2.0, 5.0)),
    )


def with_caches(plan: ClusterPlan, rng: random.Random) -> ClusterPlan:
    """Return the same cluster with prefix caches, and callers whose prompts begin alike."""
    cache = PrefixCacheConfig(
        eviction=rng.choice(list(EvictionName)), tenant_weights={Tenant("tenant-0"): rng.choice((0.3, 1.0, 4.0))}
    )
    return replace(
        plan,
        workers=tuple(replace(worker, cache=cache) for worker in plan.workers),
        workload=replace(plan.workload, prompts_begin_alike=True),
    )


def _draw_worker(
    rng: random.Random, name: str, role: Role, num_blocks: int, *, is_calm: bool, is_tight: bool
) -> WorkerPlan:
    chunk = rng.choice((4, 8, 64))
    return WorkerPlan(
        name=name,
        role=role,
        num_blocks=num_blocks,
        engine=EngineConfig(
            block_size=4,
            num_blocks=num_blocks,
            max_batched_tokens=chunk,
            mixed_prefill_tokens=chunk,
            max_sequences=16 if is_tight else rng.choice((4, 16)),
            growth_margin=0.0 if is_tight else rng.choice((0.0, 0.3)),
            batching=rng.choice((Batching.CONTINUOUS, Batching.CONTINUOUS, Batching.CONTINUOUS, Batching.DYNAMIC)),
        ),
        prefill_token_s=rng.choice((5e-4, 2e-3)),
        step_s=rng.choice((0.01, 0.03)),
        chunk_s=rng.choice((1e-4, 2e-3, 1e-2)),
        thread_lag_s=rng.choice((1e-4, 1e-2)),
        preempt=0.0 if is_calm else rng.choice((0.0, 0.05, 0.3)),
    )
