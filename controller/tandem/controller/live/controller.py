"""The controller: seeks the lead, looks, decides, acts, round after round. Shell and step are apart.

Guarantees: nothing is commanded that the workers' own reports do not allow (`tandem.controller.moves`), whatever dies
in between; two controllers at once do no harm; what a predecessor left draining is called back before anything else.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from tandem.controller.deciding.decide import decide, describe, move_ended, split_of
from tandem.controller.deciding.values import ControllerState, DecisionRecord
from tandem.controller.live.eyes import Eyes
from tandem.controller.live.leadership import Leadership
from tandem.controller.live.mover import MoveEnd, Mover
from tandem.controller.live.policies import Policies
from tandem.controller.live.ports import Ports
from tandem.controller.live.scaling import ScaleDesk
from tandem.controller.live.telling import News, decision_of
from tandem.controller.moves.command import Command, left_draining, undrain
from tandem.controller.observation import Now, Observation
from tandem.controller.policy.model import AutoscalingPolicy, Mode, PolicySpec
from tandem.core.clock import Clock
from tandem.core.errors import TandemError
from tandem.core.failpoints import failpoint_in_loop
from tandem.core.ids import WorkerId
from tandem.core.records import RecordStore
from tandem.core.traffic import Guidance

_log = structlog.get_logger(__name__)
_MOVE_TICK_S = 0.25
_IDLE_S = 1.0
_UNDRAIN_AGAIN_S = 2.0
_CALM_BACKLOG_S = 1.0  # of work per prefill worker: more than the look-ahead that routers keep them busy with
LEASE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One decision as it is told to others."""

    term: int
    record: DecisionRecord


OnRound = Callable[[Round], None]


class Controller:
    """One controller. ``run`` until it is told to stop; tests call ``step``."""

    def __init__(
        self,
        *,
        controller_id: str,
        ports: Ports,
        store: RecordStore,
        policies: Policies,
        clock: Clock,
        unix_s: Callable[[], float] = time.time,
        on_round: OnRound = lambda _: None,
        lease_s: float = LEASE_S,
    ) -> None:
        self._controller_id = controller_id
        self._ports = ports
        self._policies = policies
        self._clock = clock
        self._unix_s = unix_s
        self._on_round = on_round
        self._lease_s = lease_s
        self._leadership = Leadership(store, controller_id, lease_s=lease_s)
        self._scale = ScaleDesk(store)
        self._eyes = Eyes(ports, clock)
        self._news = News()
        self._command = Command(term=0, deposed=True)
        self._state = ControllerState()
        self._mover: Mover | None = None
        self._next_round_s = 0.0
        self._undrained_s: dict[WorkerId, float] = {}
        self._above_term = 0
        self._disturbed_s = clock.now_s()

    @property
    def leads(self) -> bool:
        """Whether this one commands."""
        return self._leadership.lease is not None

    @property
    def term(self) -> int:
        """The term it commands under; 0 = none yet."""
        return self._command.term

    async def run(self, stop: asyncio.Event) -> None:
        """Go on until ``stop`` is set. A round that fails is logged; the next one begins as if it had not been."""
        while not stop.is_set():
            pause_s = _IDLE_S
            try:
                pause_s = await self.step()
            except TandemError as error:
                _log.warning("round_failed", reason=error.reason, problem=str(error))
            except Exception:  # noqa: BLE001  # the loop must survive: without it nobody calls a drained worker back
                _log.error("round_failed", exc_info=True)
            try:
                async with asyncio.timeout(pause_s):
                    await stop.wait()
            except TimeoutError:
                continue

    async def step(self) -> float:
        """Do what is due; return in how many seconds to come again.

        Raises whatever it failed with. What was wanted before is forgotten then: nobody has seen what was wanted
        meanwhile, and two wishes with a failed round between them are not one that lasted.
        """
        try:
            return await self._step()
        except Exception:
            self._state = replace(self._state, wishes=())
            raise

    async def _step(self) -> float:
        policy = await self._policies.current()
        if policy is None:
            return _IDLE_S
        if policy.spec.mode is Mode.OFF and self._mover is None:
            self._leadership.lose()
            return max(_IDLE_S, policy.spec.interval_s)
        if not self.leads and not await self._seek():
            return max(_IDLE_S, self._lease_s / 4)
        if self._clock.now_s() >= self._next_round_s:
            await self._round(policy)
        if self._mover is not None and self.leads:
            await self._move(self._mover, policy.spec)
        if self._command.deposed:
            self._step_down()
            return self._lease_s / 2
        left_s = self._next_round_s - self._clock.now_s()
        return max(min(left_s, _MOVE_TICK_S) if self._mover is not None else left_s, 0.01)

    # --- the lead --------------------------------------------------------------------------------------------------

    async def _seek(self) -> bool:
        if not await self._leadership.seek(self._unix_s(), above_term=self._above_term):
            return False
        lease, before = self._leadership.lease, self._leadership.inherited
        if lease is None:
            return False
        now_s = self._clock.now_s()
        self._command = Command(term=lease.term)
        self._mover = None
        self._next_round_s = now_s
        self._state = ControllerState(
            last_move_begun_s=None if before is None else self._moment(before.move_begun_unix_s),
            last_move_ended_s=None if before is None else self._moment(before.move_ended_unix_s),
            last_switch_to=lease.last_switch_to,
        )
        _log.info("leading", term=lease.term)
        await failpoint_in_loop("c.after_term")
        return True

    def _moment(self, unix_s: float | None) -> float | None:
        """Return a time of the wall clock on the monotonic one; what lies ahead is now."""
        return None if unix_s is None else self._clock.now_s() - max(self._unix_s() - unix_s, 0.0)

    def _step_down(self) -> None:
        """Another controller rules: what was on its way here is its business now."""
        _log.warning("deposed", term=self._command.term)
        self._leadership.lose()
        self._mover = None
        reports = [claimed.report.term for claimed in self._command.workers.values()]
        self._above_term = max([self._command.term, *reports])

    # --- a round ---------------------------------------------------------------------------------------------------

    async def _round(self, policy: AutoscalingPolicy) -> None:
        spec = policy.spec
        now_s = self._clock.now_s()
        self._next_round_s = max(self._next_round_s + spec.interval_s, now_s)
        orders = await self._scale.read()
        self._eyes.removed(WorkerId(name) for name in orders.removed)
        self._command = await self._eyes.look(self._command)
        await failpoint_in_loop("c.after_claim")
        if self._command.deposed or not await self._keep_lead():
            self._command = replace(self._command, deposed=True)
            return
        if spec.mode is Mode.AUTO or self._mover is not None:
            await self._call_back()
        now = Now(monotonic_s=self._clock.now_s(), unix_s=self._unix_s())
        observation = self._eyes.observation(self._command, spec, calm_s=now.monotonic_s - self._disturbed_s)
        self._note_disturbance(observation, now.monotonic_s)
        decision = decide(observation, policy, self._state, now)
        self._state = decision.state
        telling = [self._tell(decision.record)]
        if spec.mode is Mode.AUTO:
            telling.append(self._guide(decision.borrow.share, spec))
        await asyncio.gather(*telling)
        if decision.move is not None and self._mover is None:
            self._mover = Mover(decision.move, self._eyes, self._scale, now_s=now.monotonic_s, spec=spec)
            flight = self._state.in_flight
            if flight is None or not flight.is_repair:
                self._eyes.replanned()
                await self._keep(now, move_begun_unix_s=now.unix_s)  # before the first order: a successor rests as well

    def _note_disturbance(self, observation: Observation | None, now_s: float) -> None:
        if self._mover is None and observation is not None:
            num_prefill = max(split_of(observation).prefill, 1)
            if observation.backlog_s <= _CALM_BACKLOG_S * num_prefill:
                return
        self._disturbed_s = now_s

    async def _keep_lead(self) -> bool:
        try:
            return await self._leadership.renew(self._unix_s())
        except TandemError:
            return True  # the record is a courtesy between controllers; workers know whom they obey

    async def _guide(self, share: float, spec: PolicySpec) -> None:
        guidance = Guidance(
            term=self._command.term,
            borrow_share=share,
            ttl_s=3 * spec.interval_s + 2.0,
            targets=spec.classes.targets(),
        )
        try:
            if await self._ports.routers.guide(guidance) > self._command.term:
                self._command = replace(self._command, deposed=True)
        except TandemError as error:
            _log.info("routers_not_told", reason=error.reason)

    async def _call_back(self) -> None:
        """Undrain whomever nobody here has drained: a controller before this one was stopped in the middle."""
        now_s = self._clock.now_s()
        for worker_id in left_draining(self._command):
            asked_s = self._undrained_s.get(worker_id, float("-inf"))
            if self._is_moving(worker_id) or now_s - asked_s < _UNDRAIN_AGAIN_S:
                continue
            self._undrained_s[worker_id] = now_s
            ordered = undrain(self._command, worker_id)
            if ordered.send is not None:
                _log.info("called_back", worker=worker_id)
                self._command = await self._eyes.ask(ordered.command, (ordered.send,))

    def _is_moving(self, worker_id: WorkerId) -> bool:
        return worker_id in self._eyes.roster.removed or (self._mover is not None and self._mover.treats(worker_id))

    async def _tell(self, record: DecisionRecord) -> None:
        if record.move is not None:
            _log.info("decided", verdict=record.verdict.value, reason=record.reason)
        try:
            self._on_round(Round(term=self._command.term, record=record))
        except Exception:  # noqa: BLE001  # who writes decisions down must not stop them
            _log.error("round_not_told", exc_info=True)
        is_new = self._news.is_new(record, term=self._command.term, now_s=self._clock.now_s())
        told = decision_of(record, term=self._command.term, source=self._controller_id)
        try:
            await self._ports.routers.tell(self._controller_id, (told,) if is_new else ())
        except TandemError as error:
            _log.debug("decision_not_kept", reason=error.reason)

    # --- a move ----------------------------------------------------------------------------------------------------

    async def _move(self, mover: Mover, spec: PolicySpec) -> None:
        command, end = await mover.step(self._command, spec, self._clock.now_s())
        self._command = command
        if end is not None:
            await self._ended(end)

    async def _ended(self, end: MoveEnd) -> None:
        flight = self._state.in_flight
        what = "" if flight is None else describe(flight.move)
        _log.info("move_ended", move=what, problem=end.problem)
        self._mover = None
        now = Now(monotonic_s=self._clock.now_s(), unix_s=self._unix_s())
        self._state = move_ended(self._state, now)
        if flight is None or not flight.is_repair:
            await self._keep(now, move_ended_unix_s=now.unix_s)
        elif end.problem:
            self._eyes.replanned()  # what could not be repaired is left to the sizing

    async def _keep(
        self, now: Now, *, move_begun_unix_s: float | None = None, move_ended_unix_s: float | None = None
    ) -> None:
        """Write down what a successor must know to be as calm."""
        try:
            await self._leadership.renew(
                now.unix_s,
                move_begun_unix_s=move_begun_unix_s,
                move_ended_unix_s=move_ended_unix_s,
                last_switch_to=self._state.last_switch_to,
            )
        except TandemError as error:
            _log.info("move_not_kept", reason=error.reason)
