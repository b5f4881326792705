"""One life of the controller's actor, without Ray: a policy that is wrong at the start is waited for."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.cluster.programs.config import ControllerProgramConfig, RegistryTarget
from tandem.cluster.runtime import ray_controller
from tandem.cluster.runtime.ray_controller import ControllerActor

GOOD = "metadata: {name: good}\nspec: {strategy: Load, pools: {prefill: {maxReplicas: 2}, decode: {maxReplicas: 2}}}\n"
NOBODY = "127.0.0.1:9"


@pytest.fixture
def actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControllerActor]:
    monkeypatch.setattr(ray_controller, "_AGAIN_S", 0.05)
    monkeypatch.setattr(ray_controller, "configure_logging", lambda **_: None)
    (tmp_path / "policy.yaml").write_text("metadata: {nam: x}", encoding="utf-8")
    config = ControllerProgramConfig(
        policy=tmp_path / "policy.yaml", registry=RegistryTarget(kind="router", address=NOBODY), routers=[NOBODY]
    )
    actor = ControllerActor(config.model_dump_json(), log_file="")
    yield actor
    assert actor.stop(10.0), "it ends when it is told to, also between two tries"


def _until(actor: ControllerActor, *, ready: bool) -> str:
    end_s = time.monotonic() + 20
    while True:
        answer = actor.ping()
        if answer["ready"] is ready and bool(answer["failure"]) is not ready:
            return str(answer["failure"])
        assert time.monotonic() < end_s, answer
        time.sleep(0.02)


def test_a_wrong_policy_is_told_and_tried_again_until_it_is_mended(actor: ControllerActor, tmp_path: Path) -> None:
    assert "nam" in _until(actor, ready=False)
    time.sleep(0.2)
    assert "nam" in _until(actor, ready=False), "still, after some more tries"
    (tmp_path / "policy.yaml").write_text(GOOD, encoding="utf-8")
    _until(actor, ready=True)


def test_it_ends_while_it_waits_for_a_policy(actor: ControllerActor) -> None:
    _until(actor, ready=False)
