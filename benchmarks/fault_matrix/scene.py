"""One cell while it runs: its requests, its gate, who serves it."""

import asyncio
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from benchmarks.fault_matrix.cell import Cell, RoleName
from benchmarks.fault_matrix.world import World, probe_prompt
from tandem.chaos.cluster import RequestRecord, RequestSpec
from tandem.chaos.cluster.caller import call
from tandem.chaos.faults.failpoint_faults import ArmedFailpoint
from tandem.core.event_log.events import Dispatched, Event, RequestAccepted
from tandem.core.event_log.record import Record, decode_line

_GATE_S: Final = 15.0
_MATE_DEADLINE_S: Final = 30.0
_POLL_S: Final = 0.01
_ROUTER: Final = "router-0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Who serves an attempt."""

    prefill: str
    decode: str


class PhaseNotReached(Exception):
    """The request never came where the cell wants it."""


class Scene:
    """What a cell's fault and checks can see and do."""

    def __init__(self, world: World, cell: Cell) -> None:
        self.world = world
        self.cell = cell
        self.began_s = time.monotonic()
        self.probes: list[RequestRecord] = []
        self.mates: list[RequestRecord] = []
        self.others: list[RequestRecord] = []  # of everybody else who asked for anything in this cell
        self.hit_at_s = 0.0  # when the fault began
        self.struck = ""  # the process that the fault stopped
        self.opened_pairs: list[tuple[str, str]] = []  # (prefill, decode) whose breaker was seen open
        self.facts: list[str] = []  # what checks measured, for the result
        self._tasks: list[asyncio.Task[RequestRecord]] = []
        self._mate_tasks: list[asyncio.Task[RequestRecord]] = []
        self._gates: dict[str, ArmedFailpoint] = {}
        self._hitter = ""
        self._judged: set[int] = set()  # by identity
        self._sizes = {path: path.stat().st_size for path in world.cluster.event_logs()}
        self.known_logs = frozenset(self._sizes)

    # --- requests ----------------------------------------------------------------------------------------------------

    async def start_requests(self) -> None:
        """Send the probes and, past the callers' proxy, their mates: before them where the probes must queue."""
        probe = self.cell.probe
        if self.cell.used_gate.queued:
            self._send_mates()
            await self._until(lambda: all(record.num_tokens for record in self.mates) and bool(self.mates))
        for index in range(probe.count):
            spec = replace(
                self._spec(index, marks=probe.marks),
                n=probe.n,
                sampling=probe.sampling,
                deadline_s=probe.deadline_s,
                read_delay_s=probe.read_delay_s,
                stands_still_s=probe.stands_still_s,
            )
            if probe.stop_after_tokens is not None:
                spec = await asyncio.to_thread(self._with_stop_string, spec, probe.stop_after_tokens)
            self._tasks.append(asyncio.create_task(call(self.world.client, spec, begun=self.probes.append)))
        if not self.cell.used_gate.queued:
            self._send_mates()
        await self._until(lambda: len(self.probes) == probe.count)

    def _send_mates(self) -> None:
        for index in range(self.cell.probe.mates):
            calling = call(self.world.cluster.client(), self._spec(100 + index), begun=self.mates.append)
            self._mate_tasks.append(asyncio.create_task(calling))

    def _spec(self, index: int, *, marks: tuple[int, ...] = ()) -> RequestSpec:
        probe = self.cell.probe
        seed = zlib.crc32(f"{self.cell.name} {index}".encode())
        return RequestSpec(
            prompt=probe_prompt(16 * probe.prompt_blocks - 1, seed=seed, marks=marks),
            deadline_s=max(probe.deadline_s, _MATE_DEADLINE_S),
            stop=probe.stop_params(),
            label=f"{self.cell.name}#{index}",
        )

    def _with_stop_string(self, spec: RequestSpec, num_tokens: int) -> RequestSpec:
        """Let it end at what the right answer says after so many tokens, and nowhere before."""
        oracle = self.world.cluster.oracle
        before = replace(spec.task(), stop=replace(spec.stop, max_tokens=num_tokens))
        begin, whole = (child.text for (child, *_) in oracle.expected_many([before, spec.task()]))
        for end in range(len(begin) + 1, len(whole)):
            wanted = whole[len(begin) : end]
            if whole.find(wanted) >= len(begin):
                return replace(spec, stop=replace(spec.stop, stop=(wanted,)))
        raise PhaseNotReached("the answer says nothing new there: no stop string can be made of it")

    async def _until(self, is_so: Callable[[], bool]) -> None:
        until_s = time.monotonic() + _GATE_S
        while not is_so():
            if time.monotonic() > until_s:
                raise PhaseNotReached("the requests did not begin")
            await asyncio.sleep(_POLL_S)

    async def run(self, specs: list[RequestSpec]) -> list[RequestRecord]:
        """Send further requests of the cell's own, past every proxy, and wait for them."""
        records = await self.world.cluster.run_requests(specs, begun=self.others.append)
        self._judged |= {id(record) for record in records}
        return records

    @property
    def records(self) -> list[RequestRecord]:
        """Every request that was sent in this cell, whoever sent it."""
        return [*self.probes, *self.mates, *self.others]

    async def judge(self) -> None:
        """Compare the answers with the oracle's, those that are not yet."""
        fresh = [record for record in self.records if id(record) not in self._judged]
        await asyncio.to_thread(self.world.cluster.judge, fresh)
        self._judged |= {id(record) for record in fresh}

    async def finish_requests(self) -> None:
        """Wait for all of them; each has its own deadline."""
        await asyncio.gather(*self._tasks, *self._mate_tasks, return_exceptions=True)

    async def leave(self) -> None:
        """The callers of the probes go away, now; each notes what it saw."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def end_all(self) -> None:
        """Nobody waits any longer for what is still open."""
        for task in self._mate_tasks:
            task.cancel()
        await asyncio.gather(self.leave(), *self._mate_tasks, return_exceptions=True)

    # --- the gate ----------------------------------------------------------------------------------------------------

    def arm_gate(self) -> None:
        """Hold whoever comes to the gate's point first."""
        gate = self.cell.used_gate
        if gate.point:
            names = [_ROUTER] if gate.at == "router" else self.world.names(gate.at)
            self._gates = {
                name: self.world.desk.arm(name, gate.point, action="pause", after=gate.after, seconds=60.0)
                for name in names
            }

    async def at_gate(self) -> None:
        """Wait until the request is where the cell wants it. Raises PhaseNotReached."""
        gate = self.cell.used_gate
        until_s = time.monotonic() + _GATE_S
        while not gate.is_open:
            for name, armed in self._gates.items():
                if armed.hits():
                    self._hitter = name
                    break
            if self._hitter or gate.sent or (gate.tokens and self._num_tokens() >= gate.tokens):
                break
            if gate.queued and (await self.world.cluster.status()).num_queued:
                break
            if time.monotonic() > until_s or all(task.done() for task in self._tasks):
                raise PhaseNotReached(f"{gate} was not reached: {[r.ending.value for r in self.probes]}")
            await asyncio.sleep(_POLL_S)
        for name, armed in self._gates.items():
            if name != self._hitter:
                armed.disarm()
        await asyncio.sleep(gate.dwell_s)

    def open_gate(self) -> None:
        """Let the held one go on; the point is spent."""
        for armed in self._gates.values():
            armed.release()

    def _num_tokens(self) -> int:
        return max((record.num_tokens for record in self.probes), default=0)

    # --- who and where -----------------------------------------------------------------------------------------------

    async def victim(self, role: RoleName) -> str:
        """Name the worker that serves the probe in ``role``; without a running request, the first one."""
        if role == "router":
            return _ROUTER
        if self._hitter.startswith(role):
            return self._hitter
        if not self.probes:
            return f"{role}-0"
        pair = await self.pair()
        return pair.prefill if role == "prefill" else pair.decode

    async def pair(self) -> Pair:
        """Who serves the newest attempt of a probe (no mate's), as the router's event log has it."""
        until_s = time.monotonic() + 2.0
        while True:
            events = [record.event for record in self.events("router")]
            probes = {record.traceparent for record in self.probes}
            names = {e.request for e in events if isinstance(e, RequestAccepted) and e.traceparent in probes}
            found = [
                e for e in events if isinstance(e, Dispatched) and (e.request in names or self.cell.used_gate.queued)
            ]
            if found:
                return Pair(prefill=found[-1].prefill, decode=found[-1].decode)
            if time.monotonic() > until_s:
                raise PhaseNotReached("nothing was dispatched")
            await asyncio.sleep(_POLL_S)

    def events(self, process: str) -> list[Record]:
        """What processes whose name begins so wrote since this cell began."""
        records: list[Record] = []
        for path in self.world.cluster.event_logs():
            if path.name.startswith(process):
                with path.open("rb") as file:
                    file.seek(self._sizes.get(path, 0))
                    records += decode_records(file.read())
        return records

    def count_events(self, process: str, kind: type[Event], **fields: object) -> int:
        """How many events of a kind with these fields were written since this cell began."""
        return sum(
            isinstance(record.event, kind)
            and all(getattr(record.event, name) == value for name, value in fields.items())
            for record in self.events(process)
        )

    def pid(self, name: str) -> int:
        """Pid of a process."""
        return self.world.cluster.router_pid if name == _ROUTER else self.world.cluster.pid(name)


def decode_records(data: bytes) -> list[Record]:
    """Return the whole lines of an event log as records."""
    records = []
    for line in data.splitlines():
        try:
            records.append(decode_line(line))
        except msgspec.MsgspecError:
            continue  # half a line: it is being written, or its process was killed
    return records
