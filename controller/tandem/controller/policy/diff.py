"""What changed between two policies, field by field, defaults filled in."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tandem.controller.policy.model import AutoscalingPolicy

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One field. None = not set."""

    path: str  # as in the file: spec.pools.prefill.maxReplicas
    before: Scalar
    after: Scalar


def differences(old: AutoscalingPolicy, new: AutoscalingPolicy) -> tuple[Change, ...]:
    """Return every field whose effective value differs, in the order of the file."""
    before, after = _flat(old), _flat(new)
    return tuple(
        Change(path=path, before=before.get(path), after=after.get(path))
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
    )


def _flat(policy: AutoscalingPolicy) -> dict[str, Scalar]:
    return dict(_leaves(policy.model_dump(mode="json", by_alias=True), ""))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Scalar]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            named = item.get("name") if isinstance(item, dict) else None
            yield from _leaves(item, f"{path}[{named or index}]")  # a schedule that moved is the same schedule
    else:
        yield path, value
