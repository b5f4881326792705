"""A scripted inference server: real gRPC on a free loopback port, in a thread of its own, without a model.

Each request is answered with the words of its prompt, one per delta. ``failures`` are raised first, one per call; the
counters say what the server saw.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tandem.core.cache import (
    CacheStatus,
    Flushed,
    IndexStatus,
    TenantBlocks,
    TenantUsage,
    TierStats,
    WatchedCache,
    WorkerCacheStats,
)
from tandem.core.cluster import ClusterStatus, WorkerStatus
from tandem.core.errors import NotFound
from tandem.core.ids import Tenant, WorkerId
from tandem.core.inference import (
    ChatPrompt,
    DetokenizeRequest,
    GeneratedSequence,
    GenerateRequest,
    Generation,
    KeepAlive,
    ModelCard,
    OutputDelta,
    Prompt,
    SequenceFinished,
    ServedBy,
    StreamCompleted,
    StreamEvent,
    StreamStarted,
    TextPrompt,
    TokenizeRequest,
    TokenPrompt,
)
from tandem.core.kv_events import Tier
from tandem.core.types import FinishReason, PhaseTimings, Role, Usage
from tandem.rpc.access import AccessControl
from tandem.rpc.channels import ServerLimits
from tandem.rpc.context import CallContext
from tandem.rpc.server import RpcServer
from tandem.rpc.services.admin import cluster_service
from tandem.rpc.services.cache import cache_admin_service
from tandem.rpc.services.inference import inference_service, model_service
from tandem.rpc.tls import TlsMaterial

CARD = ModelCard(
    name="words", digest="d0", max_context_tokens=64, vocab_size=1000, has_chat_template=True, eos_token_ids=(0,)
)
WORKERS = ServedBy(prefill_worker=WorkerId("prefill-0"), decode_worker=WorkerId("decode-0"))
TIMINGS = PhaseTimings(queue_ms=1.0, prefill_ms=2.0, ttft_ms=3.0, total_ms=4.0)


def words_of(prompt: Prompt) -> list[str]:
    """Return the words that the fake answers with."""
    match prompt:
        case TextPrompt(text=text):
            return text.split()
        case TokenPrompt(token_ids=token_ids):
            return [str(token_id) for token_id in token_ids]
        case ChatPrompt(messages=messages):
            return [word for turn in messages for word in (turn.role, *turn.content.split())]


@dataclass
class FakeInference:
    """The handler. ``delay_s`` passes before each delta; ``fail_after`` deltas the next failure is raised."""

    failures: list[Exception] = field(default_factory=list)
    delay_s: float = 0.0
    fail_after: int = 0
    calls: list[CallContext] = field(default_factory=list)
    requests: list[GenerateRequest] = field(default_factory=list)
    num_closed: int = 0
    flushed: list[Tenant | None] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)

    async def generate(self, request: GenerateRequest, call: CallContext) -> Generation:
        """Answer with the words of the prompt."""
        events = [event async for event in self.stream_generate(request, call)]
        completed = events[-1]
        if not isinstance(completed, StreamCompleted):
            raise AssertionError("the script must complete")
        words = words_of(request.prompt)
        return Generation(
            request_id=call.request_id,
            sequences=tuple(
                GeneratedSequence(
                    index=index,
                    text=" ".join(words),
                    token_ids=tuple(range(len(words))),
                    finish_reason=FinishReason.STOP,
                    matched_stop="!",
                )
                for index in range(request.num_sequences)
            ),
            usage=completed.usage,
            timings=completed.timings,
            workers=completed.workers,
        )

    async def stream_generate(self, request: GenerateRequest, call: CallContext) -> AsyncIterator[StreamEvent]:
        """Yield one delta per word and sequence."""
        self.calls.append(call)
        self.requests.append(request)
        self.begun.set()
        try:
            if self.fail_after == 0:
                self._fail()
            words = words_of(request.prompt)
            yield StreamStarted(request_id=call.request_id, prompt_tokens=len(words), cached_tokens=0)
            for position, word in enumerate(words):
                await asyncio.sleep(self.delay_s)
                if position == self.fail_after:
                    self._fail()
                yield KeepAlive()
                text = word if position == 0 else f" {word}"
                for index in range(request.num_sequences):
                    yield OutputDelta(index=index, position=position, text=text, token_ids=(position,))
            for index in range(request.num_sequences):
                yield SequenceFinished(index=index, finish_reason=FinishReason.STOP, matched_stop="!")
            usage = Usage(prompt_tokens=len(words), cached_tokens=0, output_tokens=len(words) * request.num_sequences)
            yield StreamCompleted(usage=usage, timings=TIMINGS, workers=WORKERS)
        finally:
            self.num_closed += 1
            self.closed.set()

    async def tokenize(self, request: TokenizeRequest, call: CallContext) -> Sequence[int]:
        """Number the words."""
        return list(range(len(words_of(request.prompt))))

    async def detokenize(self, request: DetokenizeRequest, call: CallContext) -> str:
        """Spell the ids."""
        return " ".join(str(token_id) for token_id in request.token_ids)

    async def flush_prefix_cache(self, call: CallContext) -> Flushed:
        """Claim to forget; note whose it was."""
        self.flushed.append(call.tenant)
        return Flushed(num_blocks=7, num_workers=2, num_missed=1)

    async def list_models(self, call: CallContext) -> Sequence[ModelCard]:
        """Return the one model."""
        return [CARD]

    async def get_model(self, name: str, call: CallContext) -> ModelCard:
        """Return the one model."""
        if name != CARD.name:
            raise NotFound(f"no model {name!r}")
        return CARD

    def _fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)


class FakeCluster:
    """An empty cluster."""

    async def get_status(self, call: CallContext) -> ClusterStatus:
        """Return that nothing is here."""
        return ClusterStatus(model="words", ready=True, router_id="router-0", uptime_s=1.5, num_ended={"ok": 3})

    async def list_workers(self, call: CallContext) -> Sequence[WorkerStatus]:
        """Return nobody."""
        return []

    async def drain_worker(self, worker_id: WorkerId, timeout_s: float, call: CallContext) -> int:
        """Know nobody."""
        raise NotFound(f"no worker {worker_id!r}")


class FakeCache:
    """A prefix cache of one worker."""

    def __init__(self, flushed: list[Tenant | None]) -> None:
        self._flushed = flushed

    async def get_cache_status(self, call: CallContext) -> CacheStatus:
        """Return fixed numbers."""
        device = TierStats(tier=Tier.DEVICE, num_blocks=8, num_hit_tokens=600)
        stats = WorkerCacheStats(
            num_blocks=8,
            num_idle=6,
            num_kept=2,
            num_prompts=10,
            num_asked_tokens=1000,
            num_cached_tokens=600,
            num_evicted=3,
            tiers=(device,),
            tenants=(TenantBlocks(tenant=Tenant("acme"), num_blocks=8),),
        )
        watched = WatchedCache(
            worker_id=WorkerId("prefill-0"), role=Role.PREFILL, watching=True, stale_s=0.5, num_gaps=4, stats=stats
        )
        silent = WatchedCache(worker_id=WorkerId("decode-0"), role=Role.DECODE, watching=False)
        usage = TenantUsage(tenant=Tenant("acme"), num_requests=10, cached_tokens=600, uncached_tokens=400)
        return CacheStatus(
            enabled=True,
            index=IndexStatus(num_blocks=8, max_blocks=1000, num_expected=1),
            workers=(silent, watched),
            tenants=(usage,),
        )

    async def flush_prefix_cache(self, tenant: Tenant | None, call: CallContext) -> Flushed:
        """Claim to forget; note whose it was."""
        self._flushed.append(tenant)
        return Flushed(num_blocks=8, num_workers=2)


@dataclass(kw_only=True)
class RunningServer:
    """A fake that serves; ``serve`` lets health checks pass."""

    address: str
    handler: FakeInference
    _loop: asyncio.AbstractEventLoop
    _server: RpcServer

    def serve(self) -> None:
        """Let health checks pass."""
        asyncio.run_coroutine_threadsafe(self._server.mark_serving(""), self._loop).result(5)


@contextmanager
def fake_inference_server(
    handler: FakeInference | None = None,
    *,
    access: AccessControl | None = None,
    tls: TlsMaterial | None = None,
    address: str = "127.0.0.1:0",
    limits: ServerLimits | None = None,
) -> Iterator[RunningServer]:
    """Run a fake server until the block ends."""
    handler = handler or FakeInference()
    started: list[RunningServer] = []
    failed: list[BaseException] = []
    ready = threading.Event()
    stop: list[asyncio.Event] = []

    async def run() -> None:
        server = RpcServer(
            address=address,
            access=access,
            load_tls=None if tls is None else (lambda: tls),
            limits=limits,
            with_reflection=True,
        )
        server.add(inference_service(handler))
        server.add(model_service(handler))
        server.add(cluster_service(FakeCluster()))
        server.add(cache_admin_service(FakeCache(handler.flushed)))
        bound = await server.start()
        stop.append(asyncio.Event())
        loop = asyncio.get_running_loop()
        started.append(RunningServer(address=bound, handler=handler, _loop=loop, _server=server))
        ready.set()
        await stop[0].wait()
        await server.stop(grace_s=0)

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            failed.append(error)
            ready.set()

    thread = threading.Thread(target=main, name="fake-inference-server", daemon=True)
    thread.start()
    ready.wait(10)
    if failed:
        raise failed[0]
    try:
        yield started[0]
    finally:
        started[0]._loop.call_soon_threadsafe(stop[0].set)
        thread.join(10)
