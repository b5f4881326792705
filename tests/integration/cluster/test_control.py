"""The controller's way to a real router: traffic, guidance, records, policies; and `tandem policy apply`."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.client import AsyncClient
from tandem.cluster.commands.connection import Connection
from tandem.cluster.commands.policy import run_apply
from tandem.cluster.control.ports import GrpcRouters
from tandem.cluster.control.program import run_controller
from tandem.cluster.programs.config import ControllerProgramConfig, RegistryTarget
from tandem.cluster.registry.redis_records import RedisRecords
from tandem.cluster.registry.router_records import RouterRecords
from tandem.cluster.run_state import RunStates
from tandem.core.decisions import ControllerRound, Decision, DecisionFilter
from tandem.core.environment import read_environment
from tandem.core.errors import ConfigError, InvalidArgument, Unavailable
from tandem.core.records import RecordStore, overwrite
from tandem.core.traffic import ClassTargets, Guidance
from tandem.core.types import PriorityClass, Role
from tandem.inference.v1 import inference_pb2 as pb
from tandem.router.config import RouterConfig
from tandem.rpc.channels import open_channel
from tandem.rpc.stubs.control import ControlStub
from tests.fakes.fake_worker import FakeWorker
from tests.fakes.live_world import HandClock
from tests.fakes.redis_server import RedisServer, binaries, free_port, redis_server
from tests.fakes.router_cluster import Cluster, cluster
from tests.unit.cluster.test_run_state import state

POLICY = """
metadata: {name: NAME}
spec: {strategy: Load, pools: {prefill: {maxReplicas: 2}, decode: {maxReplicas: 2}}}
"""


@asynccontextmanager
async def router(tmp_path: Path) -> AsyncIterator[Cluster]:
    workers = [FakeWorker("prefill-0", Role.PREFILL), FakeWorker("decode-0", Role.DECODE)]
    async with cluster(tmp_path, workers) as found:
        yield found


async def test_a_controller_hears_of_traffic_and_is_heard(tmp_path: Path) -> None:
    async with router(tmp_path) as found:
        address = found.router.internal_address
        routers = GrpcRouters([address, address], tls=None, insecure=False)
        for _ in range(3):
            await found.generate(pb.GenerateRequest(text="hello there", max_tokens=4))
        report, same = await routers.traffic(60.0)
        assert len(report.arrivals[PriorityClass.STANDARD]) == len(same.ended) == 3
        assert all(request.ttft_s is not None and request.output_tokens for request in report.ended)
        assert await routers.guide(Guidance(term=4, borrow_share=0.5, ttl_s=30.0)) == 4
        assert await routers.guide(Guidance(term=3, borrow_share=0.9, ttl_s=30.0)) == 4
        assert [each.borrow_share for each in await routers.traffic(1.0)] == [0.5, 0.5]
        with pytest.raises(InvalidArgument, match="borrow_share"):
            await routers.guide(Guidance(term=4, borrow_share=1.5, ttl_s=30.0))
        await routers.close()


async def test_a_router_is_told_promises_and_how_many_share_the_limits(tmp_path: Path) -> None:
    clock = HandClock(100.0)
    targets = {PriorityClass.STANDARD: ClassTargets(ttft_s=1.5, e2e_s=9.0)}
    guidance = Guidance(term=4, borrow_share=0.0, ttl_s=30.0, targets=targets)
    async with router(tmp_path) as found:
        gate = found.router.dispatcher.admitting.gate
        routers = GrpcRouters(
            [found.router.internal_address, "127.0.0.1:1"], tls=None, insecure=False, clock=clock
        )  # nobody listens on the second
        with pytest.raises(Unavailable):
            await routers.guide(guidance)
        assert gate.policy.ttft_slo_s == {PriorityClass.STANDARD: 1.5}
        assert gate.policy.e2e_slo_s == {PriorityClass.STANDARD: 9.0}
        assert gate.buckets.num_routers == 2, "it may be slow, and serve callers"
        clock.at_s += 20.0
        with pytest.raises(Unavailable):
            await routers.guide(guidance)
        assert gate.buckets.num_routers == 2
        clock.at_s += 20.0
        with pytest.raises(Unavailable):
            await routers.guide(replace(guidance, targets={}))
        assert gate.buckets.num_routers == 1, "it has been silent for long"
        assert not gate.policy.ttft_slo_s
        with pytest.raises(Unavailable):
            await routers.guide(replace(guidance, term=3))
        assert not gate.policy.ttft_slo_s, "the promises of a controller whose term is over"
        with pytest.raises(InvalidArgument, match="ttft_s"):
            await GrpcRouters([found.router.internal_address], tls=None, insecure=False).guide(
                replace(guidance, targets={PriorityClass.BATCH: ClassTargets(ttft_s=-1.0)})
            )
        await routers.close()


async def test_an_applied_policys_promises_reach_the_door_and_change_with_it(tmp_path: Path) -> None:
    async with router(tmp_path) as found, asyncio.timeout(30.0), asyncio.TaskGroup() as group:
        address = found.router.internal_address
        config = ControllerProgramConfig(
            controller_id="c", registry=RegistryTarget(kind="router", address=address), routers=[address]
        )
        stop = asyncio.Event()
        group.create_task(run_controller(config, stop))
        gate = found.router.dispatcher.admitting.gate
        text = POLICY.replace("NAME", "first").replace("spec: {", "spec: {interval: 1s, CLASSES")
        promised = "classes: {standard: {ttft: {target: %s}}}, "
        async with open_channel(address) as channel:
            for classes, expected in (
                (promised % "2s", {PriorityClass.STANDARD: 2.0}),
                (promised % "500ms", {PriorityClass.STANDARD: 0.5}),
                ("", {}),
            ):
                await ControlStub(channel).apply_policy(text.replace("CLASSES", classes).encode(), timeout_s=5.0)
                while dict(gate.policy.ttft_slo_s) != expected:
                    await asyncio.sleep(0.05)
        stop.set()


def told(number: int) -> Decision:
    seen = ControllerRound(term=number, policy="day", verdict="hold", current_prefill=1, current_decode=1)
    return Decision(sequence=0, unix_s=time.time(), source="", reason="it is early", detail=seen)


async def terms(found: Cluster) -> list[int]:
    """Of the rounds that a router was told, in its order."""
    async with AsyncClient(found.router.internal_address) as client:
        page = await client.decisions(DecisionFilter(kinds=("controller",)))
    return [one.detail.term for one in page.decisions if isinstance(one.detail, ControllerRound)]


async def test_a_router_that_was_away_catches_up_and_nobody_hears_anything_twice(tmp_path: Path) -> None:
    away_port = RouterConfig(port=0, internal_port=free_port())
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with cluster(tmp_path / "a", []) as here:
        addresses = [here.router.internal_address, f"127.0.0.1:{away_port.internal_port}"]
        routers = GrpcRouters(addresses, tls=None, insecure=False)
        for number in (1, 2):
            with pytest.raises(Unavailable):
                await routers.tell("c", (told(number),))
        assert await terms(here) == [1, 2]
        async with cluster(tmp_path / "b", [], away_port) as late:
            await reached(routers)
            await routers.tell("c", ())
            assert await terms(late) == [1, 2], "what it missed"
            await routers.tell("c", (told(3),))
            await routers.tell("c", ())
            assert await terms(late) == await terms(here) == [1, 2, 3]
        with pytest.raises(Unavailable):
            await routers.traffic(1.0)  # so its end is noticed, although there was nothing to tell
        async with cluster(tmp_path / "b", [], away_port) as anew:
            await reached(routers)
            assert await terms(anew) == []
            await routers.tell("c", ())
            assert await terms(anew) == [3], "a new life is told the last one"
        assert await terms(here) == [1, 2, 3]
        await routers.close()


async def reached(routers: GrpcRouters) -> None:
    """Wait until all of them answer: a channel that failed tries again after a second."""
    async with asyncio.timeout(20.0):
        while True:
            try:
                await routers.traffic(1.0)
            except Unavailable:
                await asyncio.sleep(0.1)
            else:
                return


async def test_a_policy_is_applied_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "p.yaml"

    async def apply(text: str, *, dry_run: bool = False) -> str:
        await asyncio.to_thread(file.write_text, text, encoding="utf-8")
        await asyncio.to_thread(run_apply, file, connection, dry_run=dry_run)
        return capsys.readouterr().out

    async with router(tmp_path) as found:
        connection = Connection(address=found.router.internal_address)
        assert "first applied (Auto), version 1" in await apply(POLICY.replace("NAME", "first"))
        assert "no difference" in await apply(POLICY.replace("NAME", "first"))
        changed = POLICY.replace("NAME", "first").replace("decode: {maxReplicas: 2", "decode: {maxReplicas: 5")
        assert "spec.pools.decode.maxReplicas: 2 → 5" in await apply(changed, dry_run=True)
        with pytest.raises(ConfigError, match="maxReplica"):
            await apply(POLICY.replace("maxReplicas", "maxReplica"))
        async with open_channel(connection.address or "") as channel:
            record = await ControlStub(channel).get_policy(timeout_s=5.0)
        assert record is not None
        assert (record.version, b"maxReplicas: 5" in record.value) == (2, False), "a dry run and errors left it"


@pytest.mark.parametrize("controlled", [True, False])
async def test_a_policy_that_nobody_follows_is_applied_with_a_word_of_it(
    controlled: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (file := tmp_path / "p.yaml").write_text(POLICY.replace("NAME", "first"), encoding="utf-8")
    async with router(tmp_path) as found:
        here = state(name="here", internal_address=found.router.internal_address, controlled=controlled)
        RunStates(read_environment().run_folder).write(here)
        await asyncio.to_thread(run_apply, file, Connection(), dry_run=False)
    said = capsys.readouterr()
    assert "first applied (Auto), version 1" in said.out
    assert ("here runs no controller" in said.err) is not controlled


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server(sorted(binaries())[-1]) as server:
        yield server


async def _try(store: RecordStore) -> None:
    assert await store.read("nothing") is None
    first = await store.write("k", b"one", expected_version=0)
    assert first.done
    lost = await store.write("k", b"two", expected_version=0)
    assert (lost.done, lost.record) == (False, first.record)
    assert (await overwrite(store, "k", b"\x00:three")).version == 2
    record = await store.read("k")
    assert record is not None
    assert record.value == b"\x00:three"
    with pytest.raises(InvalidArgument, match="key"):
        await store.write("no such/key", b"", expected_version=0)
    await store.close()


async def test_records_at_a_router(tmp_path: Path) -> None:
    async with router(tmp_path) as found:
        await _try(RouterRecords(found.router.internal_address, tls=None, insecure=False))


async def test_records_in_redis_and_without_it(redis: RedisServer) -> None:
    await _try(RedisRecords(redis.url, namespace="t"))
    nobody = RedisRecords("redis://127.0.0.1:1", namespace="t")
    with pytest.raises(Unavailable):
        await nobody.read("k")
    await nobody.close()


async def test_of_many_writers_one_wins_each_time(redis: RedisServer) -> None:
    stores = [RedisRecords(redis.url, namespace="race") for _ in range(6)]
    written = await asyncio.gather(*(store.write("k", b"x", expected_version=0) for store in stores))
    assert sum(each.done for each in written) == 1
    assert replace(written[0], done=True).record is not None
    for store in stores:
        await store.close()
