"""Proof of the circuit breaker of a pair (row 11): it opens, nothing goes over the pair while it is open, it closes."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.fault_matrix.cell import Check
from benchmarks.fault_matrix.scene import Scene
from tandem.chaos.cluster import Ending, RequestRecord, RequestSpec, Verdict, random_specs
from tandem.core.cluster import PairState
from tandem.core.event_log.events import Dispatched

_OPENS_S: Final = 40.0
_WATCHED_S: Final = 3.0
_CLOSES_S: Final = 30.0
_FAILURES: Final = 2
_WAVE: Final = 4
_MANY: Final = 16  # more than one decode worker takes while another is free: every pair gets some
_POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPair:
    """A pair that was seen open: from when on, and when its probe was due at the earliest."""

    prefill: str
    decode: str
    num_failures: int
    seen_s: float
    probe_s: float


def breaker_opens() -> Check:
    """While the links are cut, callers come until a pair is left alone, and some more: none of them may get that pair.

    Asked from the fault on; every one of these callers must be served, by other pairs.
    """

    async def check(scene: Scene) -> list[str]:
        records: list[RequestRecord] = []
        seed = 0
        while not (opened := await _open_pairs(scene)):
            if time.monotonic() - scene.hit_at_s > _OPENS_S:
                return [f"no pair was taken out of use within {_OPENS_S} s, {len(records)} requests came meanwhile"]
            seed += 1
            records += await scene.run(_callers(seed))
        until_s = time.monotonic() + _WATCHED_S
        while time.monotonic() < until_s:
            seed += 1
            records += await scene.run(_callers(seed))
        await asyncio.sleep(_POLL_S)  # until it is written
        sent = [(r.t, r.event) for r in scene.events("router") if isinstance(r.event, Dispatched)]
        problems = _not_served(records)
        for pair in opened:
            in_time = [event for at_s, event in sent if pair.seen_s < at_s < min(pair.probe_s, until_s)]
            wrong = sum((event.prefill, event.decode) == (pair.prefill, pair.decode) for event in in_time)
            name = f"{pair.prefill} to {pair.decode}"
            scene.facts.append(
                f"{name} opened after {pair.num_failures} failures, got {wrong} of the next {len(in_time)} attempts"
            )
            if pair.num_failures < _FAILURES:
                problems.append(f"{name} was taken out of use after {pair.num_failures} failures")
            if wrong or not in_time:
                problems.append(f"{wrong} of {len(in_time)} attempts went over {name} while it was open")
        scene.opened_pairs += [(pair.prefill, pair.decode) for pair in opened]
        return problems

    return check


def breaker_closes() -> Check:
    """After the fault the pairs that had opened are probed, hand over, and are forgotten as troubles."""

    async def check(scene: Scene) -> list[str]:
        until_s = time.monotonic() + _CLOSES_S
        seed = 1000
        opened = set(scene.opened_pairs)
        while True:
            pairs = (await scene.world.cluster.status()).pairs
            troubled = {(str(p.prefill_worker), str(p.decode_worker)) for p in pairs} & opened
            if not opened:
                return ["no pair had opened"]
            if not troubled:
                scene.facts.append(f"{len(opened)} closed again")
                return []
            if time.monotonic() > until_s:
                return [f"{sorted(troubled)} did not close within {_CLOSES_S} s of the fault's end"]
            seed += 1
            if problems := _not_served(await scene.run(_callers(seed, _MANY))):
                return problems
            await asyncio.sleep(_POLL_S)

    return check


async def _open_pairs(scene: Scene) -> list[OpenPair]:
    now_s = time.monotonic()
    return [
        OpenPair(
            prefill=str(pair.prefill_worker),
            decode=str(pair.decode_worker),
            num_failures=pair.num_failures,
            seen_s=time.monotonic(),
            probe_s=now_s + pair.probe_in_ms / 1e3,
        )
        for pair in (await scene.world.cluster.status()).pairs
        if pair.state is PairState.OPEN and pair.probe_in_ms
    ]


def _callers(seed: int, count: int = _WAVE) -> list[RequestSpec]:
    return random_specs(count, seed=seed, max_output_tokens=2, max_n=1, max_prompt_blocks=2)


def _not_served(records: Sequence[RequestRecord]) -> list[str]:
    return [
        f"another caller ended {r.ending.value} {r.reason} {r.problem}"
        for r in records
        if r.ending is not Ending.OK or r.verdict is not Verdict.EQUAL
    ]
