"""Runs the command and turns whatever happens into a line for people and an exit status."""

import io
import sys
import traceback
from collections.abc import Callable
from typing import Any

from tandem.cluster.interrupts import EXIT_INTERRUPTED, Interrupted
from tandem.core.environment import read_environment
from tandem.core.errors import TandemError

EXIT_PROBLEM = 1


def run_guarded(app: Callable[..., Any], arguments: list[str]) -> None:
    """Run ``app`` and exit. A traceback is shown only with ``--debug``, which may stand anywhere before ``--``."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    debug = "--debug" in arguments[:end]
    rest = [word for at, word in enumerate(arguments) if at >= end or word != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows "?" and goes on
    try:
        app(args=rest, prog_name="tandem")
    except TandemError as error:
        _fail(str(error), debug=debug)
    except (Interrupted, KeyboardInterrupt):
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has left: nobody is there to tell
        sys.exit(EXIT_PROBLEM)
    except Exception as error:  # noqa: BLE001  # the last resort: a defect must not look like a crash
        words = f"{type(error).__name__}: {error}".rstrip(": ")
        _fail(
            f"this is a defect in Tandem: {words}\n  → run it again with --debug and report what it prints", debug=debug
        )


def _fail(message: str, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    color = sys.stderr.isatty() and not read_environment().no_color
    label = "\x1b[31merror\x1b[0m" if color else "error"
    sys.stderr.write(f"{label}: {message}\n")
    sys.exit(EXIT_PROBLEM)
