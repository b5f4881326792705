"""Demand: the traffic that a split is judged by, prepared once for many splits. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from tandem.controller.observation import ClassTraffic, Observation, RequestShape
from tandem.controller.sizing.queueing import Stream
from tandem.core.latency import LatencyModel
from tandem.core.types import PriorityClass

_MOST_SHAPES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassDemand:
    """One class, with the service times of its recent requests on a prefill worker."""

    priority: PriorityClass
    rate_per_s: float
    prefill_s: tuple[float, ...]  # one per shape
    output_tokens: tuple[int, ...]  # one per shape
    context_tokens: float  # mean context of a decoding sequence, weighted by how long it decodes
    local_s: float  # mean prefill time on a decode worker

    @property
    def tokens_per_s(self) -> float:
        """Output tokens asked for."""
        return self.rate_per_s * sum(self.output_tokens) / len(self.output_tokens)

    def stream(self, share: float) -> Stream:
        """Return what ``share`` of the requests bring to the prefill pool."""
        count = len(self.prefill_s)
        return Stream(
            rate_per_s=self.rate_per_s * share,
            mean_s=sum(self.prefill_s) / count,
            square_s2=sum(seconds**2 for seconds in self.prefill_s) / count,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """All classes with traffic, most urgent first, and the workers' speed."""

    classes: tuple[ClassDemand, ...]
    arrival_scv: float
    backlog_s: float
    num_open: int  # requests under way: they wait, are read or write
    left_tokens: float  # output tokens that they will write yet
    decode_model: LatencyModel
    max_sequences: int
    kv_tokens: int

    @property
    def tokens_per_s(self) -> float:
        """Output tokens asked for by all classes."""
        return sum(demand.tokens_per_s for demand in self.classes)


def demand_of(observation: Observation, rates_per_s: Mapping[PriorityClass, float]) -> Demand:
    """Return the demand with forecast rates; a class without a recent request asks for nothing."""
    classes = tuple(
        _class_demand(priority, observation.traffic[priority], rates_per_s.get(priority, 0.0), observation)
        for priority in PriorityClass
        if priority in observation.traffic and observation.traffic[priority].shapes
    )
    total = sum(demand.rate_per_s for demand in classes)
    weighted = sum(demand.rate_per_s * observation.traffic[demand.priority].arrival_scv for demand in classes)
    return Demand(
        classes=classes,
        arrival_scv=weighted / total if total > 0.0 else 1.0,
        backlog_s=observation.backlog_s,
        num_open=sum(traffic.num_open for traffic in observation.traffic.values()),
        left_tokens=sum(traffic.left_tokens for traffic in observation.traffic.values()),
        decode_model=observation.decode_model,
        max_sequences=observation.max_sequences,
        kv_tokens=observation.kv_tokens,
    )


def _class_demand(
    priority: PriorityClass, traffic: ClassTraffic, rate_per_s: float, observation: Observation
) -> ClassDemand:
    shapes = _thinned(traffic.shapes)
    outputs = tuple(max(shape.output_tokens, 1) for shape in shapes)
    contexts = [
        output * (shape.new_tokens + shape.cached_tokens + output / 2)
        for shape, output in zip(shapes, outputs, strict=True)
    ]
    local = [_prefill_s(observation.decode_model, shape) for shape in shapes]
    return ClassDemand(
        priority=priority,
        rate_per_s=max(rate_per_s, 0.0),
        prefill_s=tuple(_prefill_s(observation.prefill_model, shape) for shape in shapes),
        output_tokens=outputs,
        context_tokens=sum(contexts) / sum(outputs),
        local_s=sum(local) / len(local),
    )


def _prefill_s(model: LatencyModel, shape: RequestShape) -> float:
    return model.prefill_s(num_new_tokens=shape.new_tokens, num_cached_tokens=shape.cached_tokens)


def _thinned(shapes: tuple[RequestShape, ...]) -> tuple[RequestShape, ...]:
    """Return at most 16 shapes, evenly spread over the sizes: enough for a percentile, cheap enough for many splits."""
    if len(shapes) <= _MOST_SHAPES:
        return shapes
    ordered = sorted(shapes, key=lambda shape: (shape.new_tokens, shape.cached_tokens, shape.output_tokens))
    step = len(ordered) / _MOST_SHAPES
    return tuple(ordered[int((index + 0.5) * step)] for index in range(_MOST_SHAPES))
