"""Rows 10 to 15 once more with real packets: every worker is a host of its own, in a network namespace."""

from collections.abc import Callable
from typing import Protocol, Self

from benchmarks.fault_matrix.actions import repeated
from benchmarks.fault_matrix.cell import (
    OK,
    RETRIED,
    Cell,
    Check,
    Expect,
    MakeFault,
    Phase,
    Probe,
    RoleName,
    ok_or_named,
)
from benchmarks.fault_matrix.checks import let_go_within, nobody_restarted
from benchmarks.fault_matrix.scene import Scene
from tandem.chaos.faults.evidence import Evidence
from tandem.chaos.faults.namespaces import NetworkHost, NetworkLab
from tandem.chaos.faults.network import NarrowLink, PacketFilter, PulledCable

SHAPE = "network"
_NOTICED_S = 20.0  # gRPC: a ping each 10 s, 5 s for its answer
_LONGER_TOKENS = 1500  # take longer than that: who is free by then has noticed


class _NetworkFault(Protocol):
    def __enter__(self) -> Self: ...
    def end(self) -> None: ...
    def verify(self) -> Evidence: ...


Make = Callable[[NetworkHost, NetworkLab], _NetworkFault]


class _AtHost:
    """A network fault at the host of the worker that serves the probe."""

    def __init__(self, scene: Scene, role: RoleName, make: Make) -> None:
        self._scene, self._role, self._make = scene, role, make
        self._fault: _NetworkFault | None = None

    async def begin(self) -> None:
        world = self._scene.world
        host = world.hosts[await self._scene.victim(self._role)]
        self._fault = self._make(host, world.lab)
        self._fault.__enter__()

    async def end(self) -> None:
        if self._fault is not None:
            self._fault.end()

    def verify(self) -> Evidence:
        return Evidence(took_effect=False, facts="never begun") if self._fault is None else self._fault.verify()


def at_host(role: RoleName, make: Make) -> MakeFault:
    """Make a network fault at the host of the one that serves the probe as ``role``."""
    return lambda scene: _AtHost(scene, role, make)


def _prefill_address(lab: NetworkLab) -> str:
    return lab.hosts[0].address


def _cell(
    row: int,
    phase: Phase,
    does: str,
    fault: MakeFault,
    *,
    expect: Expect = OK,
    lasts_s: float | None = None,
    max_tokens: int = 60,
    checks: tuple[Check, ...] = (),
) -> Cell:
    return Cell(
        row=row,
        phase=phase,
        does=does,
        fault=fault,
        expect=expect,
        lasts_s=lasts_s,
        probe=Probe(count=12 if phase is Phase.IDLE else 1, max_tokens=max_tokens, deadline_s=60.0),
        checks=checks,
        after=(nobody_restarted(),),
        shape=SHAPE,
    )


# First those that need the pair to be in use: a cut closes it for a while.
CELLS = [
    _cell(
        12,
        Phase.IDLE,
        "drop every packet from D to P",
        at_host("decode", lambda host, lab: PacketFilter(host, peer=_prefill_address(lab), direction="out")),
    ),
    _cell(
        11,
        Phase.IDLE,
        "drop every packet between P and D",
        at_host("decode", lambda host, lab: PacketFilter(host, peer=_prefill_address(lab))),
    ),
    _cell(
        13,
        Phase.IDLE,
        "lose 5 % of P's packets",
        at_host("prefill", lambda host, lab: PacketFilter(host, percent=5)),
    ),
    _cell(
        13,
        Phase.DECODE,
        "lose 10 % of D's packets",
        at_host("decode", lambda host, lab: PacketFilter(host, percent=10)),
    ),
    _cell(
        14,
        Phase.IDLE,
        "1 Mbit/s is all that P can send",
        at_host("prefill", lambda host, lab: NarrowLink(host, bits_per_s=1_000_000)),
        expect=ok_or_named("KV_TIMEOUT", "OVERLOADED"),
        max_tokens=24,
    ),
    _cell(
        15,
        Phase.DECODE,
        "reset what comes from the router to D, again and again",
        repeated(
            at_host("decode", lambda host, lab: PacketFilter(host, peer=lab.address, verdict="reset", direction="in")),
            on_s=0.3,
            off_s=1.5,
        ),
        expect=ok_or_named("WORKER_LOST", "UNAVAILABLE"),
        lasts_s=4.0,
        max_tokens=120,
    ),
    _cell(
        10,
        Phase.DECODE,
        "drop every packet between router and D",
        at_host("decode", lambda host, lab: PacketFilter(host, peer=lab.address)),
        expect=RETRIED,
        max_tokens=_LONGER_TOKENS,
        checks=(let_go_within("decode", _NOTICED_S),),
    ),
    _cell(
        10,
        Phase.IDLE,
        "drop every packet between router and D",
        at_host("decode", lambda host, lab: PacketFilter(host, peer=lab.address)),
    ),
    _cell(
        10,
        Phase.DECODE,
        "pull D's cable",
        at_host("decode", lambda host, lab: PulledCable(host)),
        expect=RETRIED,
        max_tokens=_LONGER_TOKENS,
        checks=(let_go_within("decode", _NOTICED_S),),
    ),
]
