"""A cluster on virtual time for the controller: queues and batches move as the latency model says, workers take time to
drain, to switch and to start. Arrivals are drawn from a seed. A role without a serving worker is an error at once.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tandem.controller.deciding.decide import decide, move_ended
from tandem.controller.deciding.values import (
    AddWorkers,
    ControllerState,
    DecisionRecord,
    ExchangeWorker,
    Move,
    RemoveWorkers,
    SwitchRoles,
)
from tandem.controller.observation import ClassTraffic, Now, Observation, RequestShape, Stage, WorkerSeen
from tandem.controller.policy.bounds import Split
from tandem.controller.policy.model import AutoscalingPolicy
from tandem.core.ids import Epoch, WorkerId
from tandem.core.latency import LatencyCoefficients, LatencyModel
from tandem.core.types import PriorityClass, Role

MODEL = LatencyModel(coefficients=LatencyCoefficients(prefill=(2e-3, 1e-4, 1e-8), step=(1e-2, 5e-4, 1e-7)))
TICK_S = 0.25
UNIX_S = 1_800_000_000.0


@dataclass(frozen=True)
class Load:
    """What callers ask for."""

    rate_per_s: float
    prompt_tokens: int
    output_tokens: int


@dataclass
class _Request:
    arrived_s: float
    shape: RequestShape
    work_s: float
    first_s: float | None = None
    left_tokens: float = 0.0


@dataclass
class Plant:
    """One run: ``load`` says what is asked for at a time, ``policy`` who decides."""

    policy: AutoscalingPolicy
    start: Split
    load: Callable[[float], Load]
    seed: int = 0
    drain_s: float = 8.0
    switch_s: float = 2.0
    boot_s: float = 40.0
    blind: Callable[[float], bool] = lambda now_s: False
    now_s: float = 0.0
    state: ControllerState = field(default_factory=ControllerState)
    records: list[DecisionRecord] = field(default_factory=list)
    moves: list[tuple[float, Move]] = field(default_factory=list)
    splits: list[tuple[float, Split]] = field(default_factory=list)
    ttfts: list[tuple[float, float]] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)
    borrowed: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._workers: dict[WorkerId, WorkerSeen] = {}
        self._num_made = 0
        for role, count in ((Role.PREFILL, self.start.prefill), (Role.DECODE, self.start.decode)):
            for _ in range(count):
                self._make(role, Stage.SERVING)
        self._script: deque[tuple[float, Callable[[], None]]] = deque()
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._arrivals: deque[float] = deque()
        self._shapes: deque[RequestShape] = deque(maxlen=64)
        self._next_decision_s = 0.0
        self._share = 0.0
        self._credit_s = 0.0

    # --- what tests ask -------------------------------------------------------------------------------------------

    def run_until(self, end_s: float) -> "Plant":
        while self.now_s < end_s:
            self._tick()
        return self

    @property
    def split(self) -> Split:
        serving = [worker for worker in self._workers.values() if worker.stage is Stage.SERVING]
        prefill = sum(worker.role is Role.PREFILL for worker in serving)
        return Split(prefill=prefill, decode=len(serving) - prefill)

    def moves_between(self, begin_s: float, end_s: float) -> list[Move]:
        return [move for at, move in self.moves if begin_s <= at < end_s]

    def kept(self, begin_s: float, end_s: float, *, ttft_s: float, gap_s: float) -> float:
        """Share of first tokens and of time in which gaps were in time."""
        ttfts = [value <= ttft_s for at, value in self.ttfts if begin_s <= at < end_s]
        gaps = [value <= gap_s for at, value in self.gaps if begin_s <= at < end_s]
        return min(sum(ttfts) / max(len(ttfts), 1), sum(gaps) / max(len(gaps), 1))

    # --- the world ------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        while self._script and self._script[0][0] <= self.now_s:
            self._script.popleft()[1]()
        split = self.split
        assert min(split.prefill, split.decode) >= 1, f"{split} at {self.now_s} s"
        self._arrive()
        self._prefill(split)
        self._decode(split)
        if self.now_s >= self._next_decision_s:
            self._next_decision_s += self.policy.spec.interval_s
            self._decide()
            self.splits.append((self.now_s, self.split))
        self.now_s += TICK_S

    def _arrive(self) -> None:
        load = self.load(self.now_s)
        at = self.now_s + self._random.expovariate(load.rate_per_s)
        while at < self.now_s + TICK_S:
            prompt = max(int(self._random.gauss(1.0, 0.2) * load.prompt_tokens), 1)
            output = max(int(self._random.expovariate(1.0 / load.output_tokens)), 1)
            shape = RequestShape(new_tokens=prompt, cached_tokens=0, output_tokens=output)
            work_s = MODEL.prefill_s(num_new_tokens=prompt)
            self._waiting.append(_Request(arrived_s=at, shape=shape, work_s=work_s, left_tokens=output))
            self._arrivals.append(at)
            self._shapes.append(shape)
            at += self._random.expovariate(load.rate_per_s)

    def _prefill(self, split: Split) -> None:
        """Compute prompts in order; borrowed ones are computed beside, by decode workers."""
        capacity_s = split.prefill * TICK_S / max(1.0 - self._share, 0.05)
        self._credit_s = min(self._credit_s, 0.0) + capacity_s
        while self._waiting and self._credit_s > 0.0:
            request = self._waiting.popleft()
            self._credit_s -= request.work_s
            # A request alone is not quicker than its own prefill, however many workers there are.
            request.first_s = max(self.now_s + TICK_S / 2, request.arrived_s) + request.work_s
            self.ttfts.append((request.arrived_s, request.first_s - request.arrived_s))
            self._running.append(request)

    def _decode(self, split: Split) -> None:
        batch = len(self._running) / split.decode
        context = sum(r.shape.new_tokens + r.shape.output_tokens - r.left_tokens for r in self._running) / split.decode
        lent = min(self._share * self.load(self.now_s).rate_per_s * self._mean_work_s() / split.decode, 0.9)
        step_s = MODEL.step_s(num_sequences=int(batch), num_context_tokens=int(context)) / (1.0 - lent)
        for request in self._running:
            request.left_tokens -= TICK_S / step_s
        self._running = [request for request in self._running if request.left_tokens > 0.0]
        self.gaps.append((self.now_s, step_s))

    def _mean_work_s(self) -> float:
        works = [MODEL.prefill_s(num_new_tokens=shape.new_tokens) for shape in self._shapes]
        return sum(works) / max(len(works), 1)

    def _num_recent(self) -> int:
        return sum(1 for at, _ in self.ttfts[-1000:] if at > self.now_s - 60.0)

    def _recently_kept(self) -> dict[str, float]:
        promise = self.policy.spec.classes.standard
        if promise is None or promise.ttft is None or promise.itl is None or not self._num_recent():
            return {}
        since_s = self.now_s - 60.0
        ttfts = [value <= promise.ttft.target_s for at, value in self.ttfts[-1000:] if at > since_s]
        gaps = [value <= promise.itl.target_s for at, value in self.gaps[-300:] if at > since_s]
        return {"ttft": sum(ttfts) / len(ttfts), "itl": sum(gaps) / len(gaps)}

    # --- the controller -------------------------------------------------------------------------------------------

    def observe(self) -> Observation | None:
        if self.blind(self.now_s):
            return None
        while self._arrivals and self._arrivals[0] < self.now_s - 20.0:
            self._arrivals.popleft()
        rate = len(self._arrivals) / min(max(self.now_s, 1.0), 20.0)
        traffic = ClassTraffic(
            arrivals_per_s=rate, shapes=tuple(self._shapes), num_ended=self._num_recent(), kept=self._recently_kept()
        )
        return Observation(
            measured_s=self.now_s,
            workers=tuple(self._workers.values()),
            traffic={PriorityClass.STANDARD: traffic} if self._shapes else {},
            prefill_model=MODEL,
            decode_model=MODEL,
            max_sequences=256,
            kv_tokens=1_000_000,
            backlog_s=sum(request.work_s for request in self._waiting),
        )

    def _decide(self) -> None:
        now = Now(monotonic_s=self.now_s, unix_s=UNIX_S + self.now_s)
        decision = decide(self.observe(), self.policy, self.state, now)
        self.state = decision.state
        self.records.append(decision.record)
        self._share = decision.borrow.share
        self.borrowed.append((self.now_s, self._share))
        if decision.move is not None:
            self.moves.append((self.now_s, decision.move))
            self._begin(decision.move)

    def _begin(self, move: Move) -> None:
        at = self.now_s
        if isinstance(move, SwitchRoles):
            for worker in move.workers:
                self._later(at, self._stage, worker, Stage.DRAINING)
                at += self.drain_s + self.switch_s
                self._later(at, self._turn, worker, move.to)
        elif isinstance(move, RemoveWorkers | ExchangeWorker):
            workers = move.workers if isinstance(move, RemoveWorkers) else (move.remove,)
            for worker in workers:
                self._later(at, self._stage, worker, Stage.DRAINING)
                at += self.drain_s
                self._later(at, self._workers.pop, worker)
        if isinstance(move, AddWorkers | ExchangeWorker):
            counts = (
                {Role.PREFILL: move.prefill, Role.DECODE: move.decode}
                if isinstance(move, AddWorkers)
                else {move.add: 1}
            )
            made = [self._make(role, Stage.STARTING) for role, count in counts.items() for _ in range(count)]
            at = max(at, self.now_s + self.boot_s)
            for worker in made:
                self._later(at, self._stage, worker, Stage.SERVING)
        self._later(at, self._end)

    def _later(self, at_s: float, what: Callable[..., object], *arguments: object) -> None:
        def call() -> None:
            what(*arguments)

        self._script.append((at_s, call))
        self._script = deque(sorted(self._script, key=lambda entry: entry[0]))

    def _make(self, role: Role, stage: Stage) -> WorkerId:
        name = WorkerId(f"worker-{self._num_made}")
        self._num_made += 1
        self._workers[name] = WorkerSeen(worker_id=name, epoch=Epoch(1), role=role, stage=stage)
        return name

    def _stage(self, worker: WorkerId, stage: Stage) -> None:
        self._workers[worker] = replace(self._workers[worker], stage=stage)

    def _turn(self, worker: WorkerId, role: Role) -> None:
        self._workers[worker] = replace(self._workers[worker], stage=Stage.SERVING, role=role)

    def _end(self) -> None:
        self.state = move_ended(self.state, Now(monotonic_s=self.now_s, unix_s=UNIX_S + self.now_s))
