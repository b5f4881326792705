"""A worker on virtual time: steps that take what the tagged engine's cost model says, a real role guard. Zero I/O."""

import random
from collections import deque
from dataclasses import dataclass, field

from tandem.chaos.tagged.settings import TaggedCost
from tandem.core.ids import Epoch, WorkerId
from tandem.core.latency import LatencyCoefficients, LatencyEstimator, LatencyModel
from tandem.core.role_commands import RoleGuard
from tandem.core.types import GenerationTask, Role, WorkerInfo, WorkerLoad
from tandem.router.actions import WorkerKey
from tandem.router.client_stream import Sink
from tandem.router.placement import WorkerView

BLOCK = 16


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """One request on its way."""

    task: GenerationTask
    arrived_s: float
    phase: int
    num_output: int
    sink: Sink
    num_done: int = 0  # output tokens that its caller has
    left_prompt: int = 0  # tokens to compute before the next output token
    decode: str = ""  # the worker that decodes it, or will
    first_s: float | None = None
    last_s: float | None = None

    @property
    def context(self) -> int:
        """Tokens whose KV it has, or needs before it goes on."""
        return len(self.task.prompt_token_ids) + self.num_done

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to say."""
        return self.num_done >= self.num_output


@dataclass(slots=True, kw_only=True)
class Step:
    """What one step computes."""

    ends_s: float
    rows: list[Request]
    prompts: list[Request]  # those that are complete with it


@dataclass(slots=True, kw_only=True)
class Worker:
    """One worker."""

    guard: RoleGuard
    cost: TaggedCost
    info: WorkerInfo
    max_batched_tokens: int
    prompts: deque[Request] = field(default_factory=deque)
    rows: list[Request] = field(default_factory=list)
    reserved: list[Request] = field(default_factory=list)  # prompts elsewhere, or on their way
    step: Step | None = None
    busy_s: float = 0.0
    role: Role = Role.PREFILL
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    estimator: LatencyEstimator = field(default_factory=LatencyEstimator)  # fits what its steps take, as real ones do

    @property
    def is_busy(self) -> bool:
        """Whether it holds anything."""
        return bool(self.prompts or self.rows or self.reserved or self.step)

    def begin_step(self, now_s: float) -> float | None:
        """Begin a step if there is something to do; return when it ends."""
        if self.step is not None or not (self.prompts or self.rows):
            return None
        rows, left, complete = list(self.rows), self.max_batched_tokens - len(self.rows), []
        num_prompt, num_read, done = 0, 0, 0
        while self.prompts and left > 0:
            request = self.prompts[0]
            chunk = min(request.left_prompt, left)
            done = request.context - request.left_prompt
            request.left_prompt -= chunk
            num_read += 1
            num_prompt, left = num_prompt + chunk, left - chunk
            if request.left_prompt:
                break
            complete.append(self.prompts.popleft())
        seconds = self.cost.seconds(num_prefill_tokens=num_prompt, num_decode_rows=len(rows))
        seconds *= self.dice.uniform(1.0, 1.1)
        self.busy_s += seconds
        if num_read == 1 and not rows:  # only what says which part took how long teaches, as with real workers
            self.estimator.observe_prefill(num_new_tokens=num_prompt, num_cached_tokens=done, seconds=seconds)
        elif rows and not num_prompt:
            context = sum(each.context for each in rows)
            self.estimator.observe_step(num_sequences=len(rows), num_context_tokens=context, seconds=seconds)
        self.step = Step(ends_s=now_s + seconds, rows=rows, prompts=complete)
        return self.step.ends_s

    def load(self) -> WorkerLoad:
        """What it tells of itself."""
        held = [*self.rows, *self.prompts, *self.reserved]
        used = sum(-(-(each.context + each.num_output) // BLOCK) for each in held)
        return WorkerLoad(
            num_running=len(self.rows),
            num_waiting=len(self.prompts) + len(self.reserved),
            waiting_prefill_tokens=sum(each.left_prompt for each in self.prompts),
            running_context_tokens=sum(each.context for each in self.rows),
            total_blocks=self.info.total_blocks,
            free_blocks=max(self.info.total_blocks - used, 0),
        )

    def view(self) -> WorkerView:
        """What placement sees."""
        load, model = self.load(), model_of(self.cost)
        computing = sum(len(each.task.prompt_token_ids) for each in self.step.prompts) if self.step else 0
        waiting = load.waiting_prefill_tokens + computing
        return WorkerView(
            key=WorkerKey(worker_id=self.info.worker_id, epoch=self.info.epoch),
            role=self.role,
            model=model,
            block_size=BLOCK,
            total_blocks=load.total_blocks,
            free_blocks=load.free_blocks,
            max_sequences=self.info.max_sequences,
            num_sequences=load.num_running + load.num_waiting,
            context_tokens=load.running_context_tokens,
            queued_prefill_s=model.prefill_s(num_new_tokens=waiting) if waiting else 0.0,
        )


def coefficients_of(cost: TaggedCost) -> LatencyCoefficients:
    """What a worker would fit to its own steps."""
    return LatencyCoefficients(prefill=(cost.step_s, cost.prefill_token_s, 0.0), step=(cost.step_s, cost.row_s, 0.0))


def model_of(cost: TaggedCost) -> LatencyModel:
    """The same as a model."""
    return LatencyModel(coefficients=coefficients_of(cost))


def make_worker(name: str, role: Role, *, cost: TaggedCost, blocks: int, sequences: int, batched: int) -> Worker:
    """One that serves."""
    info = WorkerInfo(
        worker_id=WorkerId(name),
        epoch=Epoch(1),
        role=role,
        address="virtual:1",
        model="m",
        model_digest="d",
        layout_fingerprint="f",
        block_size=BLOCK,
        total_blocks=blocks,
        max_context_tokens=4096,
        max_sequences=sequences,
        pid=1,
        host="h",
    )
    guard = RoleGuard(worker_id=info.worker_id, epoch=info.epoch, role=role)
    return Worker(guard=guard, cost=cost, info=info, max_batched_tokens=batched, role=role)
