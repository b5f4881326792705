"""Base class of every configuration section."""

from pydantic import BaseModel, ConfigDict


class ConfigModel(BaseModel):
    """Frozen, strict about unknown keys, and documented: every field has a default or a constraint and a description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)
