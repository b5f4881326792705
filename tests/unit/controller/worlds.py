"""Observations and policies that the tests of the decision are made of."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tandem.controller.deciding.decide import decide
from tandem.controller.deciding.values import ControllerState, Decision
from tandem.controller.observation import ClassTraffic, Now, Observation, RequestShape, Stage, WorkerSeen
from tandem.controller.policy.model import AutoscalingPolicy
from tandem.core.ids import Epoch, WorkerId
from tandem.core.latency import LatencyCoefficients, LatencyModel
from tandem.core.types import PriorityClass, Role, WorkerLoad

MODEL = LatencyModel(coefficients=LatencyCoefficients(prefill=(2e-3, 1e-4, 1e-8), step=(1e-2, 5e-4, 1e-7)))
UNIX_S = 1_800_000_000.0
PROMPTS = RequestShape(new_tokens=4000, cached_tokens=0, output_tokens=60)  # 0.48 s of prefill
ANSWERS = RequestShape(new_tokens=300, cached_tokens=0, output_tokens=500)
STANDARD = PriorityClass.STANDARD
ALONE = {"borrow": {"enabled": False}}  # what is wanted of the slower speeds, without the fastest one
PINNED = {"budget": {"min": 8, "max": 8}, "ratio": {"min": "1:7", "max": "7:1"}, **ALONE}


def policy(**spec: Any) -> AutoscalingPolicy:
    """A policy over up to 8 and 8 workers with one promise; ``spec`` overrides sections (keys as in the file)."""
    values: dict[str, Any] = {
        "classes": {"standard": {"ttft": {"target": "1s"}, "itl": {"target": "50ms"}}},
        "pools": {"prefill": {"maxReplicas": 8}, "decode": {"maxReplicas": 8}},
        "damping": {"dwell": "20s"},
    }
    return AutoscalingPolicy.model_validate({"metadata": {"name": "test"}, "spec": values | spec})


def now(seconds: float = 1000.0) -> Now:
    return Now(monotonic_s=seconds, unix_s=UNIX_S + seconds)


def workers(prefill: int, decode: int, **load: int) -> tuple[WorkerSeen, ...]:
    names = [(Role.PREFILL, index) for index in range(prefill)] + [(Role.DECODE, index) for index in range(decode)]
    return tuple(
        WorkerSeen(
            worker_id=WorkerId(f"{role.value}-{index}"), epoch=Epoch(1), role=role, stage=Stage.SERVING,
            load=WorkerLoad(**load),
        )
        for role, index in names
    )  # fmt: skip


def traffic(rate: float, *shapes: RequestShape, kept: Mapping[str, float] | None = None) -> ClassTraffic:
    return ClassTraffic(arrivals_per_s=rate, shapes=shapes or (PROMPTS,), num_ended=500, kept=kept or {})


def seen(prefill: int, decode: int, *, at_s: float = 1000.0, **changes: Any) -> Observation:
    """What is observed of so many serving workers; without ``traffic`` nobody asks for anything."""
    plain = Observation(
        measured_s=at_s, workers=workers(prefill, decode), traffic={PriorityClass.STANDARD: traffic(0.01)},
        prefill_model=MODEL, decode_model=MODEL, max_sequences=256, kv_tokens=1_000_000,
    )  # fmt: skip
    return replace(plain, **changes)


def rounds(
    view: Observation,
    wanted: AutoscalingPolicy,
    *,
    seconds: float,
    state: ControllerState | None = None,
    start_s: float = 1000.0,
) -> list[Decision]:
    """Decide every interval for ``seconds`` while the world stays as it is."""
    decisions: list[Decision] = []
    state = state or ControllerState()
    at = start_s
    while at <= start_s + seconds:
        decisions.append(decide(replace(view, measured_s=at), wanted, state, now(at)))
        state = decisions[-1].state
        at += wanted.spec.interval_s
    return decisions


def first_move(view: Observation, wanted: AutoscalingPolicy, *, seconds: float = 400.0) -> Decision:
    """Return the decision that moves, or the last one."""
    made = rounds(view, wanted, seconds=seconds)
    return next((each for each in made if each.move is not None), made[-1])


def prompt_heavy(prefill: int = 4, decode: int = 4, rate: float = 9.0, **changes: Any) -> Observation:
    """Long prompts with short answers, on so many workers."""
    return seen(prefill, decode, traffic={STANDARD: traffic(rate, PROMPTS)}, **changes)
