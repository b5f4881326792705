"""A real router over fake workers, in this process: real gRPC on loopback, a tiny tokenizer, no model."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from tandem.core.clock import MonotonicClock
from tandem.core.types import Role
from tandem.inference.v1 import inference_pb2 as pb
from tandem.prefix_cache.config import PrefixCacheProgram
from tandem.router.config import RouterConfig
from tandem.router.directory import MemoryDirectory
from tandem.router.served_model import ServedModel
from tandem.router.server import Router
from tests.fakes.fake_worker import DIGEST, MODEL, FakeWorker
from tests.fakes.tiny_tokenizer import save_tiny_tokenizer

EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]
SERVICE = "/tandem.inference.v1.InferenceService/"


def save_model(folder: Path, *, max_context_tokens: int = 4096) -> None:
    """Write the text side of a prepared model folder that the fake workers claim to serve."""
    save_tiny_tokenizer(folder)
    config = {"vocab_size": 320, "max_position_embeddings": max_context_tokens}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tandem.json").write_text(json.dumps({"digest": DIGEST, "source": "test"}), encoding="utf-8")


@dataclass
class Cluster:
    """What a test works with."""

    router: Router
    workers: dict[str, FakeWorker]
    directory: MemoryDirectory
    channel: grpc.aio.Channel

    def stream(
        self, request: pb.GenerateRequest, *, timeout_s: float | None = 20.0
    ) -> "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.StreamGenerateResponse]":
        """Begin a streaming call."""
        method = self.channel.unary_stream(
            SERVICE + "StreamGenerate",
            request_serializer=pb.GenerateRequest.SerializeToString,
            response_deserializer=pb.StreamGenerateResponse.FromString,
        )
        return method(request, timeout=timeout_s)

    async def generate(self, request: pb.GenerateRequest, *, timeout_s: float | None = 20.0) -> pb.GenerateResponse:
        """Make a unary call."""
        method = self.channel.unary_unary(
            SERVICE + "Generate",
            request_serializer=pb.GenerateRequest.SerializeToString,
            response_deserializer=pb.GenerateResponse.FromString,
        )
        answer: pb.GenerateResponse = await method(request, timeout=timeout_s)
        return answer

    async def register(self, worker: FakeWorker, *, ttl_s: float = 60.0) -> None:
        """Start a worker and put it into the directory."""
        self.workers[worker.name] = worker
        self.directory.register(await worker.start(), ttl_s=ttl_s)

    def raw(self, method: str) -> Any:
        """A unary call of the inference service in bytes."""
        return self.channel.unary_unary(SERVICE + method, request_serializer=None, response_deserializer=None)

    def assert_nothing_left(self) -> None:
        """No request, no charge, no open span."""
        dispatcher = self.router.dispatcher
        assert dispatcher.num_live == 0
        assert len(dispatcher.queue) == 0
        assert [len(record.in_flight) for record in dispatcher.fleet.records()] == [0] * len(dispatcher.fleet)
        assert len(dispatcher.reserving) == 0


@asynccontextmanager
async def cluster(
    folder: Path,
    workers: Sequence[FakeWorker],
    config: RouterConfig | None = None,
    *,
    cache: PrefixCacheProgram | None = None,
) -> AsyncIterator[Cluster]:
    """Run a router with ``workers`` until the block ends; wait until all of them are attached."""
    save_model(folder)
    directory = MemoryDirectory(MonotonicClock(), sweep_every_s=0.05)
    model = ServedModel.load(folder, name=MODEL)
    router = Router(config or RouterConfig(port=0), model, directory, cache=cache)
    await router.start()
    async with grpc.aio.insecure_channel(router.address) as channel:
        found = Cluster(router=router, workers={}, directory=directory, channel=channel)
        try:
            for worker in workers:
                await found.register(worker)
            num = {role: sum(worker.role is role for worker in workers) for role in Role}
            fleet = router.dispatcher.fleet
            await until(lambda: all(fleet.num_alive(role) == num[role] for role in Role))
            yield found
        finally:
            await router.stop(grace_s=0.0)
            for worker in found.workers.values():
                await worker.stop()


async def until(holds: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    """Wait until ``holds()``; fail the test after ``timeout_s``."""
    end_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end_s, "waited too long"
        await asyncio.sleep(0.005)
