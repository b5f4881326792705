"""How a router's process is set up for its hot path."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any


def run_event_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` to its end, as ``asyncio.run`` does, in a process that is a router and nothing else.

    On asyncio's own loop: uvloop takes about a tenth off a token's cost, but starts subprocesses (the chat renderers)
    through a fork that runs gRPC's and others' handlers in the child, which was seen to crash there.
    """
    settle_garbage_collector()
    asyncio.run(main)


def settle_garbage_collector() -> None:
    """Collect once, then leave what is there alone and look less often.

    What a token allocates is freed by reference counting; a full collection over a million import-time objects only
    stops all streams for tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
