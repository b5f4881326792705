"""`tandem status`: a cluster as its router sees it."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import msgspec

from tandem.client import AsyncClient, ClusterStatus, FailedPrecondition, WorkerStatus
from tandem.cluster.commands.connection import Connection
from tandem.cluster.commands.report import table
from tandem.cluster.commands.terminal import open_terminal
from tandem.controller.deciding.values import Verdict
from tandem.controller.live.telling import SAME_FOR_S
from tandem.core.decisions import ControllerRound, Decision, DecisionFilter
from tandem.core.environment import Environment, read_environment

_TIMEOUT_S = 5.0
_LAST_ROUNDS = DecisionFilter(kinds=("controller",), limit=500)
_LATE_S = 10.0  # a round on slow ports, and the way here


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What a router said. ``round`` is the last one that a controller told it; None = none, or it keeps no log.

    ``move`` is the last of them that began a move, as far back as is asked for.
    """

    status: ClusterStatus
    round: Decision | None
    move: Decision | None


def run_status(connection: Connection, *, as_json: bool) -> None:
    """Ask and show. Raises TandemError."""
    environment = read_environment()
    terminal = open_terminal(environment)
    answer = asyncio.run(_ask(connection, environment))
    if as_json:
        state = connection.state(environment)
        known = {} if state is None else json.loads(state.model_dump_json())
        controller = msgspec.to_builtins(answer.round)
        terminal.say(json.dumps({**known, "status": asdict(answer.status), "controller": controller}))
        return
    told = controller_lines(answer.round, now_unix_s=time.time(), move=answer.move)
    for line in status_lines(answer.status, told):
        terminal.say(line)


async def _ask(connection: Connection, environment: Environment) -> _Answer:
    async with connection.internal_client(environment, timeout_s=_TIMEOUT_S) as client:
        rounds = await _last_rounds(client)
        return _Answer(
            status=await client.status(),
            round=rounds[-1] if rounds else None,
            move=next((one for one in reversed(rounds) if _is_move(one)), None),
        )


async def _last_rounds(client: AsyncClient) -> Sequence[Decision]:
    try:
        return (await client.decisions(_LAST_ROUNDS)).decisions
    except FailedPrecondition:  # it keeps no decisions
        return ()


def _is_move(told: Decision) -> bool:
    return isinstance(told.detail, ControllerRound) and told.detail.verdict == Verdict.MOVE.value


def controller_lines(told: Decision | None, *, now_unix_s: float, move: Decision | None = None) -> list[str]:
    """Return what a controller said last: the split (prefill : decode) it sees and wants, its term, its last move.

    A round that says nothing new is told only every ``SAME_FOR_S``: until then what was said last still holds, and its
    age is that of the news, not of the last round. Who says nothing for longer is not at work.
    """
    if told is None or not isinstance(told.detail, ControllerRound):
        return []
    last = told.detail
    wants = "" if last.wished_prefill is None else f", wants {last.wished_prefill}:{last.wished_decode}"
    silent_s = max(now_unix_s - told.unix_s, 0.0)
    since = f"told {duration(silent_s)} ago, nothing new since"
    if silent_s > SAME_FOR_S + _LATE_S:
        since = f"SILENT for {duration(silent_s)}, where a round is told at least every {duration(SAME_FOR_S)}"
    lines = [
        f"controller: {told.source}, {since}: sees {last.current_prefill}:{last.current_decode}{wants}"
        f" ({last.verdict}: {told.reason}); policy {last.policy}, term {last.term}"
    ]
    if move is not None and isinstance(move.detail, ControllerRound):
        ago = duration(max(now_unix_s - move.unix_s, 0.0))
        lines.append(f"last move: {ago} ago: {move.detail.move}")
    return lines


def status_lines(status: ClusterStatus, controller: Sequence[str] = ()) -> list[str]:
    """Return what to print; ``controller`` is what is to be said of it."""
    ready = "ready" if status.ready else f"not ready: {status.not_ready_reason}"
    ended = ", ".join(f"{count} {outcome}" for outcome, count in sorted(status.num_ended.items()) if count)
    lines = [
        f"{status.model}  {ready}  ({status.router_id}, up {duration(status.uptime_s)})",
        f"{status.num_running} running, {status.num_queued} queued" + (f"; ended: {ended}" if ended else ""),
    ]
    lines += [*_serving_lines(status), *controller, *_cache_lines(status)]
    if status.workers:
        head = ("worker", "role", "state", "running", "waiting", "free blocks", "address", "pid")
        lines += ["", *table(head, [_row(worker) for worker in status.workers])]
    return lines


def _serving_lines(status: ClusterStatus) -> list[str]:
    serving = status.serving
    if not serving.cause:
        return []
    cause = serving.cause.replace("_", " ")
    return [f"serving: {serving.mode.value} for {duration(serving.since_s)} (mostly: {cause})"]


def _cache_lines(status: ClusterStatus) -> list[str]:
    if not status.cache_hit_rates:
        return []
    rates = ", ".join(f"{tier} {rate:.1%}" for tier, rate in status.cache_hit_rates.items())
    return [f"prompt tokens from the cache: {rates}"]


def _row(worker: WorkerStatus) -> list[str]:
    info, load = worker.info, worker.load
    counts = ["-", "-", "-"]
    if load is not None:
        counts = [str(load.num_running), str(load.num_waiting), f"{load.free_blocks}/{load.total_blocks}"]
    return [info.worker_id, info.role.value, worker.state.value, *counts, info.address, str(info.pid)]


def duration(seconds: float) -> str:
    """Return a length of time as people say it."""
    minutes, rest_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest_s} s" if minutes else f"{rest_s} s"
