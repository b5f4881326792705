"""A cluster on virtual time: the production controller, placement, meter and role guards; workers that only take time.

What is not production code: the steps of workers (`worker`), and a router that keeps one queue in order of arrival.
"""

import heapq
import itertools
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from benchmarks.controller_sim.worker import Request, Worker, make_worker, model_of
from benchmarks.controller_world.load import Phase, phase_of, specs_of
from tandem.chaos.cluster import RequestSpec
from tandem.chaos.tagged.settings import TaggedCost
from tandem.controller.live.controller import Controller, Round
from tandem.controller.live.policies import Policies
from tandem.controller.live.ports import Ports
from tandem.core.decisions import Decision
from tandem.core.description import WorkerDescription
from tandem.core.ids import LOCAL_TENANT, RequestId
from tandem.core.records import POLICY_RECORD, MemoryRecords, overwrite
from tandem.core.role_commands import CommandKind, RoleAnswer, RoleCommand, obey
from tandem.core.traffic import Guidance, TrafficReport
from tandem.core.types import (
    GenerationTask,
    Outcome,
    PhaseTimings,
    Role,
    SamplingParams,
    TokenDelta,
    Usage,
    WorkerInfo,
)
from tandem.router.actions import Ended, Started
from tandem.router.borrowing import Borrowing
from tandem.router.lengths import OutputLengths
from tandem.router.placement import Demand, NoCapacity, PlacementPolicy, place
from tandem.router.traffic import TrafficMeter

HAND_OVER_S = 0.05
UNIX_S = 1_800_000_000.0


class RoleEmptied(Exception):
    """A role has no worker that takes work."""


class Nowhere:
    """A caller who keeps nothing."""

    def put_started(self, started: Started) -> None:
        """Nothing."""

    def put_delta(self, delta: TokenDelta) -> None:
        """Nothing."""

    def put_ended(self, ended: Ended) -> None:
        """Nothing."""

    def put_keep_alive(self) -> None:
        """Nothing."""


@dataclass(slots=True)
class VirtualClock:
    """Time as the simulation says."""

    at_s: float = 1000.0

    def now_s(self) -> float:
        """Seconds since some start."""
        return self.at_s

    def unix_s(self) -> float:
        """The wall clock."""
        return UNIX_S + self.at_s


@dataclass
class VirtualCluster:
    """All ports of a controller at once. ``run`` plays the phases; what came of it stays in the fields."""

    cost: TaggedCost
    split: tuple[int, int]
    blocks: int = 1280
    sequences: int = 64
    batched: int = 1024
    clock: VirtualClock = field(default_factory=VirtualClock)
    requests: list[Request] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    splits: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begin_s = self.clock.at_s
        self.meter = TrafficMeter(self.clock)
        self.store = MemoryRecords()
        self.borrowing = Borrowing()
        self.lengths = OutputLengths()
        self.workers: dict[str, Worker] = {}
        for role, count in zip((Role.PREFILL, Role.DECODE), self.split, strict=True):
            for index in range(count):
                self.workers[f"{role.value}-{index}"] = make_worker(
                    f"{role.value}-{index}", role, cost=self.cost, blocks=self.blocks, sequences=self.sequences,
                    batched=self.batched,
                )  # fmt: skip
        self._waiting: deque[Request] = deque()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    # --- running --------------------------------------------------------------------------------------------------

    async def run(self, phases: Sequence[Phase], *, seed: int, policy: str | None) -> None:
        """Play the phases, under a controller with ``policy`` if there is one, until every request has ended."""
        for spec in specs_of(phases, seed=seed):
            self._later(self.begin_s + spec.start_after_s, partial(self._arrive, spec))
        controller: Controller | None = None
        if policy is not None:
            await overwrite(self.store, POLICY_RECORD, policy.encode())
            controller = Controller(
                controller_id="c", ports=Ports(registry=self, workers=self, routers=self), store=self.store,
                policies=Policies(self.store, None), clock=self.clock, unix_s=self.clock.unix_s,
                on_round=self.rounds.append,
            )  # fmt: skip
        due_s = self.clock.at_s
        end_s = self.begin_s + sum(phase.seconds for phase in phases)
        while self._events or self._waiting:
            next_s = self._events[0][0] if self._events else self.clock.at_s + 1.0
            if controller is not None and due_s <= next_s:
                self.clock.at_s = max(due_s, self.clock.at_s)
                due_s = self.clock.at_s + await controller.step()
                self._note_split()
                continue
            self.clock.at_s = max(next_s, self.clock.at_s)
            if self._events:
                heapq.heappop(self._events)[2]()
            self._dispatch()
            if self.clock.at_s > end_s + 600.0:
                break

    def _later(self, at_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._numbers), what))

    def _note_split(self) -> None:
        serving = [w.role for w in self.workers.values() if not w.guard.draining]
        now = f"{serving.count(Role.PREFILL)}:{serving.count(Role.DECODE)}"
        if not self.splits or self.splits[-1][1] != now:
            self.splits.append((self.clock.at_s - self.begin_s, now))
        if len(set(serving)) < 2:
            raise RoleEmptied(now)

    # --- the router -----------------------------------------------------------------------------------------------

    def _arrive(self, spec: RequestSpec) -> None:
        task = GenerationTask(
            request_id=RequestId(spec.label), attempt=0, tenant=LOCAL_TENANT, prompt_token_ids=spec.prompt,
            num_sequences=1, sampling=SamplingParams(), stop=replace(spec.stop, max_tokens=512),
        )  # fmt: skip
        now_s = self.clock.at_s
        request = Request(
            task=task, arrived_s=now_s, phase=phase_of(spec), num_output=spec.stop.max_tokens,
            sink=self.meter.watch(Nowhere(), task, arrived_s=now_s), left_prompt=len(spec.prompt),
        )  # fmt: skip
        self.requests.append(request)
        self._waiting.append(request)

    def _dispatch(self) -> None:
        while self._waiting:
            request = self._waiting[0]
            views = [w.view() for w in self.workers.values() if not w.guard.draining]
            choice = place(
                Demand(
                    num_prompt_tokens=request.context, num_sequences=1,
                    growth_tokens=self.lengths.expected_tokens(LOCAL_TENANT, request.task.stop.max_tokens),
                    draw=zlib.crc32(request.task.request_id.encode()),
                ),
                prefills=[v for v in views if v.role is Role.PREFILL],
                decodes=[v for v in views if v.role is Role.DECODE],
                policy=PlacementPolicy(borrow_share=self.borrowing.share(self.clock.at_s)),
            )  # fmt: skip
            if isinstance(choice, NoCapacity):
                return
            self._waiting.popleft()
            request.decode = choice.decode.worker_id
            request.left_prompt = request.context
            request.sink.put_started(Started(num_prompt_tokens=len(request.task.prompt_token_ids), num_cached_tokens=0))
            if choice.prefill is None:
                self._give(choice.decode.worker_id, request)
            else:
                self.workers[choice.decode.worker_id].reserved.append(request)
                self._give(choice.prefill.worker_id, request)

    def _give(self, name: str, request: Request) -> None:
        self.workers[name].prompts.append(request)
        self._step(name)

    # --- workers --------------------------------------------------------------------------------------------------

    def _step(self, name: str) -> None:
        ends_s = self.workers[name].begin_step(self.clock.at_s)
        if ends_s is not None:
            self._later(ends_s, lambda: self._stepped(name))

    def _stepped(self, name: str) -> None:
        worker = self.workers[name]
        step, worker.step = worker.step, None
        if step is None:
            return
        for request in step.rows:
            if request in worker.rows:
                self._token(request, worker)
        for request in step.prompts:
            if request.decode == name:
                worker.rows.append(request)
                self._token(request, worker)
                continue
            target = self.workers[request.decode]
            if request not in target.reserved:  # it was handed over meanwhile
                continue
            self._token(request, target)
            if not request.is_over:
                self._later(self.clock.at_s + HAND_OVER_S, partial(self._handed_over, request))
        self._step(name)

    def _handed_over(self, request: Request) -> None:
        target = self.workers[request.decode]
        if request in target.reserved:
            target.reserved.remove(request)
            target.rows.append(request)
            self._step(request.decode)

    def _token(self, request: Request, worker: Worker) -> None:
        now_s = self.clock.at_s
        request.first_s = now_s if request.first_s is None else request.first_s
        request.last_s = now_s
        request.sink.put_delta(
            TokenDelta(request_id=request.task.request_id, attempt=0, child=0, position=request.num_done,
                       token_ids=(5,), text="")
        )  # fmt: skip
        request.num_done += 1
        if not request.is_over:
            return
        for held in (worker.rows, worker.reserved):
            if request in held:
                held.remove(request)
        self.lengths.observe(LOCAL_TENANT, request.num_done)
        request.sink.put_ended(
            Ended(outcome=Outcome.OK, error=None,
                  usage=Usage(prompt_tokens=len(request.task.prompt_token_ids), cached_tokens=0,
                              output_tokens=request.num_done),
                  timings=PhaseTimings(ttft_ms=1e3 * (request.first_s - request.arrived_s)),
                  prefill_worker_id="", decode_worker_id="", num_attempts=1)
        )  # fmt: skip

    def _hand_over(self, worker: Worker) -> None:
        """End what is left here; the router continues it elsewhere, from the tokens that callers have."""
        left = [*worker.rows, *worker.prompts, *worker.reserved, *(worker.step.prompts if worker.step else ())]
        for each in self.workers.values():
            each.prompts = deque(request for request in each.prompts if request not in left)
            each.reserved = [request for request in each.reserved if request not in left]
        worker.rows.clear()
        if worker.step is not None:
            worker.step.prompts.clear()
        self._waiting.extendleft(sorted(set(left), key=lambda request: -request.arrived_s))
        self._dispatch()

    # --- the controller's ports -----------------------------------------------------------------------------------

    async def list_workers(self) -> tuple[WorkerInfo, ...] | None:
        """All of them."""
        return tuple(worker.info for worker in self.workers.values())

    async def close(self) -> None:
        """Nothing is open."""

    async def describe(self, info: WorkerInfo) -> WorkerDescription:
        """One of them."""
        worker = self.workers[info.worker_id]
        return WorkerDescription(
            info=replace(worker.info, role=worker.role), latency=worker.estimator.model().coefficients,
            load=worker.load(), draining=worker.guard.draining, busy_s=worker.busy_s,
        )  # fmt: skip

    async def command(self, info: WorkerInfo, command: RoleCommand) -> RoleAnswer:
        """As a worker's role desk does."""
        worker = self.workers[info.worker_id]
        obeyed = obey(worker.guard, command, busy=worker.is_busy)
        worker.guard = obeyed.guard
        worker.role = worker.guard.role
        if command.kind is CommandKind.HAND_OVER and not obeyed.refusal:
            self._hand_over(worker)
        self._note_split()
        return RoleAnswer(report=worker.guard.report(busy=worker.is_busy), refusal=obeyed.refusal)

    async def keep_only(self, infos: tuple[WorkerInfo, ...]) -> None:
        """Nothing is open."""

    async def traffic(self, window_s: float) -> tuple[TrafficReport, ...]:
        """As a router's control front does."""
        model = model_of(self.cost)
        return (
            self.meter.report(
                "r", window_s,
                queued_work_s=sum(model.prefill_s(num_new_tokens=each.context) for each in self._waiting),
                borrow_share=self.borrowing.share(self.clock.at_s),
            ),
        )  # fmt: skip

    async def guide(self, guidance: Guidance) -> int:
        """Follow it."""
        return self.borrowing.follow(guidance, self.clock.at_s)

    async def tell(self, source: str, decisions: Sequence[Decision]) -> None:
        """Rounds are kept by ``on_round``."""
