"""Rows 5 to 7: the decode worker dies before its engine has the KV, or as it answers; old frames meet its next life."""

import asyncio

from benchmarks.fault_matrix.actions import kill
from benchmarks.fault_matrix.cell import OK, RETRIED, Cell, Check, Gate, Phase, Probe
from benchmarks.fault_matrix.checks import let_go_within, nothing_kept, refused
from benchmarks.fault_matrix.effects import kv_was_reused, stopped_at_its_string
from benchmarks.fault_matrix.scene import Scene
from tandem.chaos.faults.evidence import Evidence
from tandem.chaos.faults.frame_faults import replay
from tandem.chaos.faults.frame_splitter import FrameSplitter
from tandem.chaos.faults.processes import Kill
from tandem.core.types import SamplingParams
from tandem.kvtransfer.codec import HEADER_BYTES, FrameType, decode, decode_header, encode
from tandem.kvtransfer.frames import Hello, HelloAck, HelloStatus

_LEASE_S = 20.0
_RESTART_S = 100.0  # a busy machine
SAMPLED = SamplingParams(temperature=0.9, top_k=40, seed=5)
PENALISED = SamplingParams(temperature=0.8, repetition_penalty=1.2, presence_penalty=0.4, frequency_penalty=0.3, seed=6)


class _KillAndReplay:
    """Kills D, waits for its next life, and says to it what a prefill worker said to the one before.

    Twice: word for word, and with a Hello that knows the new life but frames that name the old one.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._kill: Kill | None = None
        self._first = self._second = HelloStatus.BUSY

    async def begin(self) -> None:
        world = self._scene.world
        name = await self._scene.victim("decode")
        epoch = (await world.cluster.worker(name)).info.epoch
        pid = self._scene.pid(name)
        world.killed_pids.add(pid)
        self._kill = await asyncio.to_thread(Kill, pid)
        status = await world.cluster.restarted(name, since=epoch, timeout_s=_RESTART_S)
        address = f"127.0.0.1:{world.ports[name].kv}"
        frames = world.recorded[name].frames
        self._first = _status(await replay(frames, address))
        hello = decode(decode_header(frames[0][:HEADER_BYTES]), frames[0][HEADER_BYTES:])
        if isinstance(hello, Hello):
            forged = Hello(hello.fingerprint, hello.src_epoch, status.info.epoch, hello.worker_id)
            data = [frame for frame in frames[1:] if frame[5] != FrameType.HELLO]
            self._second = _status(await replay([encode(forged), *data], address))

    async def end(self) -> None:
        """Nothing to undo."""

    def verify(self) -> Evidence:
        """It died; its next life refused the greeting meant for the last one, and took the forged one."""
        took_effect = (
            self._kill is not None
            and self._kill.verify().took_effect
            and self._first is HelloStatus.STALE_EPOCH
            and self._second is HelloStatus.WELCOME
        )
        return Evidence(took_effect=took_effect, facts=f"answers: {self._first.name}, then {self._second.name}")


def _status(answer: bytes) -> HelloStatus:
    for frame in FrameSplitter().feed(answer):
        if frame.kind is FrameType.HELLO_ACK:
            ack = decode(decode_header(frame.data[:HEADER_BYTES]), frame.data[HEADER_BYTES:])
            if isinstance(ack, HelloAck):
                return ack.status
    return HelloStatus.BUSY


_P_LETS_GO = let_go_within("prefill", _LEASE_S)


def _before_commit(does: str, gate: Gate, phase: Phase, *checks: Check, n: int = 1) -> Cell:
    return Cell(
        row=5,
        phase=phase,
        does=does,
        fault=kill("decode"),
        gate=gate,
        expect=RETRIED,
        probe=Probe(n=n),
        after=checks,
    )


def _mid_decode(does: str, tokens: int, probe: Probe, *, after: tuple[Check, ...] = (), quick: bool = False) -> Cell:
    return Cell(
        row=6,
        phase=Phase.DECODE,
        does=does,
        fault=kill("decode"),
        gate=Gate(tokens=tokens),
        expect=RETRIED,
        probe=probe,
        after=after,
        quick=quick,
    )


CELLS = [
    Cell(row=5, phase=Phase.IDLE, does="kill D, then ask at once", fault=kill("decode"), probe=Probe(count=4)),
    _before_commit("kill D while P computes for it", Gate(point="p.chunk"), Phase.PREFILL, _P_LETS_GO),
    _before_commit(
        "kill D with half of the KV",
        Gate(point="d.received_half", at="decode"),
        Phase.TRANSFER,
        _P_LETS_GO,
        kv_was_reused(),
    ),
    # At d.before_commit D's receiver has verified all KV and tells P so (Commit), and D's engine took none of it yet: P
    # may have let go, and the KV that is lost with D is nowhere else then.
    *(
        _before_commit(
            f"kill D with all KV received, before its engine takes it{', n=3' if n > 1 else ''}",
            Gate(point="d.before_commit", at="decode"),
            Phase.TRANSFER,
            nothing_kept("prefill", _LEASE_S),
            n=n,
        )
        for n in (1, 3)
    ),
    _mid_decode("kill D after 1 token", 1, Probe()),
    _mid_decode("kill D after 7 tokens", 7, Probe(max_tokens=120), quick=True),
    _mid_decode("kill D after 33 tokens, sampled", 33, Probe(max_tokens=120, sampling=SAMPLED)),
    _mid_decode(
        "kill D after 8 tokens, penalties and a stop string that comes later",
        8,
        Probe(max_tokens=160, sampling=PENALISED, stop_after_tokens=80),
        after=(stopped_at_its_string(),),
    ),
    _mid_decode("kill D after 9 tokens, n=3 sampled", 9, Probe(max_tokens=100, n=3, sampling=SAMPLED)),
    *(
        Cell(
            row=7,
            phase=phase,
            does="D comes back under its name; old frames are said to it",
            fault=_KillAndReplay,
            expect=OK if phase is Phase.IDLE else RETRIED,
            probe=Probe(max_tokens=60),
            after=(refused("stale_epoch"),),
            gate=gate,
        )
        for phase, gate in (
            (Phase.IDLE, None),
            (Phase.TRANSFER, Gate(point="d.before_commit", at="decode")),
            (Phase.DECODE, None),
        )
    ),
]
