"""One latency model for a role, out of what several workers have fitted to their own steps. Pure.

The fit of one worker is right about what it has seen. What it says of other sizes may be far off: from batches, or
prompts, that are all alike nobody can tell what each of three coefficients is. So the fits are compared by what they
predict, at the sizes that matter now, and the one in the middle is taken *whole*: the middle of each coefficient by
itself may belong to no worker at all, and be off by their number.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from tandem.controller.observation import ClassTraffic, RequestShape
from tandem.core.latency import LatencyCoefficients, LatencyModel
from tandem.core.types import PriorityClass

_PROMPTS = (256, 1024)  # tokens, while nobody has asked for anything
_SEQUENCES = (1, 8, 32)

Ask = Callable[[LatencyModel], float]


def middle(fits: Sequence[LatencyCoefficients], traffic: Mapping[PriorityClass, ClassTraffic]) -> LatencyModel:
    """Return the model that predicts what most of ``fits`` (at least one) do, for prefill and for steps apart."""
    shapes = [shape for each in traffic.values() for shape in each.shapes]
    prefill = _nearest(fits, [_prefill_of(tokens) for tokens in _prompts(shapes)])
    context = sum(s.new_tokens + s.cached_tokens + s.output_tokens // 2 for s in shapes) // max(len(shapes), 1)
    step = _nearest(fits, [_step_of(count, count * (context or _PROMPTS[0])) for count in _SEQUENCES])
    return LatencyModel(
        coefficients=LatencyCoefficients(prefill=prefill.prefill, step=step.step, transfer=fits[0].transfer)
    )


def _prompts(shapes: Sequence[RequestShape]) -> Sequence[int]:
    sizes = sorted(shape.new_tokens for shape in shapes)
    return (sizes[len(sizes) // 4], sizes[len(sizes) // 2], sizes[-1]) if sizes else _PROMPTS


def _prefill_of(tokens: int) -> Ask:
    return lambda model: model.prefill_s(num_new_tokens=tokens)


def _step_of(num_sequences: int, num_context_tokens: int) -> Ask:
    return lambda model: model.step_s(num_sequences=num_sequences, num_context_tokens=num_context_tokens)


def _nearest(fits: Sequence[LatencyCoefficients], questions: Sequence[Ask]) -> LatencyCoefficients:
    answers = [[ask(LatencyModel(coefficients=fit)) for ask in questions] for fit in fits]
    middles = [median(column) for column in zip(*answers, strict=True)]

    def off(index: int) -> float:
        pairs = zip(answers[index], middles, strict=True)
        return float(sum(abs(answer - centre) / centre for answer, centre in pairs if centre > 0.0))

    return fits[min(range(len(fits)), key=off)]
