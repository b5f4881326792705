"""`tandem explain` and `tandem decisions` with several routers: each keeps its own, the command asks them all."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest

from tandem.client import AsyncClient
from tandem.cluster.cli.app import app
from tandem.cluster.cli.errors import run_guarded
from tandem.cluster.commands.asking import connections_to
from tandem.cluster.commands.connection import Connection
from tandem.cluster.commands.decisions import filter_of, run_decisions, run_explain
from tandem.cluster.commands.following import follow_all
from tandem.core.decisions import ControllerRound, Decision
from tandem.core.environment import read_environment
from tandem.core.errors import NotFound, TandemError, Unavailable
from tandem.core.types import Role
from tandem.router.config import RouterConfig
from tandem.rpc.stubs.control import ControlStub
from tests.fakes.fake_worker import FakeWorker
from tests.fakes.router_cluster import Cluster, cluster

ROUND = ControllerRound(term=3, policy="day", verdict="hold", current_prefill=1, current_decode=1)
NOBODY = "127.0.0.1:9"


@dataclass(frozen=True)
class Two:
    """Two routers, and what each served."""

    routers: tuple[Cluster, Cluster]
    requests: tuple[str, str, str]  # served by the first, the second, the first

    @property
    def addresses(self) -> list[str]:
        return [found.router.internal_address for found in self.routers]


def workers() -> list[FakeWorker]:
    return [FakeWorker("prefill-0", Role.PREFILL), FakeWorker("decode-0", Role.DECODE)]


@asynccontextmanager
async def two_routers(folder: Path) -> AsyncIterator[Two]:
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    one, other = (RouterConfig(port=0, router_id=name) for name in ("router-a", "router-b"))
    async with cluster(folder / "a", workers(), one) as a, cluster(folder / "b", workers(), other) as b:
        served = []
        for found in (a, b, a):
            async with AsyncClient(found.router.address) as client:
                served.append((await client.generate("a b c", max_tokens=4)).request_id)
        yield Two(routers=(a, b), requests=(served[0], served[1], served[2]))


async def explain(addresses: list[str], request_id: str, *, as_json: bool = False) -> None:
    await asyncio.to_thread(run_explain, connections_to(Connection(), addresses), request_id, as_json=as_json)


async def test_a_request_is_found_at_whichever_router_served_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with two_routers(tmp_path) as two:
        capsys.readouterr()  # what the routers of this process log
        await explain(two.addresses, two.requests[1])
        said = capsys.readouterr()
        assert said.out.startswith(f"request {two.requests[1]}: ok\n")
        assert said.out.splitlines()[1].endswith(", router-b")
        assert said.err == f"known at {two.addresses[1]}\n", "the one that knows nothing of it is no trouble"
        await explain(two.addresses, two.requests[0], as_json=True)
        life = json.loads(capsys.readouterr().out)
        assert life["routers"] == ["router-a"]
        assert [one["detail"]["kind"] for one in life["decisions"]] == ["admission", "placement", "end"]


async def test_a_request_that_nobody_knows(tmp_path: Path) -> None:
    async with two_routers(tmp_path) as two:
        with pytest.raises(NotFound) as caught:
            await explain(two.addresses, "0" * 32)
        assert "none of 2 routers knows" in str(caught.value)
        assert str(caught.value).count("it keeps the last 16384 decisions, none for more than 60 min") == 2
        assert all(address in str(caught.value) for address in two.addresses)
        with pytest.raises(NotFound, match="it keeps the last 16384 decisions"):
            await explain(two.addresses[:1], two.requests[1])


async def test_a_router_that_is_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the others know is shown; what nobody who answered knows may still be known to it."""
    async with two_routers(tmp_path) as two:
        addresses = [two.addresses[0], NOBODY]
        capsys.readouterr()
        await explain(addresses, two.requests[0])
        said = capsys.readouterr()
        assert "router-a" in said.out
        assert f"{NOBODY} did not tell what it knows" in said.err
        with pytest.raises(Unavailable, match=f"1 of 2 routers know nothing .* the others did not answer .{NOBODY}"):
            await explain(addresses, two.requests[1])
        wanted = filter_of(kinds=["end"], request="", tenant="", since="", limit=10)
        await asyncio.to_thread(
            run_decisions, connections_to(Connection(), addresses), wanted, follow=False, as_json=True
        )
        said = capsys.readouterr()
        assert len(said.out.splitlines()) == 2
        assert f"{NOBODY} did not tell what it knows" in said.err


def test_the_option_is_given_once_for_each_router(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["explain", "0" * 32, "--address", NOBODY, "--address", "127.0.0.1:10"], "all 2 routers did not answer"),
        (["decisions", "--address", NOBODY, "--address", "127.0.0.1:10"], ""),
        (["decisions", "--address", NOBODY, "--address", ""], "--address: is empty"),
    ):
        with pytest.raises(SystemExit) as ended:
            run_guarded(app, words)
        assert ended.value.code == 1
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error


async def test_decisions_are_merged_by_time_and_a_round_is_listed_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before_s = time.time()
    async with two_routers(tmp_path) as two:
        for address in two.addresses:
            async with grpc.aio.insecure_channel(address) as channel:
                told = Decision(sequence=0, unix_s=before_s, source="", reason="it is early", detail=ROUND)
                await ControlStub(channel).record_decisions("controller-0", [told], timeout_s=5.0)
        connections = connections_to(Connection(), [*two.addresses, two.addresses[0]])
        assert len(connections) == 2, "a router that is named twice is asked once"
        capsys.readouterr()
        wanted = filter_of(kinds=["end", "controller"], request="", tenant="", since="", limit=10)
        await asyncio.to_thread(run_decisions, connections, wanted, follow=False, as_json=True)
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [one["source"] for one in found] == ["controller-0", "router-a", "router-b", "router-a"]
        assert [one["request_id"] for one in found][1:] == list(two.requests)
        wanted = filter_of(kinds=["end"], request="", tenant="", since="", limit=2)
        await asyncio.to_thread(run_decisions, connections, wanted, follow=False, as_json=True)
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [one["request_id"] for one in found] == list(two.requests[1:]), "the latest of all routers"


async def test_following_both(tmp_path: Path) -> None:
    async with two_routers(tmp_path) as two:
        wanted = filter_of(kinds=["end"], request="", tenant="", since="", limit=10)
        shown: list[Decision] = []
        following = asyncio.create_task(
            follow_all(connections_to(Connection(), two.addresses), read_environment(), wanted, shown.extend)
        )
        async with asyncio.timeout(15.0):
            while len(shown) < 3:
                await asyncio.sleep(0.02)
            for num_shown, found in enumerate(two.routers, start=4):
                async with AsyncClient(found.router.address) as client:
                    await client.generate("a b c", max_tokens=4)
                while len(shown) < num_shown:
                    await asyncio.sleep(0.02)
            assert [one.source for one in shown] == ["router-a", "router-b", "router-a", "router-a", "router-b"]
            await two.routers[1].router.stop(grace_s=0.0)
            with pytest.raises(TandemError):
                await following
