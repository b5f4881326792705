"""Shapes of load to try a controller with: those of `benchmarks.controller`, and others beside them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.controller_world.load import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Phases, and the split of prefill to decode workers that they begin with."""

    split: tuple[int, int]
    phases: Sequence[Phase]


def _phase(name: str, rate: float, prompt: int, output: int, seconds: float) -> Phase:
    return Phase(name=name, seconds=seconds, rate_per_s=rate, prompt_tokens=prompt, output_tokens=output)


def _prompts(seconds: float, rate: float = 1.8) -> Phase:
    return _phase("prompts", rate, 600, 16, seconds)


def _answers(seconds: float, rate: float = 4.8) -> Phase:
    return _phase("answers", rate, 40, 60, seconds)


def _shift(rate_p: float, rate_a: float, seconds: float = 120.0) -> Shape:
    kinds = (_prompts(seconds, rate_p), _answers(seconds, rate_a), _prompts(seconds, rate_p))
    return Shape(split=(4, 4), phases=kinds)


def _wave(seconds: float, halves: int) -> Shape:
    return Shape(split=(4, 4), phases=[(_answers, _prompts)[index % 2](seconds) for index in range(halves)])


_LONG = (_phase("prompts", 1.0, 900, 24, 150.0), _phase("answers", 3.0, 80, 100, 150.0))
_TWELVE = (_phase("prompts", 4.0, 500, 12, 120.0), _phase("answers", 8.0, 60, 50, 120.0))

SHAPES = {
    "shift": _shift(1.8, 4.8),
    "shift-mild": _shift(1.5, 4.0),
    "shift-heavy": _shift(2.2, 5.4),
    "shift-long": Shape(split=(4, 4), phases=(*_LONG, _LONG[0])),
    "shift-twelve": Shape(split=(6, 6), phases=(*_TWELVE, _TWELVE[0])),
    "square-10": _wave(10.0, 4),
    "square-30": _wave(30.0, 6),
    "step": Shape(split=(4, 4), phases=(_answers(10.0, 1.8), _answers(60.0, 5.4))),
    "step-prompts": Shape(split=(2, 6), phases=(_prompts(20.0, 0.6), _prompts(120.0))),
    "steady": Shape(split=(4, 4), phases=(_phase("mixed", 2.0, 300, 30, 300.0),)),
    "steady-prompts": Shape(split=(4, 4), phases=(_prompts(300.0),)),
}
