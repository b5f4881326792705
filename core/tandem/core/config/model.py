"""Base class of every configuration section."""

from pydantic import BaseModel, ConfigDict


class ConfigModel(BaseModel):
    """Frozen, strict about unknown keys; every field has a constraint or a default, and a description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)
