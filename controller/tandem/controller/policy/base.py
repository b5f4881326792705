"""What the sections of a policy share: Kubernetes-style keys, durations with units, ratios, errors at a field."""

import re
from fractions import Fraction
from typing import Annotated, NoReturn

import pydantic
from pydantic_core import InitErrorDetails, PydanticCustomError

from tandem.core.config.model import ConfigModel

_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PATTERN = r"^\d+(\.\d+)?(ms|s|m|h)$"
_RATIO_PATTERN = r"^[1-9]\d{0,3}:[1-9]\d{0,3}$"


def _key(field: str) -> str:
    """Return the key of a field: camelCase, without the unit that a duration carries itself."""
    first, *rest = field.removesuffix("_s").split("_")
    return first + "".join(word.capitalize() for word in rest)


class PolicyModel(ConfigModel):
    """A section of a policy: frozen, unknown keys refused, keys as Kubernetes writes them."""

    model_config = pydantic.ConfigDict(alias_generator=_key)


class Seconds(float):
    """A duration in seconds that was written with its unit, or is a default."""


def parse_duration(value: object) -> Seconds:
    """Return ``500ms``, ``30s``, ``5m`` or ``1h`` in seconds."""
    if isinstance(value, Seconds):
        return value
    match = re.match(r"^(\d+(?:\.\d+)?)(ms|s|m|h)$", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is not a duration; write a number with its unit: 500ms, 30s, 5m or 1h")
    return Seconds(float(match.group(1)) * _UNITS_S[match.group(2)])


def format_duration(seconds: float) -> str:
    """Return ``seconds`` in the largest unit that leaves no fraction."""
    for unit in ("h", "m", "s"):
        if seconds and seconds % _UNITS_S[unit] == 0:
            return f"{seconds / _UNITS_S[unit]:.0f}{unit}"
    return f"{round(seconds * 1e3, 6):.6f}".rstrip("0").rstrip(".") + "ms" if seconds else "0s"


_DurationInput = Annotated[str, pydantic.Field(pattern=_DURATION_PATTERN, examples=["500ms", "30s", "5m"])]
Duration = Annotated[
    float,
    pydantic.BeforeValidator(parse_duration, json_schema_input_type=_DurationInput),
    pydantic.Field(ge=0, le=7 * 86400),
    pydantic.PlainSerializer(format_duration, return_type=str),
]
"""Seconds; in the file a number with its unit."""


def _ratio_text(value: object) -> object:
    if not isinstance(value, str) or re.match(_RATIO_PATTERN, value) is None:
        raise ValueError('is not a ratio; write prefill:decode workers as whole numbers, such as "1:3"')
    return value


RatioText = Annotated[
    str,
    pydantic.BeforeValidator(
        _ratio_text, json_schema_input_type=Annotated[str, pydantic.Field(pattern=_RATIO_PATTERN, examples=["1:3"])]
    ),
]
"""Prefill to decode workers, such as ``1:3``."""


def ratio_of(text: str) -> Fraction:
    """Return prefill workers per decode worker of a valid ratio."""
    prefill, decode = text.split(":")
    return Fraction(int(prefill), int(decode))


def complain(path: tuple[str | int, ...], message: str, value: object) -> NoReturn:
    """Raise a validation error of the field at ``path`` (keys as in the file, from the model being validated)."""
    text = message.replace("{", "{{").replace("}", "}}")
    raise pydantic.ValidationError.from_exception_data(
        "policy",
        [InitErrorDetails(type=PydanticCustomError("policy", text), loc=path, input=value)],
    )
