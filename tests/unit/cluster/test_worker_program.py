"""A worker that serves: what ends it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tandem.cluster.programs import worker_program
from tandem.cluster.programs.worker_program import AnnouncingFailed, EngineThreadFailed, WorkerProgram
from tandem.worker_host.assembly import build_engine


class _Host:
    """The part that serving uses."""

    info = "the worker"

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.num_drains = 0

    async def drain(self, timeout_s: float) -> int:
        self.num_drains += 1
        return 0


def _program(monkeypatch: pytest.MonkeyPatch, announcing: Any) -> Any:
    config: Any = SimpleNamespace(tls=None, drain_s=1.0)
    program = WorkerProgram(config, build=build_engine)
    monkeypatch.setattr(program, "_registry", lambda: None)
    monkeypatch.setattr(worker_program, "keep_announced", announcing)
    return program


async def _until_withdrawn(registry: Any, read: Any, stop: asyncio.Event) -> None:
    await stop.wait()


async def _that_fails(registry: Any, read: Any, stop: asyncio.Event) -> None:
    raise ValueError("no such registry")


async def test_a_worker_that_nobody_can_learn_of_drains_and_ends_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = _Host()
    with pytest.raises(AnnouncingFailed, match="no such registry"):
        await asyncio.wait_for(_program(monkeypatch, _that_fails)._serve(host, asyncio.Event()), 5.0)
    assert host.num_drains == 1


async def test_who_is_asked_to_stop_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    host, stop = _Host(), asyncio.Event()
    stop.set()
    await asyncio.wait_for(_program(monkeypatch, _until_withdrawn)._serve(host, stop), 5.0)
    assert host.num_drains == 1


async def test_an_engine_that_failed_ends_it_without_a_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    host = _Host(RuntimeError("out of order"))
    with pytest.raises(EngineThreadFailed, match="out of order"):
        await asyncio.wait_for(_program(monkeypatch, _until_withdrawn)._serve(host, asyncio.Event()), 5.0)
    assert host.num_drains == 0
