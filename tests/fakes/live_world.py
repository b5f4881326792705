"""A cluster in memory for the live controller: workers with real guards, made-up traffic, a clock by hand."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tandem.controller.live.controller import Controller, Round
from tandem.controller.live.policies import Policies
from tandem.controller.live.ports import Ports
from tandem.core.decisions import Decision
from tandem.core.description import WorkerDescription
from tandem.core.errors import Unavailable
from tandem.core.ids import Epoch, WorkerId
from tandem.core.latency import LatencyCoefficients
from tandem.core.records import MemoryRecords, RecordStore, overwrite
from tandem.core.role_commands import CommandKind, RoleAnswer, RoleCommand, RoleGuard, obey
from tandem.core.traffic import EndedRequest, Guidance, TrafficReport
from tandem.core.types import Outcome, PriorityClass, Role, WorkerInfo, WorkerLoad

UNIX_S = 1_800_000_000.0
SPEED = LatencyCoefficients(prefill=(0.0, 1e-3, 0.0), step=(0.02, 2e-3, 0.0))


@dataclass
class HandClock:
    """Time as the test says."""

    at_s: float = 100.0

    def now_s(self) -> float:
        return self.at_s

    def unix_s(self) -> float:
        return UNIX_S + self.at_s


@dataclass
class FakeWorker:
    """One worker: its guard, and whether it holds anything."""

    guard: RoleGuard
    busy: bool = False
    answers: bool = True
    obeyed: list[RoleCommand] = field(default_factory=list)

    @property
    def info(self) -> WorkerInfo:
        return WorkerInfo(
            worker_id=self.guard.worker_id,
            epoch=self.guard.epoch,
            role=self.guard.role,
            address="127.0.0.1:1",
            model="m",
            model_digest="d",
            layout_fingerprint="f",
            block_size=16,
            total_blocks=1000,
            max_context_tokens=4096,
            max_sequences=64,
            pid=1,
            host="h",
        )


@dataclass
class LiveWorld:
    """All ports at once."""

    clock: HandClock = field(default_factory=HandClock)
    store: RecordStore = field(default_factory=MemoryRecords)
    workers: dict[str, FakeWorker] = field(default_factory=dict)
    rate_per_s: float = 1.0
    prompt_tokens: int = 100
    output_tokens: int = 10
    routers_answer: bool = True
    registry_answers: bool = True
    guidance: list[Guidance] = field(default_factory=list)
    router_term: int = 0
    told: list[Decision] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)

    def add(self, name: str, role: Role, *, epoch: int = 1) -> FakeWorker:
        worker = FakeWorker(RoleGuard(worker_id=WorkerId(name), epoch=Epoch(epoch), role=role))
        self.workers[name] = worker
        return worker

    def controller(self, name: str = "a") -> Controller:
        return Controller(
            controller_id=name,
            ports=Ports(registry=self, workers=self, routers=self),
            store=self.store,
            policies=Policies(self.store, None),
            clock=self.clock,
            unix_s=self.clock.unix_s,
            on_round=self.rounds.append,
            lease_s=5.0,
        )

    async def apply(self, policy: str) -> None:
        await overwrite(self.store, "policy", policy.encode())

    async def run(self, controller: Controller, seconds: float) -> None:
        """Let a controller work for so long."""
        end_s = self.clock.at_s + seconds
        while self.clock.at_s < end_s:
            self.clock.at_s += min(await controller.step(), max(end_s - self.clock.at_s, 0.01))
            self.check()

    def check(self) -> None:
        """Each role has a worker that takes work."""
        for role in Role:
            assert any(w.guard.role is role and not w.guard.draining for w in self.workers.values()), role

    @property
    def split(self) -> str:
        serving = [w.guard.role for w in self.workers.values() if not w.guard.draining]
        return f"{serving.count(Role.PREFILL)}:{serving.count(Role.DECODE)}"

    # --- WorkerList ------------------------------------------------------------------------------------------------

    async def list_workers(self) -> tuple[WorkerInfo, ...] | None:
        return tuple(worker.info for worker in self.workers.values()) if self.registry_answers else None

    async def close(self) -> None:
        return

    # --- WorkerPort ------------------------------------------------------------------------------------------------

    async def describe(self, info: WorkerInfo) -> WorkerDescription:
        worker = self._of(info)
        return WorkerDescription(
            info=worker.info,
            latency=SPEED,
            load=WorkerLoad(total_blocks=1000, free_blocks=1000),
            draining=worker.guard.draining,
            busy_s=0.5 * self.clock.at_s,
        )

    async def command(self, info: WorkerInfo, command: RoleCommand) -> RoleAnswer:
        worker = self._of(info)
        if command.kind is CommandKind.HAND_OVER:
            worker.busy = False
        obeyed = obey(worker.guard, command, busy=worker.busy)
        worker.guard = obeyed.guard
        if not obeyed.refusal and command.kind is not CommandKind.CLAIM:
            worker.obeyed.append(command)
        return RoleAnswer(report=worker.guard.report(busy=worker.busy), refusal=obeyed.refusal)

    async def keep_only(self, infos: tuple[WorkerInfo, ...]) -> None:
        return

    def _of(self, info: WorkerInfo) -> FakeWorker:
        worker = self.workers.get(info.worker_id)
        if worker is None or not worker.answers or worker.guard.epoch != info.epoch:
            raise Unavailable(f"{info.worker_id} does not answer")
        return worker

    # --- RouterPort ------------------------------------------------------------------------------------------------

    async def traffic(self, window_s: float) -> tuple[TrafficReport, ...]:
        if not self.routers_answer:
            raise Unavailable("the router does not answer")
        gap_s = 1.0 / self.rate_per_s
        ages = tuple(reversed([gap_s * index for index in range(int(window_s * self.rate_per_s))]))
        ended = EndedRequest(
            age_s=1.0, priority=PriorityClass.STANDARD, outcome=Outcome.OK, new_tokens=self.prompt_tokens,
            cached_tokens=0, output_tokens=self.output_tokens, ttft_s=0.1, tpot_s=0.02, gap_p95_s=0.02, e2e_s=1.0,
        )  # fmt: skip
        report = TrafficReport(
            router_id="r", window_s=window_s, arrivals={PriorityClass.STANDARD: ages}, ended=(ended,) * 30
        )
        return (report, replace(report, arrivals={}, ended=()))

    async def guide(self, guidance: Guidance) -> int:
        self.guidance.append(guidance)
        self.router_term = max(self.router_term, guidance.term)
        return self.router_term

    async def tell(self, source: str, decisions: Sequence[Decision]) -> None:
        self.told.extend(decisions)


def fixed(prefill: int, decode: int, *, mode: str = "Auto", extra: str = "", most: int = 6) -> str:
    return f"""
metadata: {{name: fixed}}
spec:
  mode: {mode}
  strategy: Fixed
  interval: 1s
  {extra}
  damping: {{dwell: 2s, reverseDwell: 2s, cooldown: 5s}}
  fallback: {{staleAfter: 3s}}
  pools:
    prefill: {{maxReplicas: {most}, replicas: {prefill}, drain: {{timeout: 5s}}}}
    decode: {{maxReplicas: {most}, replicas: {decode}, drain: {{timeout: 5s, onTimeout: Recover}},
      behavior: {{scaleDown: {{stabilizationWindowSeconds: 2}}}}}}
"""


def small_world(prefill: int = 2, decode: int = 2) -> LiveWorld:
    world = LiveWorld()
    for index in range(prefill):
        world.add(f"prefill-{index}", Role.PREFILL)
    for index in range(decode):
        world.add(f"decode-{index}", Role.DECODE)
    return world
