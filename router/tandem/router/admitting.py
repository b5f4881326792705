"""Joins admission to the rest of the router's core: what the gate asks about, and what it learns from. Zero I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tandem.core import reasons
from tandem.core.errors import TandemError
from tandem.core.ids import RequestId, Tenant
from tandem.core.traffic import Guidance
from tandem.core.types import GenerationTask, Outcome, PriorityClass, Role
from tandem.router.actions import Ended
from tandem.router.admission.cost import request_cost
from tandem.router.admission.curtail import curtail
from tandem.router.admission.forecast import Pools
from tandem.router.admission.gate import AdmissionGate, Waiting, is_too_late
from tandem.router.admission.refusals import refusal
from tandem.router.admission.shedding import line_to_shorten
from tandem.router.admission.terms import AdmissionCause, AdmissionDecision, AdmissionPolicy, Ask
from tandem.router.admission.yielding import Yielder, who_yields
from tandem.router.attempt import Stage
from tandem.router.cache.names import PromptNames
from tandem.router.fleet import Fleet
from tandem.router.live import Admitted, Live
from tandem.router.observer import Observer
from tandem.router.placer import Placer
from tandem.router.queue import CentralQueue, QueueEntry
from tandem.router.residence import Residence

_YIELD_AGAIN_S = 0.1  # until the worker's own report shows the room that was made
_BRIEF_S = 0.02
_LOOK_EVERY_S = 0.25


class Admitting:
    """Decides about newcomers and about those that wait, and settles what they were charged."""

    def __init__(
        self,
        *,
        policy: AdmissionPolicy,
        queue: CentralQueue,
        fleet: Fleet,
        placer: Placer,
        lives: Mapping[RequestId, Live],
        observer: Observer,
    ) -> None:
        self.gate = AdmissionGate(policy)
        self._queue = queue
        self._fleet = fleet
        self._placer = placer
        self._lives = lives
        self._observer = observer
        self._residence = Residence()
        self._yielded_s = self._looked_s = float("-inf")

    def follow(self, guidance: Guidance, now_s: float) -> None:
        """Promise what the policy in force promises, and share the tenants' limits with the other routers."""
        self.gate.follow(guidance.targets)
        if guidance.num_routers is not None:
            self.gate.buckets.share_among(guidance.num_routers, now_s)

    # --- at the door -------------------------------------------------------------------------------------------------

    def turn_away(
        self, request_id: RequestId, tenant: Tenant, priority: PriorityClass, *, caller_attempt: int, now_s: float
    ) -> None:
        """Refuse what no prompt could mend, before its prompt is read. Raises QuotaExceeded."""
        used_up = self.gate.buckets.out_of_requests(tenant, now_s)
        if used_up is None:
            return
        decision = AdmissionDecision(
            request_id=request_id,
            tenant=tenant,
            priority=priority,
            attempt=caller_attempt,
            cause=AdmissionCause.REQUEST_RATE,
            cost_tokens=0.0,
            num_queued=len(self._queue),
            load_level=self.gate.load.level,
            brown_out=self.gate.load.step,
            retry_after_s=used_up.retry_after_s,
            quota=used_up.limit,
        )
        self._observer.admission(decision)
        raise refusal(decision)

    def admit(
        self,
        task: GenerationTask,
        names: PromptNames | None,
        *,
        deadline_s: float | None,
        arrived_s: float,
        now_s: float,
        caller_attempt: int,
    ) -> Admitted:
        """Take a request. Raises QuotaExceeded or Overloaded."""
        task = curtail(task, self.gate.load.step, batch_max_tokens=self.gate.policy.batch_max_tokens)
        entry = self._placer.entry_of(task, names, deadline_s=deadline_s, arrived_s=arrived_s)
        limit_tokens = float(len(task.prompt_token_ids) + self._placer.charged_tokens(task))
        ask = Ask(
            request_id=task.request_id,
            tenant=task.tenant,
            priority=task.priority,
            attempt=caller_attempt,
            need=entry.backlog,
            num_sequences=task.num_sequences,
            limit_tokens=limit_tokens,
            deadline_left_s=None if deadline_s is None else deadline_s - now_s,
        )
        decision = self.gate.decide(
            ask, waiting=self._waiting(entry), pools=self.pools(self._placer.planned_tokens(task)), now_s=now_s
        )
        self._observer.admission(decision)
        if not decision.is_taken:
            raise refusal(decision)
        return Admitted(task=task, entry=entry, decision=decision, limit_tokens=limit_tokens)

    def _waiting(self, entry: QueueEntry) -> Waiting:
        queue = self._queue
        bounds = queue.bounds
        return Waiting(
            num_queued=len(queue),
            max_count=bounds.max_count,
            bound_s=bounds.max_work_s[entry.priority],
            ahead=queue.ahead_of(entry),
            displaceable=self._displaceable(entry) if len(queue) >= bounds.max_count else None,
        )

    def _displaceable(self, entry: QueueEntry) -> RequestId | None:
        line = line_to_shorten(
            entry.tenant,
            entry.priority,
            waiting=self._queue.costs(),
            cost_tokens=entry.cost_tokens,
            weights=self._queue.weights,
        )
        return None if line is None else self._queue.newest_of(line)

    def pools(self, planned_tokens: int) -> Pools:
        """What the workers have free, net of what is reserved.

        ``planned_tokens`` per answer say how long slots are kept, as long as no answer has told.
        """
        prefills, decodes = self._fleet.views(Role.PREFILL), self._fleet.views(Role.DECODE)
        servers = prefills if prefills and not self._placer.is_aggregated else decodes
        return Pools(
            num_servers=len(servers),
            queued_prefill_s=sum(view.queued_prefill_s for view in servers),
            free_slots=sum(max(view.max_sequences - view.num_sequences, 0) for view in decodes),
            total_slots=sum(view.max_sequences for view in decodes),
            free_blocks=sum(view.free_blocks for view in decodes),
            total_blocks=sum(view.total_blocks for view in decodes),
            block_size=min((view.block_size for view in decodes), default=1),
            residence_s=self._residence.mean_s(decodes, expected_tokens=planned_tokens),
        )

    # --- while it waits ----------------------------------------------------------------------------------------------

    def displaced(self, live: Live, now_s: float) -> TandemError:
        """The error of a request whose place was given away."""
        return self._shed(live, AdmissionCause.DISPLACED, now_s)

    def error_if_late(self, live: Live, now_s: float) -> TandemError | None:
        """Why it must not be dispatched now: it would cost a prefill, and its first token would be of no use.

        Only for requests that were taken because they would be in time. Who was served before, or went in because
        nothing was ahead of it, is served however late it is.
        """
        decision = live.admitted.decision
        latest_s = decision.latest_s
        if latest_s is None or decision.cause is not AdmissionCause.FITS or live.ledger.task.attempt > 0:
            return None
        if live.ledger.deadline_s is not None and now_s >= live.ledger.deadline_s:
            return None  # then it is over for that reason
        waited_s = now_s - live.admitted_s
        prefill_s = live.entry.work_s
        if waited_s < _BRIEF_S or not is_too_late(waited_s=waited_s, prefill_s=prefill_s, limit_s=latest_s):
            return None
        if decision.forecast is not None:  # it has waited so long: without it the worst predictions would look right
            first_token_s = waited_s + prefill_s
            self.gate.error.observe(predicted_s=decision.forecast.modelled_s, actual_s=first_token_s, now_s=now_s)
        return self._shed(live, AdmissionCause.LATE, now_s)

    def to_yield(self, live: Live, now_s: float) -> Sequence[Live]:
        """Running batch requests that give their place to ``live``, which lacks a slot or blocks; at most once each."""
        is_first = live.entry.priority is PriorityClass.INTERACTIVE and self.gate.policy.yields
        if not is_first or now_s - self._yielded_s < _YIELD_AGAIN_S:
            return ()
        self._yielded_s = now_s
        running = [
            Yielder(
                request_id=other.entry.request_id,
                decode=other.placement.decode,
                num_blocks=other.placement.num_blocks,
                num_tokens=len(other.ledger.task.prompt_token_ids) + other.ledger.num_emitted,
            )
            for other in self._lives.values()
            if other.placement is not None and _may_yield(other)
        ]
        rooms = self._placer.rooms_for(live) if running else ()
        names = who_yields(rooms, running, num_sequences=live.ledger.task.num_sequences)
        return [self._lives[name] for name in names]

    def queue_yielded(self, live: Live) -> None:
        """It gave its place away: it waits again in its class, without being charged again."""
        num_tokens = len(live.ledger.task.prompt_token_ids) + live.ledger.num_emitted
        work_s = self._fleet.typical_prefill_s(num_tokens)
        live.entry = replace(live.entry, is_paid=True, work_s=work_s)
        live.has_yielded = True
        self._observer.retried(live.ledger.task, reason=reasons.YIELDED)
        self._queue.push(live.entry)

    # --- what is learnt ----------------------------------------------------------------------------------------------

    def dispatched(self, live: Live, now_s: float) -> None:
        """An attempt went to its workers."""
        live.dispatched_s = now_s

    def started(self, live: Live, now_s: float) -> None:
        """Its first token is here: how far off was the prediction?"""
        decision = live.admitted.decision
        if live.ledger.task.attempt == 0 and decision.forecast is not None:
            self.gate.error.observe(
                predicted_s=decision.forecast.modelled_s, actual_s=now_s - live.admitted_s, now_s=now_s
            )

    def ended(self, live: Live, ended: Ended, now_s: float) -> None:
        """Learn lengths and times from it, and settle its charges. Who was never dispatched has cost nothing."""
        task, usage = live.ledger.task, ended.usage
        if ended.outcome is Outcome.OK:
            for child in live.ledger.children:
                self._placer.learn(task, len(child.tokens))
            if live.dispatched_s is not None:
                self._residence.observe(now_s - live.dispatched_s)
        limit_tokens = 0.0
        if live.dispatched_s is not None:
            cost = request_cost(usage.prompt_tokens, usage.output_tokens, num_cached_tokens=usage.cached_tokens)
            self._queue.settle(task.tenant, cost - live.admitted.entry.cost_tokens)
            limit_tokens = usage.prompt_tokens + usage.output_tokens
        self.gate.buckets.settle(task.tenant, limit_tokens - live.admitted.limit_tokens, now_s)

    def step(self, now_s: float) -> None:
        """Follow the load; call it with the tick."""
        if now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        bound_s = self._queue.bounds.max_work_s[PriorityClass.INTERACTIVE]
        self.gate.observe_load(self._queue.waiting_urgent(), self._pools_without_batch(), bound_s=bound_s, now_s=now_s)

    def _pools_without_batch(self) -> Pools:
        """What would be free if no batch request ran: batch is there to fill what is idle, which is no load."""
        pools = self.pools(1)
        batch = [
            live
            for live in self._lives.values()
            if live.entry.priority is PriorityClass.BATCH and live.ledger.attempt is not None
        ]
        slots = sum(live.ledger.task.num_sequences for live in batch)
        blocks = sum(live.placement.num_blocks for live in batch if live.placement is not None)
        return replace(
            pools,
            free_slots=min(pools.free_slots + slots, pools.total_slots),
            free_blocks=min(pools.free_blocks + blocks, pools.total_blocks),
        )

    def _shed(self, live: Live, cause: AdmissionCause, now_s: float) -> TandemError:
        first = live.admitted.decision
        wait_s = 0.0 if first.forecast is None else first.forecast.wait_s
        retry_after_s = self.gate.shed_after_all(
            first.request_id, first.priority, wait_s=wait_s, attempt=first.attempt, now_s=now_s
        )
        decision = replace(first, cause=cause, num_queued=len(self._queue), retry_after_s=retry_after_s, displaces=None)
        self._observer.admission(decision)
        return refusal(decision)


def _may_yield(live: Live) -> bool:
    ledger = live.ledger
    return (
        live.entry.priority is PriorityClass.BATCH
        and not live.has_yielded
        and ledger.stage is Stage.DECODING
        and ledger.task.num_sequences == 1
        and ledger.num_emitted > 0
    )
