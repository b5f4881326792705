"""Progress lines, plain and on a terminal."""

import io

import pytest

from tandem.cluster.progress import LineProgress, SilentProgress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Claim it."""
        return True


def test_plain_output_is_one_line_per_phase() -> None:
    out = io.StringIO()
    progress = LineProgress(out, color=False)
    router, workers = progress.begin("router"), progress.begin("workers")
    workers.update("prefill-0: loading")
    router.done("listens on 127.0.0.1:1")
    workers.done()
    first, second = out.getvalue().splitlines()
    assert first.split(maxsplit=2)[2] == "✓ router listens on 127.0.0.1:1 (0.0 s)"
    assert second.endswith("✓ workers (0.0 s)")
    assert "\x1b" not in out.getvalue()
    assert "\r" not in out.getvalue()


def test_a_long_phase_says_now_and_then_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    out = io.StringIO()
    phase = LineProgress(out, color=False).begin("model")
    for second in range(12):
        now[0] = 100.0 + second
        phase.update(f"step {second}")
    lines = out.getvalue().splitlines()
    assert [line.split(": ")[1] for line in lines] == ["step 5", "step 10"]


def test_a_terminal_is_redrawn_in_place() -> None:
    out = Terminal()
    progress = LineProgress(out, color=True)
    phase = progress.begin("router")
    assert out.getvalue().endswith("router …")
    assert "\n" not in out.getvalue()
    progress.warn("careful")
    phase.done()
    progress.stop()
    assert out.getvalue().count("\n") == 2
    assert "\x1b[33mwarning\x1b[0m: careful" in out.getvalue()
    assert "\x1b[32m✓\x1b[0m router" in out.getvalue()


def test_open_phases_share_the_live_line() -> None:
    out = Terminal()
    progress = LineProgress(out, color=False)
    progress.begin("router")
    progress.begin("workers")
    assert out.getvalue().endswith("router …; workers …")


def test_the_live_line_fits_a_terminal() -> None:
    out = Terminal()
    phase = LineProgress(out, color=False).begin("workers")
    phase._progress._drawn_s = 0.0  # type: ignore[attr-defined]
    phase.update("x" * 500)
    assert max(len(part) for part in out.getvalue().split("\x1b[2K")) <= 110


def test_stop_leaves_no_live_line() -> None:
    out = Terminal()
    progress = LineProgress(out, color=False)
    progress.begin("router")
    progress.stop()
    assert out.getvalue().endswith("\x1b[2K")
    progress.stop()


def test_silence() -> None:
    progress = SilentProgress()
    phase = progress.begin("x")
    phase.update("y")
    phase.done("z")
    progress.tell("v")
    progress.warn("w")
    progress.stop()


def test_what_goes_as_it_should_is_no_warning() -> None:
    out = io.StringIO()
    progress = LineProgress(out, color=False)
    progress.tell("draining")
    progress.warn("slow")
    told, warned = out.getvalue().splitlines()
    assert told.endswith("  draining")
    assert "warning: slow" in warned
    assert "warning" not in told
