"""A worker whose start is stuck ends at SIGTERM, and when its parent is gone; one that serves drains."""

import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Final

import pytest

_DRAINED: Final = 7
_STUCK: Final = """
import asyncio, sys, threading
from types import SimpleNamespace
from {module} import serve
import {module} as process

class Program:
    def __init__(self, *args, **kwargs): pass
    @classmethod
    def of(cls, config): return None
    async def run(self, stop, *, on_status, on_ready):
        if {is_ready}:
            on_ready(SimpleNamespace(address="a", info=SimpleNamespace(epoch=1)))
        else:
            on_status("loading the model")
            await asyncio.to_thread(threading.Event().wait, 60)
        await stop.wait()
        sys.exit({drained})

process.WorkerProgram = Program
process.read_shape = process.read_prepared_model = lambda _: None
process.TaggedBuilder = Program
race = SimpleNamespace(is_on=False)
asyncio.run(serve(SimpleNamespace(drain_s=1.0, model_folder="", race=race, evidence_folder=None)))
"""


def _by_sigterm(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGTERM)


def _by_lifeline(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    child.stdin.close()


@pytest.mark.parametrize("module", ["tandem.cluster.programs.worker_process", "tandem.chaos.tagged.worker_process"])
@pytest.mark.parametrize(
    ("is_ready", "end", "code"),
    [
        (False, _by_sigterm, -signal.SIGTERM),
        (True, _by_sigterm, _DRAINED),
        (False, _by_lifeline, 1),
        (True, _by_lifeline, _DRAINED),
    ],
)
def test_a_start_ends_at_once_and_what_serves_is_drained(
    module: str, is_ready: bool, end: Callable[["subprocess.Popen[bytes]"], None], code: int
) -> None:
    script = _STUCK.format(module=module, is_ready=is_ready, drained=_DRAINED)
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline()
            end(child)
            assert child.wait(timeout=30) == code
        finally:
            child.kill()
