"""Configuration of the decision log."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from tandem.core.config.model import ConfigModel


class DecisionsSection(ConfigModel):
    """What is remembered of why things were decided."""

    max_records: Annotated[int, Field(ge=0, le=1_000_000)] = 16384
    """Most decisions kept in memory, about 1 KiB each; a request makes three or more. 0 = keep no log."""
    max_age_s: Annotated[float, Field(gt=0.0, le=7 * 86400.0)] = 3600.0
    """Older ones are forgotten even if there is room."""
    folder: Path | None = None
    """Folder for files of decisions, one JSON object a line; not set = they are kept in memory only."""
    max_file_bytes: Annotated[int, Field(ge=64 * 1024, le=1 << 34)] = 64 * 1024 * 1024
    """A file that has grown to this is put aside and a new one begun."""
    max_files: Annotated[int, Field(ge=1, le=1000)] = 4
    """Files that are kept, the one being written included."""
    tenant_key_file: Path | None = None
    """File with a secret that tenants' names are hashed with, equal on all routers; not set = a new one each start."""
