"""What the router pod starts with: the rendered cluster.yaml, completed in the pod, is one that `tandem up` accepts."""

import runpy
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tandem.cluster.config.model import ClusterConfig
from tandem.core.config.yaml_file import load_yaml_config
from tests.unit.deploy.chart import CHART, COMBINATIONS, OPEN, REDIS, Values, only, render

SCRIPT = CHART / "files" / "compose_config.py"
POD_IP = "10.1.2.3"
KEYS = [{"id": "app", "tenant": "acme", "sha256": "ab" * 32, "operator": False}]
URL = "rediss://tandem:secret@redis.infra:6379/0"
compose: Callable[..., dict[str, Any]] = runpy.run_path(str(SCRIPT))["compose"]


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    for name, text in (("auth/keys.yaml", yaml.safe_dump(KEYS)), ("redis/url", URL + "\n")):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def _rendered(values: Values) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(
        only(render(values), "ConfigMap", "demo-tandem-config")["data"]["cluster.yaml"]
    )
    return document


def _without(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_combination_is_a_valid_cluster(name: str, secrets: Path, tmp_path: Path) -> None:
    values = COMBINATIONS[name]
    folder = secrets if "redis" in values else _without(secrets, "redis/url")
    if values is OPEN:
        folder = _without(folder, "auth/keys.yaml")
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(compose(_rendered(values), pod_address=POD_IP, secrets=folder)), encoding="utf-8")
    config = load_yaml_config(path, ClusterConfig)
    assert config.runtime.kind == "ray"
    assert config.runtime.address == "auto"
    assert config.router.internal_host == config.router.metrics_host == POD_IP
    assert bool(config.router.keys) != (values is OPEN)
    assert config.workers.insecure == config.router.insecure
    assert (config.registry.redis_url is None) == ("redis" not in values)
    assert not config.registry.embedded


def test_keys_and_url_come_from_the_secrets_and_the_rest_stays(secrets: Path) -> None:
    before = _rendered(REDIS)
    after = compose(before, pod_address=POD_IP, secrets=secrets)
    assert after["router"]["keys"] == KEYS
    assert after["registry"]["redis_url"] == URL
    assert "redis_url" not in before["registry"]
    for section in before.keys() - {"router", "registry"}:
        assert after[section] == before[section]


def test_nothing_secret_is_in_the_config_map() -> None:
    text = yaml.safe_dump(only(render({**REDIS}), "ConfigMap", "demo-tandem-config")["data"]["cluster.yaml"])
    assert "sha256" not in text
    assert "redis://" not in text


def test_certificates_are_where_the_pods_mount_them() -> None:
    config = _rendered({})
    assert config["router"]["tls"]["key"] == "/etc/tandem/tls/tls.key"
    assert config["router"]["internal_tls"] == config["workers"]["tls"]
    assert config["workers"]["tls"]["ca"] == "/etc/tandem/mtls/ca.crt"
    assert "tls" not in _rendered(OPEN)["workers"]


def test_pinned_and_generic_groups_size_their_pools() -> None:
    pools = _rendered(COMBINATIONS["pinned"])["pools"]
    assert pools["prefill"] == {"replicas": 2, "cpus": 8, "gpus": 1}
    assert pools["decode"] == {"replicas": 3, "cpus": 2, "gpus": 0}


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False
    )


def test_output_is_readable_by_its_user_only_and_replaces_an_older_one(secrets: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "chart.yaml", tmp_path / "cluster.yaml"
    source.write_text(yaml.safe_dump(_rendered(REDIS)), encoding="utf-8")
    output.write_text("old", encoding="utf-8")
    output.chmod(0o644)
    result = _run(source, output, POD_IP, secrets)
    assert result.returncode == 0, result.stderr
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert yaml.safe_load(output.read_text(encoding="utf-8"))["registry"]["redis_url"] == URL


def test_broken_keys_are_a_failure_that_leaves_nothing(secrets: Path, tmp_path: Path) -> None:
    source = tmp_path / "chart.yaml"
    source.write_text(yaml.safe_dump(_rendered({})), encoding="utf-8")
    (secrets / "auth" / "keys.yaml").write_text("- id: [", encoding="utf-8")
    assert _run(source, tmp_path / "cluster.yaml", POD_IP, secrets).returncode != 0
    assert not (tmp_path / "cluster.yaml").exists()
