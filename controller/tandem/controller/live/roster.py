"""What is known of each worker from round to round, and the view of them that a decision is made from. Pure.

A worker that leaves the registry without our doing is expected back for a while: its supervisor starts it again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tandem.controller.live.fits import middle
from tandem.controller.moves.command import Command
from tandem.controller.observation import ClassTraffic, Observation, Stage, WorkerSeen
from tandem.core.description import WorkerDescription
from tandem.core.ids import Epoch, WorkerId
from tandem.core.latency import LatencyCoefficients
from tandem.core.types import PriorityClass, Role, WorkerInfo, WorkerLoad

RETURN_S = 60.0
_STEADY_S = 0.2  # a busy share needs some time between two looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One worker as it was last heard of."""

    info: WorkerInfo
    description: WorkerDescription | None = None  # None = registered, has never answered
    heard_s: float = 0.0
    busy_share: float = 0.0
    gone_s: float | None = None  # since when it is not registered
    worked_as: frozenset[Role] = frozenset()  # what it was seen at work as, in this life: its fit speaks of that
    died_as: Role | None = None  # the role of the life before this one, until it has it again or there is another plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A worker that was ordered and is not registered yet."""

    role: Role
    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """All of them."""

    known: Mapping[WorkerId, Known] = field(default_factory=dict)
    expected: Mapping[WorkerId, Expected] = field(default_factory=dict)
    removed: frozenset[WorkerId] = frozenset()

    def listed(self) -> tuple[WorkerInfo, ...]:
        """Those that are registered, and not taken away."""
        return tuple(k.info for k in self.known.values() if k.gone_s is None and k.info.worker_id not in self.removed)


def registered(roster: Roster, infos: Sequence[WorkerInfo], now_s: float) -> Roster:
    """Take the registry's list."""
    by_name = {info.worker_id: info for info in infos}
    known: dict[WorkerId, Known] = {}
    for name, before in roster.known.items():
        info = by_name.get(name)
        if info is None:
            gone_s = now_s if before.gone_s is None else before.gone_s
            if name not in roster.removed and now_s - gone_s < RETURN_S:
                known[name] = replace(before, gone_s=gone_s)
        elif info.epoch != before.info.epoch:
            known[name] = Known(info=info, heard_s=now_s, died_as=before.died_as or before.info.role)
        else:
            known[name] = replace(before, info=info, gone_s=None)
        if info is not None and known[name].died_as is info.role:
            known[name] = replace(known[name], died_as=None)
    for name, info in by_name.items():
        if name not in known:
            known[name] = Known(info=info, heard_s=now_s)
    expected = {n: each for n, each in roster.expected.items() if n not in by_name and now_s < each.until_s}
    return replace(roster, known=known, expected=expected, removed=roster.removed & by_name.keys())


def replanned(roster: Roster) -> Roster:
    """A move begins: the roles that workers died in are not what is wanted any more."""
    return replace(roster, known={name: replace(each, died_as=None) for name, each in roster.known.items()})


def described(roster: Roster, description: WorkerDescription, now_s: float) -> Roster:
    """Take what a worker says of itself."""
    name = description.info.worker_id
    before = roster.known.get(name)
    if before is None or before.info.epoch != description.info.epoch:
        return roster
    share, passed_s = before.busy_share, now_s - before.heard_s
    if before.description is not None and passed_s >= _STEADY_S:
        share = min(max((description.busy_s - before.description.busy_s) / passed_s, 0.0), 1.0)
    load = description.load
    worked = {description.info.role} if load.num_running or load.waiting_prefill_tokens else set[Role]()
    now = replace(
        before, description=description, heard_s=now_s, busy_share=share, worked_as=before.worked_as | worked
    )  # fmt: skip
    return replace(roster, known={**roster.known, name: now})


def seen(roster: Roster, command: Command) -> tuple[WorkerSeen, ...]:
    """Return every worker as the decision sees it; who surely serves is the command's word."""
    workers = [_seen(known, command) for name, known in sorted(roster.known.items()) if name not in roster.removed]
    return (*workers, *(_awaited(name, each.role) for name, each in sorted(roster.expected.items())))


def observation_of(
    roster: Roster,
    command: Command,
    traffic: Mapping[PriorityClass, ClassTraffic],
    *,
    measured_s: float,
    queued_work_s: float,
) -> Observation | None:
    """Return the round's view; None while no worker has answered. ``measured_s`` is the age of the traffic."""
    present = [k for k in roster.known.values() if k.gone_s is None and k.info.worker_id not in roster.removed]
    told = [(known, known.description) for known in present if known.description is not None]
    if not told:
        return None
    workers = seen(roster, command)
    role_of = {worker.worker_id: worker.role for worker in workers}
    by_role = {
        role: [description for known, description in told if role_of[known.info.worker_id] is role] for role in Role
    }
    everyone = [description for _, description in told]
    prefill_model = middle(_fits(told, Role.PREFILL) or [d.latency for d in by_role[Role.PREFILL] or everyone], traffic)
    waiting = [d.load.waiting_prefill_tokens for d in by_role[Role.PREFILL] if d.load.waiting_prefill_tokens]
    decoders = by_role[Role.DECODE] or everyone
    busy = [k.busy_share for k, d in told if role_of[k.info.worker_id] is Role.PREFILL and not d.draining]
    return Observation(
        measured_s=min([measured_s, *(known.heard_s for known in present)]),
        workers=workers,
        traffic=traffic,
        prefill_model=prefill_model,
        decode_model=middle(_fits(told, Role.DECODE) or [d.latency for d in decoders], traffic),
        max_sequences=min(d.info.max_sequences for d in decoders),
        kv_tokens=min(d.info.total_blocks * d.info.block_size for d in decoders),
        backlog_s=queued_work_s + sum(prefill_model.prefill_s(num_new_tokens=tokens) for tokens in waiting),
        prefill_busy=sum(busy) / len(busy) if busy else 0.0,
    )


def _seen(known: Known, command: Command) -> WorkerSeen:
    name, epoch = known.info.worker_id, known.info.epoch
    load = WorkerLoad() if known.description is None else known.description.load
    claimed = command.workers.get(name)
    if known.gone_s is not None or claimed is None or claimed.epoch != epoch:
        return WorkerSeen(worker_id=name, epoch=epoch, role=known.info.role, stage=Stage.STARTING)
    role = claimed.report.role
    stage = Stage.SERVING if claimed.serves(role) else Stage.DRAINING
    died_as = None if known.died_as is role else known.died_as
    return WorkerSeen(worker_id=name, epoch=epoch, role=role, stage=stage, load=load, died_as=died_as)


def _awaited(name: WorkerId, role: Role) -> WorkerSeen:
    return WorkerSeen(worker_id=name, epoch=Epoch(0), role=role, stage=Stage.STARTING)


def _fits(told: Iterable[tuple[Known, WorkerDescription]], role: Role) -> list[LatencyCoefficients]:
    """Return the fits of those that have been at work in a role, whatever they do now: more fits outvote a bad one."""
    return [description.latency for known, description in told if role in known.worked_as]
