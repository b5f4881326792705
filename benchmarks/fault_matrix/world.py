"""A chaos cluster with every tool attached: failpoints in all processes, a proxy on every link."""

import random
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.fault_matrix.cell import Cell
from tandem.chaos.cluster import ChaosCluster, ChaosOptions, RequestRecord, WorkerChaos, random_specs
from tandem.chaos.faults.failpoint_faults import FailpointDesk
from tandem.chaos.faults.frame_faults import RecordFrames
from tandem.chaos.faults.namespaces import NetworkHost, NetworkLab
from tandem.chaos.faults.proxy import ProxyThread, TcpProxy
from tandem.chaos.tagged.model import TaggedShape
from tandem.chaos.tagged.race import RaceSettings
from tandem.chaos.tagged.settings import TaggedCost
from tandem.client import AsyncClient
from tandem.core.description import WorkerDescription
from tandem.rpc.channels import open_channel
from tandem.rpc.stubs.worker import WorkerStub

_FIRST_PORT: Final = 20_000
_LAST_PORT: Final = 31_999  # below what the kernel gives to clients: a worker that restarts gets its port back
_CALL_S: Final = 5.0
_NUM_CONNECTIONS: Final = 1
_UNREAD_BYTES: Final = (
    64 * 1024
)  # with the window that grows by itself a caller would have megabytes before it has to read
_RECORDED_FRAMES: Final = 64
_NAMESPACED: Final = "tandem.chaos.faults.namespaced_worker"
COST: Final = TaggedCost(prefill_token_s=0.001, step_s=0.015)
DRAIN_S: Final = 1.0  # so long a worker that is told to leave waits for its streams; then it hands them over
SHORT_TIMERS: Final = {"suspect_after_s": 3.0, "dead_after_s": 5.0, "keep_alive_s": 2.0, "gap_timeout_s": 4.0}
"""Detection in half the time: the rows' claims do not depend on it, and the matrix waits less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A kind of cluster that cells ask for by name."""

    name: str
    num_prefill: int = 2
    num_decode: int = 2
    engine: Mapping[str, Any] = field(default_factory=dict)
    router: Mapping[str, Any] = field(default_factory=dict)
    worker_engine: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by worker id
    worker_layout: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # what it says of its KV, by worker id
    cost: TaggedCost = COST
    warm_up: bool = True
    prefix_cache: bool = True
    cache: Mapping[str, Any] = field(default_factory=dict)  # further fields of the section `prefix_cache`
    race: RaceSettings = field(default_factory=RaceSettings)  # its workers go without a guard: the harness must notice
    network: bool = False  # each worker is a host of its own; then there are no failpoints and no proxies


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    sections = {name: dict(value) if isinstance(value, Mapping) else value for name, value in base.items()}
    for name, value in over.items():
        sections[name] = {**sections.get(name, {}), **value} if isinstance(value, Mapping) else value
    return sections


_ENGINE: Final = {"num_blocks": 128, "block_size": 16, "max_batched_tokens": 32, "max_sequences": 16}
_ROUTER: Final = {
    # Of equals the first: it is the one that a fault before the request hits.
    "placement": {"mode": "split", "tie_share": None},
    "timers": SHORT_TIMERS,
    "queue": {"no_worker_wait_s": 60.0},
}

SHAPES: Final = {
    shape.name: shape
    for shape in (
        Shape(name="pairs"),
        Shape(
            name="default-timers",
            num_prefill=1,
            router={"timers": {"suspect_after_s": 6.0, "dead_after_s": 10.0, "gap_timeout_s": 5.0}},
        ),
        # Requests go to every worker and over every pair, also to one that has looked slow for a while.
        Shape(name="even-pairs", router={"placement": {"tie_share": 1.0}}),
        Shape(name="new-pairs"),  # for what is learnt of workers that nothing was learnt of yet
        Shape(name="small-pool", num_prefill=1, num_decode=1, engine={"num_blocks": 24}),
        # Freed blocks are somebody else's at once; a cache would keep them for a while.
        Shape(name="churn", num_prefill=1, num_decode=1, engine={"num_blocks": 24}, prefix_cache=False),
        Shape(name="mixed", num_prefill=1, worker_engine={"decode-1": {"block_size": 32, "num_blocks": 64}}),
        Shape(
            name="versions",
            num_prefill=1,
            num_decode=4,
            worker_layout={
                "decode-1": {"dtype": "float16"},
                "decode-2": {"protocol_version": 1},
                "decode-3": {"rope_digest": "another"},
            },
        ),
        # Its twelve probes go to both decode workers, also when earlier hand-overs to the struck one were slow.
        Shape(name="network", num_prefill=1, network=True, router={"placement": {"tie_share": 1.0}}),
        Shape(name="two-slots", num_prefill=1, num_decode=1, engine={"max_sequences": 2}),
        Shape(
            name="slow-callers",
            num_prefill=1,
            num_decode=1,
            engine={"num_blocks": 2048, "max_sequences": 32},
            router={"stream": {"max_buffered_tokens": 16}},
        ),
        Shape(
            name="unequal",
            num_prefill=1,
            num_decode=1,
            worker_engine={"decode-0": {"block_size": 32, "num_blocks": 64}},
            warm_up=False,
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """When a cell ran, in CLOCK_MONOTONIC as in the event logs."""

    cell: Cell
    began_s: float
    ended_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """One worker's: where it listens, and the proxies in front."""

    grpc: int
    kv: int


def steady_ports(count: int, *, dice: random.Random) -> list[int]:
    """Return ports that are free now and that no outgoing connection will take."""
    found: list[int] = []
    while len(found) < count:
        port = dice.randint(_FIRST_PORT, _LAST_PORT)
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


class World:
    """Use as an async context manager: everything is started, and everything ended."""

    def __init__(self, shape: Shape, folder: Path) -> None:
        self.shape = shape
        self.records: list[RequestRecord] = []  # of every request that was ever sent
        self.spans: list[Span] = []  # of the cells that ran here
        self.killed_pids: set[int] = set()  # by faults; whoever else ends without closing its log did so unasked
        self._folder = folder
        self._stack = AsyncExitStack()
        self.attach: dict[str, TcpProxy] = {}
        self.kv: dict[str, TcpProxy] = {}
        self.ports: dict[str, Ports] = {}
        self.recorded: dict[str, RecordFrames] = {}  # how the KV links of each worker began
        self.hosts: dict[str, NetworkHost] = {}
        self.lab = NetworkLab()  # made, not built: only a network shape enters it
        self.desk = FailpointDesk(folder / "failpoints")

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        shape = self.shape
        self.thread = self._stack.enter_context(ProxyThread())
        names = [f"prefill-{i}" for i in range(shape.num_prefill)] + [f"decode-{i}" for i in range(shape.num_decode)]
        if shape.network:
            self.lab = self._stack.enter_context(NetworkLab())
            self.hosts = {name: self.lab.add_host() for name in names}
        free = iter(steady_ports(2 * len(names), dice=random.Random()))
        for name in names:
            self.ports[name] = ports = Ports(grpc=next(free), kv=next(free))
            if shape.network:
                continue
            self.attach[name] = self._proxy(f"127.0.0.1:{ports.grpc}")
            self.kv[name] = self._proxy(f"127.0.0.1:{ports.kv}", as_frames=True)
            self.recorded[name] = RecordFrames(most=_RECORDED_FRAMES)
            self.kv[name].add(self.recorded[name])
        options = ChaosOptions(
            num_prefill=shape.num_prefill,
            num_decode=shape.num_decode,
            cost=shape.cost,
            cluster={"prefix_cache": {"enabled": shape.prefix_cache, **shape.cache}},
            engine=_merged(_ENGINE, shape.engine),
            router=_merged(_ROUTER, self._network_router() if shape.network else shape.router),
            workers={name: self._worker(name) for name in names},
            router_variables={} if shape.network else self.desk.variables(),
            insecure=shape.network,
            worker_module=_NAMESPACED if shape.network else ChaosOptions().worker_module,
            transports=("tcp",),
            folder=self._folder,
            warm_up=False,
            shape=TaggedShape(num_layers=4, num_kv_heads=2, head_dim=32),
        )
        self.cluster = await self._stack.enter_async_context(ChaosCluster(options))
        self.public = self._proxy(self.cluster.public_address)
        self._client = self._new_client()
        self._stack.push_async_callback(self._close_client)
        if shape.warm_up:
            await self._warm_up()
        else:
            for client in (self._client, self.cluster.client()):
                await client.models()  # the connections alone
            await self.cluster.take_baseline()

    async def _warm_up(self) -> None:
        """Open every lasting connection, then count what leak checks compare with."""
        for client in (self._client, self.cluster.client()):
            await client.generate(token_ids=[5] * 20, max_tokens=2)
        count = 6 * len(self.ports)
        self.records += await self.cluster.run_requests(random_specs(count, seed=0, max_output_tokens=4, max_n=1))
        await self.cluster.take_baseline()

    async def _close_client(self) -> None:
        await self._client.close()

    def _proxy(self, target: str, *, as_frames: bool = False) -> TcpProxy:
        proxy = TcpProxy(self.thread, target=target, as_frames=as_frames)
        self._stack.callback(proxy.close)
        return proxy

    def _network_router(self) -> dict[str, Any]:
        return {**self.shape.router, "internal_host": self.lab.address, "insecure": True}

    def _worker(self, name: str) -> WorkerChaos:
        if self.shape.network:
            return WorkerChaos(program={"host": self.hosts[name].address, "insecure": True})
        return WorkerChaos(
            variables=self.desk.variables(),
            program={"drain_s": DRAIN_S, "race": self.shape.race, "layout": self.shape.worker_layout.get(name, {})},
            engine=self.shape.worker_engine.get(name, {}),
            port=self.ports[name].grpc,
            advertise_address=self.attach[name].address,
            kv_port=self.ports[name].kv,
            kv_advertise_address=self.kv[name].address,
        )

    # --- what cells ask for ------------------------------------------------------------------------------------------

    @property
    def client(self) -> AsyncClient:
        """A caller behind the public proxy."""
        return self._client

    def _new_client(self) -> AsyncClient:
        return AsyncClient(
            self.public.address, retries=0, num_connections=_NUM_CONNECTIONS, max_unread_bytes=_UNREAD_BYTES
        )

    async def fresh_client(self) -> AsyncClient:
        """Replace the caller: its connections are of no use any more."""
        await self._client.close()
        self._client = self._new_client()
        return self._client

    def names(self, role: str) -> list[str]:
        """Workers of a role."""
        return [name for name in self.ports if name.startswith(role)]

    async def describe(self, name: str) -> WorkerDescription:
        """Ask a worker itself, past its proxy. Raises TandemError when it does not answer."""
        if self.shape.network:
            return await self.cluster.describe(name)
        async with open_channel(f"127.0.0.1:{self.ports[name].grpc}") as channel:
            return await WorkerStub(channel).get_info(timeout_s=_CALL_S)

    def disarm_all(self) -> None:
        """No failpoint is armed any more."""
        for name in (*self.ports, "router-0"):
            self.desk.disarm(name)


def probe_prompt(length: int, *, seed: int, marks: Sequence[int] = ()) -> tuple[int, ...]:
    """Return tokens that no other cell's prompt begins with; ``marks`` stand in the middle."""
    dice = random.Random(seed)
    tokens = [dice.randint(4, 313) for _ in range(length)]
    middle = length // 2
    tokens[middle : middle + len(marks)] = marks
    return tuple(tokens)
