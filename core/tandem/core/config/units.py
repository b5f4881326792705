"""Sizes as people write them: ``512MiB``, ``1.5GiB``, ``2GB``, or plain bytes."""

import re
from typing import Annotated

import pydantic

_UNITS = {
    "": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip
_PATTERN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$")


def parse_bytes(value: object) -> object:
    """Return the number of bytes that ``value`` means; leave what is no size to the type check."""
    if not isinstance(value, str):
        return value
    match = _PATTERN.match(value)
    unit = match.group(2).upper() if match else ""
    if match is None or unit not in _UNITS:
        raise ValueError("is not a size; write it like 512MiB or 2GB")
    return int(float(match.group(1)) * _UNITS[unit])


Bytes = Annotated[
    int,
    pydantic.BeforeValidator(parse_bytes, json_schema_input_type=int | str),
    pydantic.Field(ge=1),
]
