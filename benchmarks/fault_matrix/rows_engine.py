"""Rows 36 to 39: requests that crash the engine, numbers that are none, pools and memory that are full."""

from benchmarks.fault_matrix.actions import at_point, behave, endings, nothing
from benchmarks.fault_matrix.cell import OK, RETRIED, Cell, Check, Expect, Gate, Phase, Probe, RoleName, named_error
from benchmarks.fault_matrix.checks import mates_untouched, nobody_restarted, restarted_at_most
from benchmarks.fault_matrix.effects import (
    all_blocks_free,
    never_handed_over,
    pool_was_full,
    router_ended,
    tried_at_most,
    workers_died,
)
from tandem.chaos.cluster import Ending
from tandem.chaos.tagged.model import Poison

_DEATHS = ("POISON_REQUEST",)
_FAILED = ("ENGINE_FAILED", "POISON_REQUEST")
_NUMERICS = ("NUMERICS",)
_RESTARTS_S = 120.0  # both workers of a role may have to start again, on a busy machine
_MOST_DEATHS = 2  # also among three mates
_MARK = 300  # a token that the probe's prompt holds, and its mates' may not matter


def _poison(
    row: int,
    phase: Phase,
    does: str,
    marks: tuple[int, ...],
    reasons: tuple[str, ...],
    *,
    deaths: int,
    quick: bool = False,
) -> Cell:
    role: RoleName = "decode" if Poison.LATE in marks else "prefill"
    seen: tuple[Check, ...] = (router_ended(*reasons),)
    seen += (workers_died(at_least=2, at_most=deaths),) if deaths else (nobody_restarted(), all_blocks_free())
    if reasons == _NUMERICS and role == "prefill":
        seen = (*seen, never_handed_over())
    return Cell(
        row=row,
        phase=phase,
        does=does,
        fault=behave(lambda scene: endings(scene, Ending.ERROR)),
        expect=named_error(*reasons),
        when="before",
        probe=Probe(marks=marks, mates=3, max_tokens=40, deadline_s=_RESTARTS_S),
        after=(mates_untouched(), restarted_at_most(deaths), *seen),
        quick=quick,
    )


def _alone(phase: Phase, what: str, marks: tuple[int, ...]) -> Cell:
    return Cell(
        row=36,
        phase=phase,
        does=f"{what} that kills the process, alone",
        fault=behave(lambda scene: endings(scene, Ending.ERROR)),
        expect=named_error(*_DEATHS),
        when="before",
        probe=Probe(marks=marks, max_tokens=40, deadline_s=_RESTARTS_S),
        after=(restarted_at_most(2), workers_died(at_least=2, at_most=2), tried_at_most(2), router_ended(*_DEATHS)),
    )


CELLS = [
    _alone(Phase.PREFILL, "a prompt", (Poison.EXIT,)),
    _alone(Phase.DECODE, "an answer", (Poison.EXIT, Poison.LATE)),
    _poison(36, Phase.PREFILL, "a prompt that kills the process", (Poison.EXIT,), _DEATHS, deaths=_MOST_DEATHS),
    _poison(
        36, Phase.DECODE, "an answer that kills the process", (Poison.EXIT, Poison.LATE), _DEATHS, deaths=_MOST_DEATHS
    ),
    _poison(36, Phase.PREFILL, "a prompt that fails its pass", (Poison.RAISE,), _FAILED, deaths=0, quick=True),
    _poison(36, Phase.DECODE, "an answer that fails its pass", (Poison.RAISE, Poison.LATE), _FAILED, deaths=0),
    Cell(
        row=36,
        phase=Phase.DECODE,
        does="a pass of D's fails once",
        fault=at_point("decode", "engine.step", action="raise"),
        expect=OK,
        probe=Probe(mates=2, max_tokens=200),
        after=(mates_untouched(), nobody_restarted()),
    ),
    Cell(
        row=36,
        phase=Phase.PREFILL,
        does="a pass of P's fails once",
        fault=at_point("prefill", "engine.step", action="raise"),
        expect=RETRIED,
        after=(nobody_restarted(),),
    ),
    Cell(
        row=36,
        phase=Phase.DECODE,
        does="a pass of D's segfaults once",
        fault=at_point("decode", "engine.step", action="crash"),
        expect=RETRIED,
        probe=Probe(mates=2, max_tokens=200),
        after=(mates_untouched(), restarted_at_most(1)),
    ),
    _poison(37, Phase.PREFILL, "a prompt whose KV is NaN", (Poison.NAN,), _NUMERICS, deaths=0, quick=True),
    _poison(37, Phase.DECODE, "an answer whose KV is NaN", (Poison.NAN, Poison.LATE), _NUMERICS, deaths=0),
    Cell(
        row=37,
        phase=Phase.DECODE,
        does="logits of D's turn NaN for one request",
        fault=at_point("decode", "engine.logits", everywhere=True, action="nan", mark=_MARK, times=None),
        expect=named_error(*_NUMERICS),
        when="before",
        probe=Probe(marks=(_MARK,) * 3, max_tokens=40, mates=2),
        after=(mates_untouched(), nobody_restarted(), router_ended(*_NUMERICS), all_blocks_free()),
    ),
    Cell(
        row=37,
        phase=Phase.PREFILL,
        does="logits of P's turn NaN for one request",
        fault=at_point("prefill", "engine.logits", everywhere=True, action="nan", mark=_MARK, after=2, times=None),
        expect=named_error(*_NUMERICS),
        when="before",
        probe=Probe(marks=(_MARK,) * 3, max_tokens=40, mates=2),
        after=(mates_untouched(), nobody_restarted(), router_ended(*_NUMERICS), all_blocks_free(), never_handed_over()),
    ),
    Cell(
        row=38,
        phase=Phase.DECODE,
        does="32 requests that need the pool of 24 blocks 10 times over",
        fault=behave(lambda scene: endings(scene, Ending.OK) if len(scene.probes) * 8 > 24 else ""),
        expect=OK,
        when="before",
        probe=Probe(count=32, prompt_blocks=4, max_tokens=60, deadline_s=100.0),
        after=(nobody_restarted(), pool_was_full("decode", blocks=24, slack_blocks=1)),
        shape="small-pool",
    ),
    Cell(
        row=38,
        phase=Phase.PREFILL,
        does="prompts of which only one fits the pool at a time",
        fault=behave(lambda scene: endings(scene, Ending.OK)),
        expect=OK,
        when="before",
        probe=Probe(count=6, prompt_blocks=14, max_tokens=12, deadline_s=60.0),
        after=(nobody_restarted(),),
        shape="small-pool",
    ),
    Cell(
        row=38,
        phase=Phase.IDLE,
        does="a prompt that fits no pool",
        fault=behave(lambda scene: endings(scene, Ending.ERROR)),
        expect=Expect(endings=frozenset({Ending.ERROR}), reasons=frozenset({"REQUEST_TOO_LARGE_FOR_WORKER"})),
        when="before",
        probe=Probe(prompt_blocks=26, max_tokens=12),
        after=(nobody_restarted(),),
        shape="small-pool",
    ),
    Cell(
        row=39,
        phase=Phase.PREFILL,
        does="P runs out of memory",
        fault=at_point("prefill", "engine.step", action="oom"),
        expect=RETRIED,
        after=(restarted_at_most(1), workers_died(at_most=1)),
    ),
    Cell(
        row=39,
        phase=Phase.DECODE,
        does="D runs out of memory",
        fault=at_point("decode", "engine.step", action="oom"),
        expect=RETRIED,
        probe=Probe(mates=2, max_tokens=200),
        after=(mates_untouched(), restarted_at_most(1), workers_died(at_most=1)),
    ),
    Cell(
        row=39,
        phase=Phase.TRANSFER,
        does="D runs out of memory in the first step on what was handed over",
        fault=at_point("decode", "engine.step", action="oom"),
        expect=RETRIED,
        gate=Gate(point="d.before_commit", at="decode"),
        after=(restarted_at_most(1), workers_died(at_most=1)),
    ),
    _poison(39, Phase.PREFILL, "a prompt that takes all memory", (Poison.OUT_OF_MEMORY,), _DEATHS, deaths=_MOST_DEATHS),
    _poison(
        39,
        Phase.DECODE,
        "an answer that takes all memory",
        (Poison.OUT_OF_MEMORY, Poison.LATE),
        _DEATHS,
        deaths=_MOST_DEATHS,
    ),
]
CONTROLS = [
    Cell(row=0, phase=phase, does=f"no fault in {shape}", fault=nothing(), expect=OK, shape=shape, gate=gate)
    for shape, phase, gate in (
        ("pairs", Phase.IDLE, None),
        ("pairs", Phase.PREFILL, None),
        ("pairs", Phase.TRANSFER, None),
        ("pairs", Phase.TRANSFER, Gate(point="d.before_commit", at="decode")),
        ("pairs", Phase.DECODE, None),
        ("default-timers", Phase.DECODE, None),
        ("small-pool", Phase.TRANSFER, None),
        ("churn", Phase.TRANSFER, None),
        ("two-slots", Phase.DECODE, None),
        ("slow-callers", Phase.DECODE, None),
        ("mixed", Phase.DECODE, None),
        ("network", Phase.DECODE, None),
    )
]
