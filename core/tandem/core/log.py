"""Structured logging: one line per event, to stderr, plain or JSON. Prompts and outputs are never logged.

Logging never fails: lines that can't be written are dropped (see ``log_file``).
"""

import logging
import sys
from typing import Literal, TextIO, cast

import structlog

from tandem.core.log_file import DroppingLogFile


def configure_logging(*, level: str = "info", style: Literal["console", "json"] = "console", worker: str = "") -> None:
    """Set up structlog for this process. ``worker`` is bound to every line."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        # The default would print the local variables of every frame: prompts among them.
        else structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, DroppingLogFile(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    if worker:
        structlog.contextvars.bind_contextvars(worker=worker)
