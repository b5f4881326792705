"""What a chaos cluster makes of the supervisor's plan for its workers, and of its options."""

from pathlib import Path
from typing import Any

import pytest

from tandem.chaos.cluster import ChaosCluster, ChaosOptions, WorkerChaos
from tandem.chaos.cluster.baseline import measure, shared_memory_files
from tandem.chaos.cluster.cluster import free_ports
from tandem.chaos.cluster.runtime import TaggedRuntime
from tandem.chaos.tagged.settings import TaggedCost, TaggedWorkerConfig
from tandem.cluster.programs.config import RegistryTarget, WorkerProgramConfig
from tandem.core.types import Role
from tandem.engine.config import EngineConfig

SLOW = TaggedCost(step_s=0.5)


async def _planned(
    options: ChaosOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> dict[str, TaggedWorkerConfig]:
    started: list[TaggedWorkerConfig] = []

    async def start(self: object, workers: list[TaggedWorkerConfig], **_: Any) -> None:
        started.extend(workers)

    monkeypatch.setattr("tandem.cluster.runtime.local.LocalRuntime.start", start)
    plain = [
        WorkerProgramConfig(
            worker_id=f"decode-{index}",
            role=Role.DECODE,
            model_folder=tmp_path,
            engine=EngineConfig(num_blocks=64, block_size=8),
            registry=RegistryTarget(kind="router", address="127.0.0.1:1"),
        )
        for index in range(2)
    ]
    runtime = TaggedRuntime(options, log_folder=tmp_path, evidence_folder=tmp_path / "evidence")
    await runtime.start(plain, on_status=lambda *_: None, timeout_s=1.0)
    return {config.worker_id: config for config in started}


async def test_one_worker_is_special_and_the_others_are_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    special = WorkerChaos(
        cost=SLOW,
        engine={"num_blocks": 9},
        port=1111,
        advertise_address="127.0.0.1:2222",
        kv_port=3333,
        kv_advertise_address="127.0.0.1:4444",
        program={"insecure": True},
    )
    options = ChaosOptions(num_decode=2, workers={"decode-1": special}, cost=TaggedCost(row_s=0.1))
    planned = await _planned(options, monkeypatch, tmp_path)
    one, other = planned["decode-1"], planned["decode-0"]
    assert (one.cost, one.engine.num_blocks, one.engine.block_size) == (SLOW, 9, 8)
    assert (one.port, one.advertise_address) == (1111, "127.0.0.1:2222")
    assert (one.kv_port, one.kv_advertise_address, one.insecure) == (3333, "127.0.0.1:4444", True)
    assert (other.cost, other.engine.num_blocks, other.port) == (TaggedCost(row_s=0.1), 64, 0)
    assert (other.advertise_address, other.kv_advertise_address, other.insecure) == (None, None, False)
    for config in planned.values():
        assert config.engine.profile_budget_s == 0.0
        assert config.evidence_folder == tmp_path / "evidence"
        assert not config.race.is_on


async def test_what_all_workers_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = ChaosOptions(num_decode=2, all_workers=WorkerChaos(cost=SLOW), workers={"decode-0": WorkerChaos()})
    planned = await _planned(options, monkeypatch, tmp_path)
    assert (planned["decode-0"].cost, planned["decode-1"].cost) == (TaggedCost(), SLOW)


def test_a_cluster_keeps_a_given_folder_and_names_its_workers(tmp_path: Path) -> None:
    cluster = ChaosCluster(ChaosOptions(num_prefill=2, num_decode=1, folder=tmp_path, tenants=("a", "b")))
    assert cluster.worker_ids == ("prefill-0", "prefill-1", "decode-0")
    assert (cluster.folders.model / "tandem.json").exists()
    assert cluster.folders.events.parent == tmp_path


def test_sizes_are_read_from_the_process() -> None:
    with Path("/proc/self/status").open():
        size = measure(_own_pid(), num_tasks=3)
    assert size.num_fds >= 3
    assert size.num_threads >= 1
    assert size.num_tasks == 3
    assert all("tandem" in name for name in shared_memory_files())
    with pytest.raises(OSError, match="No such file"):
        measure(2**22 + 1, num_tasks=0)


def test_free_ports_differ() -> None:
    assert len(set(free_ports(8))) == 8


def _own_pid() -> int:
    return int(Path("/proc/self").readlink().name)
