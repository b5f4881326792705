"""Load on a router: long streams, and short probe requests on top. As cheap as it can be: the router is measured.

Messages are kept as bytes with their time of arrival while a window runs, and read only after it. Commands come as JSON
lines on standard input, one answer line each: ``{"window_s": 5, "probes_per_s": 20}``.
"""

import asyncio
import gc
import json
import sys
import time
from typing import Any

import grpc.aio

from tandem.inference.v1 import inference_pb2 as pb
from tests.fakes.fake_worker import MODEL, STAMP_CHARS

METHOD = "/tandem.inference.v1.InferenceService/StreamGenerate"
STREAMS_PER_CHANNEL = 64
PROBE_TOKENS = 8


class Load:
    """The streams of one load generator."""

    def __init__(self, address: str, num_streams: int) -> None:
        num_channels = -(-num_streams // STREAMS_PER_CHANNEL) + 1
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(num_channels)]
        self._methods: list[Any] = [
            channel.unary_stream(METHOD, request_serializer=None, response_deserializer=None)
            for channel in self._channels
        ]
        self._num_streams = num_streams
        self._window: list[tuple[int, bytes]] | None = None
        self.num_started = 0
        self.num_broken = 0
        self.all_started = asyncio.Event()

    async def run_streams(self) -> None:
        """Begin all streams; each is read until it ends."""
        request = pb.GenerateRequest(model=MODEL, tokens=pb.TokenIds(ids=range(4, 36)), max_tokens=60_000)
        data = request.SerializeToString()
        async with asyncio.TaskGroup() as group:
            for index in range(self._num_streams):
                group.create_task(self._stream(self._methods[index // STREAMS_PER_CHANNEL], data))

    async def _stream(self, method: Any, data: bytes) -> None:
        now_ns = time.monotonic_ns
        is_first = True
        try:
            async for message in method(data):
                if is_first:
                    is_first = False
                    self.num_started += 1
                    if self.num_started == self._num_streams:
                        self.all_started.set()
                if self._window is not None:
                    self._window.append((now_ns(), message))
        except grpc.aio.AioRpcError as error:
            self.num_broken += 1
            print(error.details(), file=sys.stderr)

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
            "added_ms": percentiles(added_ms),
            "first_token_ms": percentiles(probes),
            "num_probes": len(probes),
            "load_cpu_share": cpu_s / seconds,
            "num_broken": self.num_broken,
        }

    async def _probe(self, window_s: float, probes_per_s: float) -> list[float]:
        added_ms: list[float] = []
        async with asyncio.TaskGroup() as group:
            for _ in range(round(window_s * probes_per_s)):
                group.create_task(self._one_probe(added_ms))
                await asyncio.sleep(1.0 / probes_per_s)
        return added_ms

    async def _one_probe(self, added_ms: list[float]) -> None:
        """One short request: from sending to the worker's first token, without the worker's own prefill time."""
        prompt = pb.TokenIds(ids=range(4, 36))
        request = pb.GenerateRequest(model=MODEL, tokens=prompt, max_tokens=PROBE_TOKENS).SerializeToString()
        sent_ns = time.monotonic_ns()
        prefill_ms = 0.0
        first_ns: int | None = None
        async for data in self._methods[-1](request):
            message = pb.StreamGenerateResponse.FromString(data)
            kind = message.WhichOneof("event")
            if kind == "delta" and first_ns is None:
                first_ns = time.monotonic_ns()
            elif kind == "completed":
                timing = message.completed.timing
                prefill_ms = timing.prefill_ms
        if first_ns is not None:
            added_ms.append((first_ns - sent_ns) / 1e6 - prefill_ms)

    async def close(self) -> None:
        """Close all connections."""
        for channel in self._channels:
            await channel.close(None)


def read_window(window: list[tuple[int, bytes]]) -> tuple[list[float], int]:
    """Added milliseconds of every token, from the worker's emission to the arrival here; and the number of messages."""
    added_ms: list[float] = []
    num_deltas = 0
    for arrived_ns, data in window:
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
    load = Load(address, num_streams)
    streams = asyncio.create_task(load.run_streams())
    async with asyncio.timeout(60.0):
        await load.all_started.wait()
    gc.collect()
    gc.freeze()
    gc.disable()
    print(json.dumps({"num_broken": load.num_broken}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await load.measure(**json.loads(line))), flush=True)
    streams.cancel()
    await asyncio.gather(streams, return_exceptions=True)
    await load.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
