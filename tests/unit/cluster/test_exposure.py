"""A process that other machines can reach, or that holds credentials, refuses failpoints before it serves."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tandem.cluster.programs.config import RegistryTarget, RouterProgramConfig, WorkerProgramConfig
from tandem.cluster.programs.exposure import router_exposure, router_program_exposure, worker_exposure
from tandem.cluster.programs.worker_program import WorkerProgram
from tandem.core.errors import EnvironmentProblem
from tandem.core.failpoints import VARIABLE, disarm_failpoints
from tandem.core.types import Role
from tandem.router.config import RouterConfig
from tandem.worker_host.assembly import build_engine

TLS = {"certificate": "c.pem", "key": "k.pem", "ca": "a.pem"}
KEY = {"id": "k1", "tenant": "acme", "sha256": "0" * 64}


def worker(**changes: Any) -> WorkerProgramConfig:
    fields: dict[str, Any] = {
        "worker_id": "prefill-0",
        "role": Role.PREFILL,
        "model_folder": Path("/nowhere"),
        "registry": RegistryTarget(kind="router", address="127.0.0.1:1"),
    }
    return WorkerProgramConfig.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"host": "::1"}, []),
        ({"host": "10.0.0.1"}, ["host=10.0.0.1"]),
        ({"metrics_host": "0.0.0.0"}, []),  # nothing listens there
        ({"metrics_host": "0.0.0.0", "metrics_port": 9000}, ["metrics_host=0.0.0.0"]),
        ({"tls": TLS}, ["tls"]),
        ({"insecure": True}, ["insecure"]),
    ],
)
def test_worker(changes: dict[str, Any], found: list[str]) -> None:
    assert worker_exposure(worker(**changes)) == found


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"host": "0.0.0.0"}, ["host=0.0.0.0"]),
        ({"internal_host": "10.1.1.1"}, ["internal_host=10.1.1.1"]),
        ({"metrics_host": "10.1.1.1", "metrics_port": 0}, ["metrics_host=10.1.1.1"]),
        ({"tls": TLS}, ["tls"]),
        ({"internal_tls": TLS}, ["internal_tls"]),
        ({"keys": [KEY]}, ["keys"]),
        ({"insecure": True}, ["insecure"]),
    ],
)
def test_router(changes: dict[str, Any], found: list[str]) -> None:
    assert router_exposure(RouterConfig.model_validate(changes)) == found


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("unix:///run/tandem/s", []),
        ("redis://localhost:6379/0", []),
        ("redis://127.0.0.1", []),
        ("redis://[::1]:6379", []),
        ("redis://10.0.0.9:6379", ["registry=10.0.0.9"]),
        ("redis://cache.example:6379", ["registry=cache.example"]),
        ("redis://:hush@127.0.0.1:6379", ["registry credentials"]),
        ("redis://me:hush@10.0.0.9", ["registry credentials", "registry=10.0.0.9"]),
        ("unix:///run/s?password=hush", ["registry credentials"]),
        ("rediss://127.0.0.1", ["registry tls"]),
    ],
)
def test_a_registry_elsewhere_or_with_credentials_counts_and_its_password_is_not_told(
    url: str, found: list[str]
) -> None:
    target = RegistryTarget(kind="redis", url=url)
    router = RouterProgramConfig(router=RouterConfig(), model_folder=Path("/nowhere"), registry=target)
    assert worker_exposure(worker(registry=target)) == found
    assert router_program_exposure(router) == found


async def test_the_worker_program_refuses_before_it_loads_anything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    said: list[str] = []
    program = WorkerProgram(worker(host="10.0.0.1"), build=build_engine)
    with pytest.raises(EnvironmentProblem, match=rf"{VARIABLE}.*prefill-0.*host=10\.0\.0\.1"):
        await program.run(asyncio.Event(), on_status=said.append, on_ready=lambda _: None)
    assert said == []
    disarm_failpoints()


async def test_the_router_program_refuses_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tandem.cluster.programs import router_process  # noqa: PLC0415  # it wires stdin when it serves

    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(router_process, "stop_event_on_lifeline", lambda _: asyncio.Event())
    config = RouterProgramConfig(
        router=RouterConfig(keys=(KEY,)),  # type: ignore[arg-type]
        model_folder=Path("/nowhere"),
        registry=RegistryTarget(kind="router"),
    )
    with pytest.raises(EnvironmentProblem, match=rf"{VARIABLE}.*router-0.*keys"):
        await router_process.serve(config)
