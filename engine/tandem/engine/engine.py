"""The facade over one worker's engine: what the role services call, and nothing else.

Engine thread only, except ``table`` (and the bytes of the blocks it lets a thread hold), which hand-over threads share.
"""

from collections.abc import Callable
from collections.abc import Sequence as Items

import structlog

from tandem.core.blocks import AttemptKey, BlockRef, FirstToken
from tandem.core.clock import Clock, MonotonicClock
from tandem.core.errors import NotFound, Overloaded
from tandem.core.event_log import EventSink
from tandem.core.limits import ModelLimits, RequestLimits
from tandem.core.messages import AttemptFailed, AttemptReleased, RequestEvent
from tandem.core.reasons import ENGINE, NO_SLOT
from tandem.core.types import GenerationTask, WorkerLoad
from tandem.engine.attempts import AttemptBook, KvStart
from tandem.engine.config import EngineConfig
from tandem.engine.execution import Executor, Runner
from tandem.engine.fatal import ends_the_process
from tandem.engine.intake import Capacity, Intake
from tandem.engine.kv.block_cache import BlockCache, CacheSetup
from tandem.engine.kv.block_table import BlockState, BlockTable, NoBlocks
from tandem.engine.kv.memory import KvMemory
from tandem.engine.kv.pool import KvPool
from tandem.engine.progress import Progress
from tandem.engine.promotions import Promotions
from tandem.engine.results import FilledBlocks, Reservation, StepResult, StepStats
from tandem.engine.reuse import PrefixReuse
from tandem.engine.sampling.sampler import TokenSampler
from tandem.engine.scheduling.scheduler import Scheduler, StepPlan
from tandem.engine.sequence import Attempt, AttemptKind
from tandem.engine.step_stats import step_stats
from tandem.engine.text_output import TextFactory

_log = structlog.get_logger(__name__)
_FULL_CHECK_INTERVAL_S = 60.0


class Engine:
    """Computes prompts and decodes, for any number of attempts at once.

    Guarantees: an attempt that ended holds no block; tokens of a sequence come in order without gap; one bad request
    fails alone. Abort and release are idempotent and free at once.
    """

    def __init__(
        self,
        *,
        runner: Runner,
        sampler: TokenSampler,
        make_text: TextFactory,
        config: EngineConfig,
        limits: RequestLimits | None = None,
        eos_token_ids: frozenset[int] | None = None,
        clock: Clock | None = None,
        cache: CacheSetup | None = None,
    ) -> None:
        """``eos_token_ids`` default to the model spec's; ``make_text`` is ``text_factory(tokenizer)``.

        ``cache``: keep full blocks for later prompts; without it nothing outlives its attempt.
        """
        self.spec = runner.spec
        self.pool: KvPool = runner.pool
        self.config = config
        self._clock: Clock = clock or MonotonicClock()
        self._memory = KvMemory(runner.pool, cache=cache, clock=self._clock)
        self._reuse = PrefixReuse(self._memory)
        self._scheduler = Scheduler(self._memory, config, self._reuse)
        self._book = AttemptBook(self._memory, self._scheduler)
        self._executor = Executor(runner, sampler)
        self._intake = Intake(
            model=ModelLimits(vocab_size=self.spec.vocab_size, max_context_tokens=self.spec.max_context_tokens),
            limits=limits or RequestLimits(),
            capacity=Capacity(
                num_blocks=runner.pool.num_blocks,
                block_size=runner.pool.block_size,
                max_sequences=config.max_sequences,
            ),
            eos_token_ids=frozenset(self.spec.eos_token_ids) if eos_token_ids is None else eos_token_ids,
            make_text=make_text,
        )
        self._progress = Progress(
            memory=self._memory, reuse=self._reuse, scheduler=self._scheduler, book=self._book, intake=self._intake
        )
        self.promotions = Promotions(self._memory, self._book, self._clock)  # tiers are attached to it
        self.on_cached: Callable[[FilledBlocks], None] | None = None  # cached starts of prefills, before their step
        self._outbox: list[RequestEvent] = []  # for the next step's result
        self._num_steps = 0
        self._last_step_ms = 0.0
        self._next_full_check_s = self._clock.now_s()

    @property
    def table(self) -> BlockTable:
        """Who owns which block; thread-safe."""
        return self._memory.table

    @property
    def cache(self) -> BlockCache | None:
        """The prefix cache; None when it is off. Its ``events`` are thread-safe, all else is the engine thread's."""
        return self._memory.cache

    @property
    def num_blocks(self) -> int:
        """Blocks of the KV pool."""
        return self._memory.num_blocks

    def observe(self, events: EventSink) -> None:
        """Tell ``events`` of every block and every decode step from now on; call it before the first command."""
        self.table.events = events
        self._executor.events = events

    # --- commands ----------------------------------------------------------------------------------------------------

    def start_prefill(self, task: GenerationTask) -> None:
        """Compute the prompt's KV and the first tokens, then hold the blocks until ``release`` or ``abort``.

        Raises InvalidArgument, or Overloaded when too much waits already. A second start of the same attempt is no-op.
        """
        self._start(task, AttemptKind.PREFILL)

    def start_local(self, task: GenerationTask) -> None:
        """Compute the prompt here, then decode. Raises like ``start_prefill``; any ``emitted`` is served."""
        self._start(task, AttemptKind.LOCAL)

    def reserve_decode(self, task: GenerationTask) -> tuple[BlockRef, ...]:
        """Reserve a place and blocks for the KV of prompt and emitted tokens; return them in token order.

        Raises InvalidArgument, Overloaded (NO_SLOT) or NoBlocks. A second call for the same attempt returns the same.
        """
        return self._reserve(task, max_cached_blocks=0).refs

    def reserve_delta(self, task: GenerationTask) -> Reservation:
        """Like ``reserve_decode``; blocks that are cached here are lent to the attempt and need not be handed over."""
        return self._reserve(task, max_cached_blocks=self.num_blocks)

    def _reserve(self, task: GenerationTask, *, max_cached_blocks: int) -> Reservation:
        known = self._book.get(AttemptKey(task.request_id, task.attempt))
        if known is not None:
            return Reservation(refs=known.reserved, num_cached=known.reserved_chain.num_cached)
        attempt = self._intake.open(task, AttemptKind.HANDOVER, tick=self._num_steps, now_s=self._clock.now_s())
        num_children = len(attempt.open_children)
        num_free_slots = self.config.max_sequences - self._scheduler.num_slots_used()
        if num_children > num_free_slots:
            raise Overloaded(f"{num_children} sequences, {num_free_slots} free places", reason=NO_SLOT)
        first = self._intake.sequence(attempt, min(attempt.open_children))
        num_blocks = self._memory.blocks_for(first.num_tokens)
        found = self._reuse.find_kv(first, first.num_tokens)
        num_cached = min(found.num_blocks, max_cached_blocks)
        num_busy = found.num_busy if num_cached else 0
        growth = self._scheduler.growth_of(attempt, num_sequences=num_children, num_blocks=num_blocks)
        if not self._scheduler.fits_reservation(num_blocks=num_blocks - num_busy, growth_blocks=growth):
            raise NoBlocks(f"{num_blocks} KV blocks and room to grow do not fit: {self._memory.num_free} are free")
        attempt.reserved_chain = first.chain
        lent = self._reuse.lend(attempt.key, first.chain, num_cached)
        self._memory.yield_pins(num_blocks - num_cached, task.tenant)
        missing = self._memory.allocate(attempt.key, num_blocks - num_cached, BlockState.RECEIVING)
        attempt.reserved = (*lent, *missing)
        attempt.num_cached_tokens = min(num_cached * self._memory.block_size, len(task.prompt_token_ids))
        self._book.add(attempt)
        self._scheduler.reserve(attempt)
        return Reservation(refs=attempt.reserved, num_cached=num_cached)

    def commit_handover(self, key: AttemptKey, first_tokens: Items[FirstToken]) -> None:
        """The reserved blocks hold verified KV: every child that has not finished goes on decoding.

        Raises NotFound when nothing is reserved under ``key`` (any more), InvalidArgument when the first tokens do not
        fit the task, IntegrityError when a writer still holds a block; then the reservation stands, to be aborted.
        """
        attempt = self._book.get(key)
        if attempt is None or attempt.kind is not AttemptKind.HANDOVER or not attempt.reserved:
            raise NotFound(f"no KV is expected for attempt {key.attempt} of request {key.request_id}")
        children = self._intake.children_after(attempt, first_tokens)
        self.table.commit(key)
        self._scheduler.unreserve(attempt)
        refs, attempt.reserved = attempt.reserved, ()
        attempt.open_children = {child.child for child in children}
        if not children:
            self._end_released(attempt)
            return
        num_tokens = children[0].num_tokens - 1
        refs = self._reuse.enter_received(attempt, attempt.reserved_chain, refs)
        self._book.spread(KvStart(refs=refs, num_tokens=num_tokens, chain=attempt.reserved_chain), children)
        for child in children:
            if child.blocks:
                self._scheduler.arrive(child)
            else:
                self._scheduler.preempt(child)

    def abort(self, key: AttemptKey, child: int | None = None) -> bool:
        """Stop an attempt, or one child of it, and free its blocks at once. False: nothing of it was here.

        No event follows, except AttemptReleased when the last open child is aborted by number.
        """
        attempt = self._book.get(key)
        if attempt is None:
            return False
        if child is None:
            self._book.end(attempt)
            self._check_when_idle()
            return True
        if child not in attempt.open_children:
            return False
        self._abort_child(attempt, child)
        return True

    def release(self, key: AttemptKey) -> bool:
        """The hand-over of a sealed prefill is committed: free its blocks. False: nothing sealed under ``key``."""
        attempt = self._book.get(key)
        if attempt is None or not attempt.is_sealed:
            return False
        self._book.end(attempt)
        self._check_when_idle()
        return True

    def hold(self, key: AttemptKey, seconds: float) -> bool:
        """Keep a prefill that nobody takes over now, at most so long; then it fails like one past its deadline.

        False: nothing of it is here.
        """
        attempt = self._book.get(key)
        if attempt is None or attempt.kind is not AttemptKind.PREFILL:
            return False
        end_s = self._clock.now_s() + seconds
        attempt.deadline_s = end_s if attempt.deadline_s is None else min(attempt.deadline_s, end_s)
        return True

    def rekey(self, key: AttemptKey, task: GenerationTask) -> bool:
        """Make the prefill ``key``, computed or not, the attempt of ``task``, which must ask for the same work.

        Its blocks stay where they are. False: nothing of it is here, or ``task``'s attempt is known already.
        """
        attempt = self._book.get(key)
        known = self._book.get(AttemptKey(task.request_id, task.attempt))
        if attempt is None or attempt.kind is not AttemptKind.PREFILL or known is not None:
            return False
        left_s = task.deadline_left_s
        self._book.rekey(attempt, task, None if left_s is None else self._clock.now_s() + left_s)
        return True

    # --- state -------------------------------------------------------------------------------------------------------

    def has_work(self) -> bool:
        """Whether ``step`` would do something now: compute, or report what is due."""
        if self._outbox:
            return True
        self.promotions.settle()
        now_s = self._clock.now_s()
        deadline_s = self._book.next_deadline_s()
        return (deadline_s is not None and deadline_s <= now_s) or self._scheduler.can_run(now_s)

    def next_work_s(self) -> float | None:
        """Seconds until ``has_work`` turns true by itself (a deadline, a batch time-out); None: only a command can."""
        if self.has_work():
            return 0.0
        now_s = self._clock.now_s()
        deadline_s = self._book.next_deadline_s()
        ends_s = [end_s for end_s in (deadline_s, self.promotions.next_end_s()) if end_s is not None]
        ready_in_s = self._scheduler.ready_in_s(now_s)
        waits = [*(max(end_s - now_s, 0.0) for end_s in ends_s), *([] if ready_in_s is None else [ready_in_s])]
        return min(waits, default=None)

    def load(self) -> WorkerLoad:
        """What this worker carries at the moment."""
        scheduler, counts = self._scheduler, self.table.counts()
        prompts = (*scheduler.waiting, *scheduler.prefilling)
        return WorkerLoad(
            num_running=len(scheduler.decoding) + sum(s.num_slots for s in scheduler.prefilling),
            num_waiting=scheduler.num_waiting(),
            waiting_prefill_tokens=sum(s.num_left for s in prompts),
            running_context_tokens=sum(s.num_tokens for s in scheduler.decoding),
            free_blocks=counts.free + counts.idle,
            cached_blocks=counts.cached,
            pinned_blocks=counts.kept,
            total_blocks=counts.total,
            receiving_blocks=counts.receiving,
            step_ms=self._last_step_ms,
        )

    def check_integrity(self) -> None:
        """Raise IntegrityError unless every block is accounted for; without attempts all must be free."""
        self.table.check_integrity()
        self._book.check_idle()

    # --- the step ----------------------------------------------------------------------------------------------------

    def step(self) -> StepResult:
        """Run one forward pass over everything that can run, and return what it brought about.

        A failing pass fails the attempts in it (ENGINE_FAILED, retryable). Running out of memory and errors of the
        device itself are raised: after those no later pass can be trusted, and the process has to end.
        """
        began_s = self._clock.now_s()
        self._num_steps += 1
        self.promotions.begin_step()
        self.promotions.settle()
        events, self._outbox = self._outbox, []
        events += self._book.expire(began_s)
        plan = self._scheduler.plan(began_s)
        if plan.is_empty:
            self._check_when_idle()
            return StepResult(events=tuple(events), stats=StepStats(num_preempted=plan.num_preempted))
        for chunk in plan.chunks:
            if chunk.sequence.attempt.started_s is None:
                chunk.sequence.attempt.started_s = began_s
        stats = step_stats(plan)
        self._announce_cached(plan)
        try:
            draws = self._executor.run(plan)
        except Exception as error:
            if ends_the_process(error, self.pool.data.device):
                raise
            _log.exception("forward pass failed", num_sequences=len(plan.decoding) + len(plan.chunks))
            return StepResult(events=(*events, *self._fail_all(plan, error)))
        now_s = self._clock.now_s()
        progressed = self._progress.apply(plan, draws, now_s)
        self._outbox += progressed.released
        self._last_step_ms = 1e3 * (now_s - began_s)
        self._check_when_idle()
        return StepResult(
            tokens=tuple(progressed.tokens),
            events=(*events, *progressed.events),
            filled=tuple(progressed.filled),
            sealed=tuple(progressed.sealed),
            stats=stats.timed(now_s - began_s),
        )

    # --- inside ------------------------------------------------------------------------------------------------------

    def _announce_cached(self, plan: StepPlan) -> None:
        """What a prefill has borrowed can be sent while the rest is computed: tell of it before the pass."""
        if self.on_cached is None:
            return
        for sequence in (chunk.sequence for chunk in plan.chunks):
            attempt, num_cached = sequence.attempt, sequence.chain.num_cached
            if attempt.kind is AttemptKind.PREFILL and not attempt.num_filled and num_cached:
                attempt.num_filled = num_cached
                refs = tuple(sequence.blocks[:num_cached])
                self.on_cached(FilledBlocks(key=attempt.key, first_ordinal=0, refs=refs))

    def _check_when_idle(self) -> None:
        """Without attempts no block may be owned. Now and then the whole table is checked as well: it takes longer."""
        if len(self._book):
            return
        self._book.check_idle()
        now_s = self._clock.now_s()
        if now_s >= self._next_full_check_s:
            self._next_full_check_s = now_s + _FULL_CHECK_INTERVAL_S
            self.table.check_integrity()

    def _start(self, task: GenerationTask, kind: AttemptKind) -> None:
        if self._book.get(AttemptKey(task.request_id, task.attempt)) is not None:
            return
        attempt = self._intake.open(task, kind, tick=self._num_steps, now_s=self._clock.now_s())
        num_waiting = self._scheduler.num_waiting()
        if num_waiting + len(attempt.open_children) > self.config.max_waiting_sequences:
            raise Overloaded(f"{num_waiting} sequences wait already", reason=NO_SLOT)
        sequence = self._intake.first_sequence(attempt)
        attempt.sequences.append(sequence)
        self._book.add(attempt)
        self.promotions.begin(sequence)
        self._scheduler.submit(sequence)

    def _abort_child(self, attempt: Attempt, child: int) -> None:
        attempt.open_children.discard(child)
        if not attempt.open_children:
            self._end_released(attempt)
            return
        for sequence in tuple(attempt.sequences):
            if sequence.is_lead:
                sequence.child, *siblings = sorted(attempt.open_children)
                sequence.siblings = tuple(siblings)
            elif sequence.child == child:
                self._book.end_child(sequence)

    def _end_released(self, attempt: Attempt) -> None:
        self._book.end(attempt)
        self._outbox.append(AttemptReleased(request_id=attempt.key.request_id, attempt=attempt.key.attempt))

    def _fail_all(self, plan: StepPlan, error: Exception) -> list[AttemptFailed]:
        sequences = (*plan.decoding, *(chunk.sequence for chunk in plan.chunks))
        attempts = {id(s.attempt): s.attempt for s in sequences}
        message = f"the forward pass failed: {type(error).__name__}"
        return [self._book.fail(attempt, ENGINE, message, retryable=True) for attempt in attempts.values()]
