"""A configuration value that must not be seen: a repr shows stars, only the JSON for a child process has it."""

from typing import Annotated

from pydantic import PlainSerializer, SecretStr


def _reveal(value: SecretStr) -> str:
    return value.get_secret_value()


HiddenText = Annotated[SecretStr, PlainSerializer(_reveal, return_type=str, when_used="json")]
"""Text that only ``model_dump_json`` reveals: it is for the one line that a parent writes to a child's stdin."""
