"""Log lines: one per event, for people or machines, and never what a frame held."""

import json
from collections.abc import Callable, Iterator

import pytest
import structlog

from tandem.core.log import configure_logging

Written = Callable[[], str]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """Return what has been logged since the last look; undo the set-up at the end."""
    yield lambda: capsys.readouterr().err
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def _answer(prompt: str) -> None:
    held = prompt.upper()
    raise ValueError(f"no answer of {len(held)} characters")


def _fail() -> None:
    try:
        _answer("a secret prompt")
    except ValueError:
        structlog.get_logger().exception("failed", num_blocks=1)


def test_a_console_line_is_plain_text(written: Written) -> None:
    configure_logging(style="console", worker="prefill-1")
    structlog.get_logger().info("ready", num_blocks=3)
    (line,) = written().splitlines()
    assert "\x1b" not in line  # no colour codes: the file may be read anywhere
    for word in ("info", "ready", "num_blocks=3", "worker=prefill-1"):
        assert word in line


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_traceback_shows_the_way_but_not_the_variables(written: Written, style: str) -> None:
    configure_logging(style="json" if style == "json" else "console")
    _fail()
    text = written()
    assert "no answer of 15 characters" in text
    assert "_answer" in text
    assert "SECRET PROMPT" not in text  # a value of a frame
    assert len(text.splitlines()) == 1 or style == "console"


def test_a_json_line_can_be_read_by_machines_whatever_it_says(written: Written) -> None:
    configure_logging(style="json")
    structlog.get_logger().warning("odd", text='a "quote"\nand a line end', number=1.5)
    (line,) = written().splitlines()
    fields = json.loads(line)
    assert (fields["event"], fields["level"], fields["text"]) == ("odd", "warning", 'a "quote"\nand a line end')
    assert fields["timestamp"].endswith("Z")


@pytest.mark.parametrize(("level", "expected"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_lines_below_the_level_are_not_written(written: Written, level: str, expected: int) -> None:
    configure_logging(level=level, style="json")
    log = structlog.get_logger()
    for write in (log.debug, log.info, log.warning, log.error):
        write("said")
    assert len(written().splitlines()) == expected


def test_without_a_worker_no_line_names_one(written: Written) -> None:
    configure_logging(style="json")
    structlog.get_logger().info("said")
    assert "worker" not in json.loads(written())
