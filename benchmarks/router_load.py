"""Load on a router: long streams, and short probe requests on top. As cheap as it can be: the router is measured.

Frames are kept as bytes with their time of arrival while a window runs, and read only after it. Commands come as JSON
lines on standard input, one answer line each: ``{"window_s": 5, "probes_per_s": 20}``.
"""

import asyncio
import gc
import json
import sys
import time
from typing import Any

from benchmarks.router_http2 import Http2Connection, connect, messages_of
from tandem.inference.v1 import inference_pb2 as pb
from tests.fakes.fake_worker import MODEL, STAMP_CHARS

METHOD = "/tandem.inference.v1.InferenceService/StreamGenerate"
STREAMS_PER_CONNECTION = 64
PROBE_TOKENS = 8
PROMPT = range(4, 36)


class Load:
    """The streams of one load generator."""

    def __init__(self, num_streams: int) -> None:
        self.num_broken = 0
        self.all_started = asyncio.Event()
        self._num_streams = num_streams
        self._num_started = 0
        self._connections: list[Http2Connection] = []
        self._window: list[tuple[int, bytes]] | None = None

    async def start(self, address: str) -> None:
        """Connect and begin all streams."""
        for _ in range(-(-self._num_streams // STREAMS_PER_CONNECTION) + 1):
            self._connections.append(await connect(address, METHOD))
        request = pb.GenerateRequest(model=MODEL, tokens=pb.TokenIds(ids=PROMPT), max_tokens=65_000)
        data = request.SerializeToString()
        for index in range(self._num_streams):
            self._connections[index // STREAMS_PER_CONNECTION].call(data, self._first_frame())

    def _first_frame(self) -> Any:
        seen = False

        def on_frame(now_ns: int, payload: bytes, ended: bool) -> None:
            nonlocal seen
            if self._window is not None:
                self._window.append((now_ns, payload))
            if not seen:
                seen = True
                self._num_started += 1
                if self._num_started == self._num_streams:
                    self.all_started.set()
            if ended:
                self.num_broken += 1

        return on_frame

    async def measure(self, *, window_s: float, probes_per_s: float) -> dict[str, Any]:
        """Watch for ``window_s``; return rates and latencies."""
        gc.collect()
        window: list[tuple[int, bytes]] = []
        begun_ns = time.monotonic_ns()
        cpu_s = time.process_time()
        self._window = window
        probes = await self._probe(window_s, probes_per_s) if probes_per_s else await asyncio.sleep(window_s, [])
        self._window = None
        cpu_s = time.process_time() - cpu_s
        seconds = (time.monotonic_ns() - begun_ns) / 1e9
        added_ms, num_deltas = read_window(window)
        return {
            "tokens_per_s": len(added_ms) / seconds,
            "messages_per_s": num_deltas / seconds,
            "seconds": seconds,
            "added_ms": percentiles(added_ms),
            "first_token_ms": percentiles(probes),
            "num_probes": len(probes),
            "load_cpu_share": cpu_s / seconds,
            "num_broken": self.num_broken,
        }

    async def _probe(self, window_s: float, probes_per_s: float) -> list[float]:
        added_ms: list[float] = []
        async with asyncio.timeout(window_s + 30.0), asyncio.TaskGroup() as group:
            for _ in range(round(window_s * probes_per_s)):
                group.create_task(self._one_probe(added_ms))
                await asyncio.sleep(1.0 / probes_per_s)
        return added_ms

    async def _one_probe(self, added_ms: list[float]) -> None:
        """One short request: from sending to the first token, without the worker's own prefill time."""
        frames: list[tuple[int, bytes]] = []
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_frame(now_ns: int, payload: bytes, ended: bool) -> None:
            frames.append((now_ns, payload))
            if ended:
                done.set_result(None)

        prompt = pb.TokenIds(ids=PROMPT)
        request = pb.GenerateRequest(model=MODEL, tokens=prompt, max_tokens=PROBE_TOKENS).SerializeToString()
        sent_ns = time.monotonic_ns()
        self._connections[-1].call(request, on_frame)
        await done
        first_ns, prefill_ms = None, None
        for now_ns, payload in frames:
            for data in messages_of(payload):
                message = pb.StreamGenerateResponse.FromString(data)
                if message.WhichOneof("event") == "delta" and first_ns is None:
                    first_ns = now_ns
                elif message.WhichOneof("event") == "completed":
                    prefill_ms = message.completed.timing.prefill_ms
        if first_ns is None or prefill_ms is None:
            raise RuntimeError("a probe request did not complete")
        added_ms.append((first_ns - sent_ns) / 1e6 - prefill_ms)

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.close()


def read_window(window: list[tuple[int, bytes]]) -> tuple[list[float], int]:
    """Added milliseconds of every token, from the worker's emission to the arrival here; and the number of messages."""
    added_ms: list[float] = []
    num_deltas = 0
    for arrived_ns, payload in window:
        for data in messages_of(payload):
            message = pb.StreamGenerateResponse.FromString(data)
            if message.WhichOneof("event") != "delta":
                continue
            num_deltas += 1
            text = message.delta.text
            for start in range(0, len(text), STAMP_CHARS):
                added_ms.append(arrived_ns / 1e6 - int(text[start : start + STAMP_CHARS]) / 1e3)
    return added_ms, num_deltas


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p90, p99 and max."""
    if not values:
        return {}
    ordered = sorted(values)
    at = {f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 90, 99)}
    return {**at, "max": ordered[-1]}


async def main(address: str, num_streams: int) -> None:
    """Begin the streams, tell when all run, then answer commands."""
    load = Load(num_streams)
    await load.start(address)
    async with asyncio.timeout(60.0):
        await load.all_started.wait()
    gc.collect()
    gc.freeze()
    gc.disable()
    print(json.dumps({"num_broken": load.num_broken}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await load.measure(**json.loads(line))), flush=True)
    load.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
