"""A whole cluster of fake programs: order, failures, what is left, who is started again."""

import asyncio
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.cluster.config.model import ClusterConfig, RegistrySection
from tandem.cluster.progress import LineProgress, SilentProgress
from tandem.cluster.runtime.local import LocalRuntime
from tandem.cluster.supervisor import Programs, Supervisor
from tandem.core.errors import EnvironmentProblem, ModelError
from tests.fakes.cluster_stage import CHILD, Stage, fake_cluster, gone


def supervisor(stage: Stage, config: ClusterConfig | None = None, out: io.StringIO | None = None) -> Supervisor:
    return Supervisor(
        config or fake_cluster(),
        model=stage.model,
        runtime=LocalRuntime(log_folder=stage.logs, module=CHILD),
        log_folder=stage.logs,
        progress=LineProgress(out, color=False) if out is not None else SilentProgress(),
        programs=Programs(router=CHILD, registry=CHILD),
    )


async def test_up_and_down(stage: Stage) -> None:
    out = io.StringIO()
    cluster = supervisor(stage, out=out)
    running = await cluster.start()
    assert (running.public_address, running.internal_address) == ("127.0.0.1:1", "127.0.0.1:2")
    assert running.router_pid == stage.pids("router")[0]
    await cluster.stop(grace_s=5.0)
    assert gone(stage.all_pids())
    phases = [line.split("✓ ")[1].split(" ")[0] for line in out.getvalue().splitlines() if "✓" in line]
    assert phases == ["router", "workers", "ready"]
    assert "warning: no Redis" not in out.getvalue() or "registry.redis_url" in out.getvalue()


async def test_with_a_redis_nobody_waits_for_the_router(stage: Stage) -> None:
    """The router is slow here: the workers start all the same."""
    stage.plan(router={"delay_s": 1.5})
    config = fake_cluster().model_copy(update={"registry": RegistrySection(redis_url="redis://127.0.0.1:1/0")})
    cluster = supervisor(stage, config)
    starting = asyncio.create_task(cluster.start())
    async with asyncio.timeout(10):
        while not stage.pids("decode-0"):
            await asyncio.sleep(0.01)
    assert not starting.done()
    await starting
    await cluster.stop(grace_s=5.0)


async def test_without_one_the_workers_are_told_where_the_router_is(stage: Stage) -> None:
    cluster = supervisor(stage)
    await cluster.start()
    assert stage.pids("router")
    await cluster.stop(grace_s=5.0)
    assert gone(stage.all_pids())


@pytest.mark.parametrize("who", ["router", "prefill_0", "decode_0"])
async def test_any_part_that_cant_start_ends_the_rest(stage: Stage, who: str) -> None:
    stage.plan(**{who: {"fail": "no way"}})
    with pytest.raises(ModelError, match="no way"):
        await supervisor(stage).start()
    assert gone(stage.all_pids())


async def test_a_router_that_sees_no_worker_is_an_error(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.cluster.supervisor._SEEN_S", 0.5)
    stage.plan(router={"alive": [1, 0]})
    with pytest.raises(EnvironmentProblem, match="reaches 1 prefill and 0 decode workers of 1 and 1"):
        await supervisor(stage).start()
    assert gone(stage.all_pids())


async def test_watch_ends_when_asked(stage: Stage) -> None:
    cluster, stop = supervisor(stage), asyncio.Event()
    await cluster.start()
    watching = asyncio.create_task(cluster.watch(stop))
    await asyncio.sleep(0.1)
    assert not watching.done()
    stop.set()
    await asyncio.wait_for(watching, 5.0)
    await cluster.stop(grace_s=5.0)


async def test_watch_raises_when_the_router_dies(stage: Stage) -> None:
    cluster = supervisor(stage)
    await cluster.start()
    os.kill(stage.pids("router")[0], signal.SIGKILL)
    with pytest.raises(EnvironmentProblem, match=r"router ended early \(killed by signal 9\)"):
        await asyncio.wait_for(cluster.watch(asyncio.Event()), 5.0)
    await cluster.stop(grace_s=5.0)
    assert gone(stage.all_pids())


async def test_a_dead_registry_is_started_again_at_its_address(stage: Stage) -> None:
    """Real registry processes: the server's address must not change, and no server may be left."""
    cluster = Supervisor(
        fake_cluster(embedded=True),
        model=stage.model,
        runtime=LocalRuntime(log_folder=stage.logs, module=CHILD),
        log_folder=stage.logs,
        progress=SilentProgress(),
        programs=Programs(router=CHILD),
    )
    await cluster.start()
    folder = cluster._registry_folder
    service = cluster._registry
    assert folder is not None
    assert service is not None
    assert service.child is not None
    watching = asyncio.create_task(cluster.watch(asyncio.Event()))
    first = service.child.pid
    servers = _servers(folder)
    assert len(servers) == 1
    os.kill(first, signal.SIGKILL)
    assert await asyncio.to_thread(gone, servers), "the orphaned server was not ended"
    async with asyncio.timeout(15):
        while service.child.pid == first or not (folder / "s").exists() or not _answers(folder / "s"):
            await asyncio.sleep(0.05)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    servers = _servers(folder)
    await cluster.stop(grace_s=5.0)
    assert gone(servers)
    assert not folder.exists()


async def test_kill_ends_everything_now(stage: Stage) -> None:
    stage.plan(decode_0={"ignore_end": True}, router={"ignore_end": True})
    cluster = supervisor(stage)
    await cluster.start()
    cluster.kill()
    assert gone(stage.all_pids(), within_s=2.0)
    await cluster.stop(grace_s=0.1)


def test_a_killed_supervisor_leaves_nothing(stage: Stage) -> None:
    """SIGKILL gives nobody a chance: the children notice by their lifelines."""
    script = Path(__file__).parents[2] / "fakes" / "cluster_parent.py"
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.cluster_parent", str(stage.folder), str(stage.logs)],
        cwd=script.parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline().strip() == "up"
        children = stage.all_pids()
        servers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 3
        assert len(servers) == 2, "the registry process and its server"
    finally:
        parent.kill()
        parent.communicate()
    assert gone(children + servers, within_s=5.0)


def _servers(folder: Path) -> list[int]:
    """The registry servers that run in a folder."""
    listed = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in listed.split() if pid]


def _answers(socket_path: Path) -> bool:
    import socket  # noqa: PLC0415

    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(socket_path))
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        except OSError:
            return False
