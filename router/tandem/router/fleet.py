"""All workers this router knows: identity, health, load, in-flight estimate and latency model of each. Zero I/O."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from tandem.core.blocks import AttemptKey
from tandem.core.ids import Epoch, WorkerId
from tandem.core.latency import LatencyCoefficients, LatencyEstimator, LatencyModel
from tandem.core.messages import Beat, HandoverDone, PrefillDone
from tandem.core.types import GenerationTask, Role, WorkerInfo, WorkerLoad
from tandem.router.actions import WorkerKey
from tandem.router.borrowing import Borrowing
from tandem.router.credits import InFlight
from tandem.router.health import Health, HealthTimers, WorkerPulse
from tandem.router.placement import WorkerView

OnHealth = Callable[[WorkerKey, Health], None]

_MOST_NOTED = 64
_MOST_LIVES = 16  # that are remembered of one worker
_FADE_AFTER_S = 5.0  # a worker without work is judged by what it last showed for so long ...
_FADE_EVERY_S = 1.0
_FADE_SHARE = 1.0 - 0.5**0.1  # ... and then its own start profile takes over, half of the way in ten seconds
_LEARN_EVERY_S = 0.25  # enough to follow a worker; learning from each step would cost more than it tells


@dataclass(frozen=True, slots=True)
class _Prefill:
    num_new_tokens: int
    event: PrefillDone


class WorkerRecord:
    """One life of one worker."""

    def __init__(self, info: WorkerInfo, timers: HealthTimers, *, on_health: OnHealth | None = None) -> None:
        self.info = info
        self.key = WorkerKey(worker_id=info.worker_id, epoch=info.epoch)
        self.role = info.role
        self.pulse = WorkerPulse(timers, on_change=None if on_health is None else partial(on_health, self.key))
        self._drains = False  # as its last beat says
        self._drain_ordered_until_s = float("-inf")
        self.load: WorkerLoad | None = None
        self.in_flight = InFlight()
        self.model = LatencyModel()
        self._estimator = LatencyEstimator()
        self._learnt_s = float("-inf")
        self._fade_at_s = float("inf")  # nothing was learnt yet that could be forgotten
        self._prefills: deque[_Prefill] = deque(maxlen=_MOST_NOTED)
        self._transfers: deque[HandoverDone] = deque(maxlen=_MOST_NOTED)
        self._kv_bytes_per_token = 0.0

    @property
    def draining(self) -> bool:
        """It says so, or it was told to and has not said so yet."""
        return self._drains or self._drain_ordered_until_s > float("-inf")

    def order_drain(self, until_s: float) -> None:
        """Give it no more work until a beat says that it drains: one sent before it heard of the order does not count.

        From ``until_s`` on its beats are believed in any case.
        """
        self._drain_ordered_until_s = until_s

    def withdraw_drain(self) -> None:
        """The order did not reach it."""
        self._drain_ordered_until_s = float("-inf")

    def on_beat(self, beat: Beat, now_s: float) -> None:
        """Take its role, its load, and whether it drains."""
        self.role = beat.role
        self.load = beat.load
        self._drains = beat.draining
        if beat.draining or now_s >= self._drain_ordered_until_s:
            self.withdraw_drain()  # from here on its beats tell

    @property
    def can_take_work(self) -> bool:
        """Alive, attached, not draining."""
        return self.pulse.health is Health.ALIVE and self.pulse.attached and not self.draining

    def profile(self, coefficients: LatencyCoefficients) -> None:
        """Begin from what the worker measured about itself at its start."""
        self._estimator = LatencyEstimator(coefficients)
        self.model = self._estimator.model()

    def learn_step(self, load: WorkerLoad, now_s: float) -> None:
        """Take a report's load; learn a pure decode step from it now and then."""
        self.load = load
        if now_s - self._learnt_s < _LEARN_EVERY_S or self.role is not Role.DECODE:
            return
        if load.step_ms <= 0.0 or load.num_running == 0 or load.waiting_prefill_tokens:
            return
        self._learnt_s = now_s
        self._estimator.observe_step(
            num_sequences=load.num_running, num_context_tokens=load.running_context_tokens, seconds=load.step_ms / 1e3
        )
        self._fade_at_s = now_s + _FADE_AFTER_S
        self.model = self._estimator.model()

    def note_prefill(self, event: PrefillDone, num_prompt_tokens: int) -> None:
        """Keep one prompt's time for ``learn``: learning takes longer than a first token may wait for it."""
        if num_prompt_tokens > event.num_cached_tokens and event.compute_ms > 0.0:
            self._prefills.append(_Prefill(num_prompt_tokens - event.num_cached_tokens, event))

    def note_transfer(self, event: HandoverDone, task: GenerationTask) -> None:
        """Keep one hand-over's time for ``learn``: the part that streaming during the prefill did not hide."""
        if event.num_bytes > 0:
            num_tokens = len(task.prompt_token_ids) + max((len(tokens) for tokens in task.emitted), default=0)
            num_in_blocks = max(math.ceil(num_tokens / self.info.block_size), 1) * self.info.block_size
            # The largest is the right one: a worker that holds the beginning is sent the rest only.
            self._kv_bytes_per_token = max(self._kv_bytes_per_token, event.num_bytes / num_in_blocks)
            self._transfers.append(event)

    def learn(self, now_s: float) -> None:
        """Learn from what was noted. A prompt that shared its batch looks slower than it is: the safe side.

        Of a worker that shows nothing new, what it showed is forgotten: a moment of slowness would keep work from it,
        and without work it could never show that it is over.
        """
        for transfer in self._transfers:
            self._estimator.observe_transfer(num_bytes=transfer.num_bytes, seconds=transfer.exposed_ms / 1e3)
        for prefill in self._prefills:
            self._estimator.observe_prefill(
                num_new_tokens=prefill.num_new_tokens,
                num_cached_tokens=prefill.event.num_cached_tokens,
                seconds=prefill.event.compute_ms / 1e3,
            )
        if self._prefills or self._transfers:
            self._prefills.clear()
            self._transfers.clear()
            self._fade_at_s = now_s + _FADE_AFTER_S
            self.model = self._estimator.model()
        elif now_s >= self._fade_at_s:
            self._fade_at_s = now_s + _FADE_EVERY_S
            self._estimator.fade(_FADE_SHARE)
            self.model = self._estimator.model()

    def view(self) -> WorkerView:
        """What placement needs to know: the worker's report and our own in-flight, whichever is worse."""
        load = self.load or WorkerLoad(free_blocks=self.info.total_blocks, total_blocks=self.info.total_blocks)
        own = self.in_flight
        reported_s = (
            self.model.prefill_s(num_new_tokens=load.waiting_prefill_tokens) if load.waiting_prefill_tokens else 0.0
        )
        used_blocks = max(self.info.total_blocks - load.free_blocks, own.num_blocks)
        return WorkerView(
            key=self.key,
            role=self.role,
            model=self.model,
            block_size=self.info.block_size,
            total_blocks=self.info.total_blocks,
            free_blocks=max(self.info.total_blocks - used_blocks, 0),
            max_sequences=self.info.max_sequences,
            num_sequences=max(load.num_running + load.num_waiting, own.num_sequences),
            context_tokens=max(load.running_context_tokens, own.context_tokens),
            queued_prefill_s=max(own.prefill_s, reported_s),
            kv_bytes_per_token=self._kv_bytes_per_token,
            layout_fingerprint=self.info.layout_fingerprint,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetChange:
    """What a new picture of the directory means."""

    joined: tuple[WorkerInfo, ...]
    left: tuple[WorkerKey, ...]


class Fleet:
    """The workers by name; at most one life of each. ``on_health`` (if any) is told what is believed of them."""

    def __init__(self, timers: HealthTimers, *, on_health: OnHealth | None = None) -> None:
        self._timers = timers
        self._on_health = on_health
        self.borrowing = Borrowing()
        self._records: dict[WorkerId, WorkerRecord] = {}
        self._unlisted: set[WorkerId] = set()  # missing in the last snapshot, but their streams stand
        self._replaced: dict[WorkerId, deque[Epoch]] = {}  # the last lives before the present one

    def __len__(self) -> int:
        return len(self._records)

    def records(self) -> list[WorkerRecord]:
        """All workers, ordered by name."""
        return [self._records[name] for name in sorted(self._records)]

    def get(self, key: WorkerKey) -> WorkerRecord | None:
        """That life of a worker, if it is the present one."""
        record = self._records.get(key.worker_id)
        return record if record is not None and record.key == key else None

    def apply(self, workers: Sequence[WorkerInfo]) -> FleetChange:
        """Take a snapshot of the directory.

        A new epoch replaces the old life, and a life that was replaced does not come back while its successor is
        there: a process that stood still may announce itself under the name that another has by now. A worker that is
        missing leaves only if its stream does not stand: the directory is a hint, and a directory that lost its memory
        must not stop a working cluster.
        """
        joined: list[WorkerInfo] = []
        left: list[WorkerKey] = []
        listed = {info.worker_id: info for info in workers if not self._was_replaced(info)}
        for name, record in list(self._records.items()):
            info = listed.get(name)
            replaced = info is not None and info.epoch != record.key.epoch
            if replaced or (info is None and not record.pulse.attached):
                left.append(record.key)
                del self._records[name]
                if replaced:
                    self._replaced.setdefault(name, deque(maxlen=_MOST_LIVES)).append(record.key.epoch)
                else:
                    self._replaced.pop(name, None)
        self._unlisted = self._records.keys() - listed.keys()
        for info in listed.values():
            if info.worker_id not in self._records:
                self._records[info.worker_id] = WorkerRecord(info, self._timers, on_health=self._on_health)
                joined.append(info)
        return FleetChange(joined=tuple(joined), left=tuple(left))

    def forget_unlisted(self) -> tuple[WorkerKey, ...]:
        """Remove the workers that the directory does not list and whose streams have broken since."""
        gone = [n for n in sorted(self._unlisted) if n in self._records and not self._records[n].pulse.attached]
        self._unlisted.difference_update(gone)
        for name in gone:
            self._replaced.pop(name, None)
        return tuple(self._records.pop(name).key for name in gone)

    def on_beat(self, key: WorkerKey, beat: Beat, now_s: float) -> None:
        """Take a sign of life."""
        record = self.get(key)
        if record is None or beat.worker_epoch != key.epoch:
            return
        if beat.step_age_ms < 1e3 * self._timers.stuck_step_s:
            record.pulse.heard(now_s)  # else: its heart beats, its forward step does not end
        record.on_beat(beat, now_s)

    def learn(self, now_s: float) -> None:
        """Bring every worker's latency model up to date."""
        for record in self._records.values():
            record.learn(now_s)

    def forgive(self, seconds: float) -> None:
        """This router stood still for ``seconds``: what came meanwhile waits to be read."""
        for record in self._records.values():
            record.pulse.forgive(seconds)

    def tick(self, now_s: float) -> list[WorkerKey]:
        """Return the workers that have just been found dead."""
        return [record.key for record in self._records.values() if record.pulse.tick(now_s)]

    def views(self, role: Role) -> list[WorkerView]:
        """Workers of ``role`` that take work."""
        return [record.view() for record in self._records.values() if record.role is role and record.can_take_work]

    def typical_prefill_s(self, num_tokens: int, *, num_cached_tokens: int = 0) -> float:
        """Prefill time of a prompt on the fastest worker that would compute it; 0 while there is none."""
        num_new = num_tokens - num_cached_tokens
        workers = [r for r in self._records.values() if r.can_take_work]
        prefills = [r for r in workers if r.role is Role.PREFILL] or workers
        times_s = (r.model.prefill_s(num_new_tokens=num_new, num_cached_tokens=num_cached_tokens) for r in prefills)
        return min(times_s, default=0.0)

    def num_alive(self, role: Role) -> int:
        """Number of workers of ``role`` that take work."""
        return sum(record.role is role and record.can_take_work for record in self._records.values())

    def settle_prefill(self, worker: WorkerKey, key: AttemptKey) -> None:
        """Take an attempt's prompt off the in-flight estimate."""
        record = self.get(worker)
        if record is not None:
            record.in_flight.settle_prefill(key)

    def end_attempt(self, workers: Iterable[WorkerKey], key: AttemptKey) -> None:
        """Take an attempt off the in-flight estimates."""
        for worker in workers:
            record = self.get(worker)
            if record is not None:
                record.in_flight.remove(key)

    def _was_replaced(self, info: WorkerInfo) -> bool:
        return info.epoch in self._replaced.get(info.worker_id, ())
