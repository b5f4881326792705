"""The JSON Schema of a policy file, as editors and other validators read it."""

import json
import warnings
from typing import Any

import pydantic
from pydantic.json_schema import GenerateJsonSchema, PydanticJsonSchemaWarning

from tandem.controller.policy.base import Seconds, format_duration
from tandem.controller.policy.model import AutoscalingPolicy

SCHEMA_FILE = "policy.schema.json"
_PYTHON_ONLY = {"ge", "gt", "le", "lt"}  # pydantic leaves bounds of the parsed value on what is text in the file


class _FileSchema(GenerateJsonSchema):
    """Shows defaults as they are written in the file."""

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, pydantic.BaseModel):
            return dft.model_dump(mode="json", by_alias=True)
        return format_duration(dft) if isinstance(dft, Seconds) else super().encode_default(dft)


def render_policy_schema() -> str:
    """Return the schema as JSON text, ready for an editor's `$schema` line."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", PydanticJsonSchemaWarning)
        schema = AutoscalingPolicy.model_json_schema(by_alias=True, mode="validation", schema_generator=_FileSchema)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Tandem policy.yaml"}
    return json.dumps({**_cleaned(schema), **head}, indent=2, sort_keys=True) + "\n"


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cleaned(item) for key, item in value.items() if key not in _PYTHON_ONLY}
    return [_cleaned(item) for item in value] if isinstance(value, list) else value
