"""Rows 27 to 29: callers that read slowly or vanish, and deadlines that pass at every stage."""

from benchmarks.fault_matrix.actions import behave, endings, on_link
from benchmarks.fault_matrix.cancels import Stage, stages_at_the_deadline
from benchmarks.fault_matrix.cell import OK, PHASE_GATES, Cell, Gate, Phase, Probe, named_error
from benchmarks.fault_matrix.checks import freed_within, let_go_within, mates_untouched, nobody_restarted, nothing_kept
from benchmarks.fault_matrix.effects import decode_ran_ahead, no_work_after_deadline, router_ended, stays_small
from benchmarks.fault_matrix.scene import Scene
from tandem.chaos.cluster import Ending
from tandem.chaos.faults.flow import Direction
from tandem.chaos.faults.stream_faults import Stall
from tandem.core.types import SamplingParams

UP, DOWN = Direction.TO_SERVER, Direction.TO_CLIENT
_VANISHED_S = 20.0  # the row's bound: gRPC asks after 10 s and gives up 5 s later
_DEADLINE_S = 1.0
_LATE_S = 1.5
_UNREAD_S = 15.0
_GRID_S = (0.01, 0.05, 0.1, 0.3)
_AT_WORK_S = 0.1  # a request that has less may not have come to a worker yet


def _deadline(
    phase: Phase, does: str, gate: Gate, *stages: Stage, shape: str = "pairs", mates: int = 0, quick: bool = False
) -> Cell:
    return Cell(
        row=29,
        phase=phase,
        does=does,
        fault=behave(lambda scene: endings(scene, Ending.ERROR)),
        gate=gate,
        expect=named_error("DEADLINE_EXCEEDED"),
        probe=Probe(deadline_s=_DEADLINE_S, max_tokens=200, mates=mates),
        checks=() if mates else (freed_within("prefill", _LATE_S), freed_within("decode", _LATE_S)),
        after=(
            mates_untouched(),
            nobody_restarted(),
            router_ended("DEADLINE_EXCEEDED"),
            no_work_after_deadline(at_work=phase is not Phase.IDLE),
            stages_at_the_deadline(*stages),
        ),
        shape=shape,
        quick=quick,
    )


def _stood_still(scene: Scene) -> str:
    return ", ".join(f"read nothing for {r.stood_still_s:.0f} s" for r in scene.probes if r.stood_still_s)


CELLS = [
    Cell(
        row=27,
        phase=Phase.DECODE,
        does="a caller that reads an event each 0.2 s keeps its stream",
        fault=behave(lambda scene: endings(scene, Ending.OK)),
        expect=OK,
        when="before",
        probe=Probe(max_tokens=16, read_delay_s=0.2, mates=3),
        after=(mates_untouched(), nobody_restarted(), decode_ran_ahead(1.0)),
        shape="slow-callers",
    ),
    Cell(
        row=27,
        phase=Phase.DECODE,
        does="callers that read nothing for 15 s are ended as too slow; decoding does not wait, the router stays small",
        # They fill what gRPC holds of a stream (its window of 64 KiB, and as much at the router) and then the router's
        # own buffers of 16 tokens: with 20 log-probabilities at each position in few steps, also on a slow machine.
        fault=behave(_stood_still),
        gate=Gate(tokens=5),
        expect=named_error("SLOW_CONSUMER"),
        probe=Probe(
            count=2,
            n=8,
            max_tokens=600,
            sampling=SamplingParams(num_logprobs=20),
            mates=3,
            deadline_s=60.0,
            stands_still_s=_UNREAD_S,
        ),
        checks=(
            router_ended("SLOW_CONSUMER", within_s=_UNREAD_S),
            let_go_within("decode", _UNREAD_S),  # its mates may go on
            stays_small("router", num_bytes=64 * 1024, seconds=_UNREAD_S),
        ),
        after=(mates_untouched(), nobody_restarted()),
        shape="slow-callers",
    ),
    *(
        Cell(
            row=28,
            phase=phase,
            does="the caller vanishes without a word",
            fault=on_link("public", lambda: [Stall(UP), Stall(DOWN)], any_is_enough=True),
            expect=named_error("UNAVAILABLE", "UNREACHABLE", "DEADLINE_EXCEEDED"),
            gate=gate,
            # These take longer than the row allows: who is free by then was told.
            probe=Probe(max_tokens=900 if mates else 1800, deadline_s=60.0, mates=mates),
            checks=(
                router_ended("CLIENT_CANCELLED", within_s=_VANISHED_S),
                *(() if mates else (freed_within("prefill", _VANISHED_S), freed_within("decode", _VANISHED_S))),
            ),
            after=(nothing_kept("decode", _VANISHED_S), mates_untouched(), nobody_restarted()),
            shape="two-slots" if mates else "slow-callers",
        )
        for phase, gate, mates in (
            (Phase.IDLE, Gate(queued=True), 2),
            (Phase.PREFILL, Gate(point="p.chunk", after=1), 0),
            (Phase.TRANSFER, PHASE_GATES[Phase.TRANSFER], 0),
            (Phase.DECODE, Gate(tokens=5), 0),
        )
    ),
    *(
        Cell(
            row=29,
            phase=phase,
            does=f"after {1000 * deadline_s:.0f} ms, wherever the request is",
            fault=behave(lambda scene: endings(scene, Ending.ERROR)),
            expect=named_error("DEADLINE_EXCEEDED", "DEADLINE_UNREACHABLE"),  # too late, or sure to be
            gate=Gate(sent=True),
            # More than any of these deadlines: 0.19 s of prefill, 3 s of decoding.
            probe=Probe(count=4, prompt_blocks=12, deadline_s=deadline_s, max_tokens=200),
            checks=(freed_within("prefill", deadline_s + _LATE_S), freed_within("decode", deadline_s + _LATE_S)),
            after=(
                nobody_restarted(),
                # A caller's own clock may be first: then it hangs up.
                router_ended(
                    "DEADLINE_EXCEEDED", "DEADLINE_UNREACHABLE", "CLIENT_CANCELLED", unless_it_never_came=True
                ),
                no_work_after_deadline(at_work=deadline_s >= _AT_WORK_S),
                stages_at_the_deadline(),
            ),
        )
        for deadline_s, phase in zip(_GRID_S, (Phase.IDLE, Phase.PREFILL, Phase.PREFILL, Phase.DECODE), strict=True)
    ),
    _deadline(Phase.IDLE, "in the queue", Gate(queued=True, dwell_s=_LATE_S), Stage.QUEUED, shape="two-slots", mates=2),
    _deadline(Phase.PREFILL, "before the first chunk", Gate(point="p.before_prefill", dwell_s=_LATE_S), Stage.PREFILL),
    _deadline(Phase.PREFILL, "between chunks", Gate(point="p.chunk", dwell_s=_LATE_S), Stage.PREFILL),
    _deadline(
        Phase.TRANSFER,
        "between sent chunks",
        Gate(point="p.before_chunk_send", after=2, dwell_s=_LATE_S),
        Stage.TRANSFER,
    ),
    _deadline(
        Phase.TRANSFER,
        "with all KV at D, before its engine takes it",
        Gate(point="d.before_commit", at="decode", dwell_s=_LATE_S),
        Stage.TRANSFER,
        Stage.COMMITTED,
    ),
    _deadline(Phase.DECODE, "between tokens", Gate(tokens=3, dwell_s=_LATE_S), Stage.DECODE, quick=True),
]
