"""Ray's driver against a Ray that is made of plain Python: what it asks for, what it makes of the answers."""

import threading
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.autoscaler.sdk
from ray.exceptions import GetTimeoutError, RayActorError

from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.plan import plan_workers
from tandem.cluster.programs.config import (
    ControllerProgramConfig,
    PlacedWorker,
    RayOrder,
    RayProgramConfig,
    RegistryTarget,
)
from tandem.cluster.runtime import ray_driver
from tandem.cluster.runtime.ray_driver import RayDriver, Stopped
from tandem.core.errors import EnvironmentProblem, ModelError
from tests.unit.cluster.test_plan import MODEL

READY = {"pid": 11, "epoch": "7", "ready": True, "detail": "ready", "failure": None}
LOADING = {**READY, "epoch": "", "ready": False, "detail": "loading"}


class Late:
    """An answer that comes only when it is asked for the third time."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self._num_asked = 0

    def get(self) -> Any:
        """Return it, or raise as Ray does."""
        self._num_asked += 1
        if self._num_asked < 3:
            raise GetTimeoutError
        return self._answer


class Method:
    """A remote method: calling it gives its answer as the reference."""

    def __init__(self, answers: list[Any], calls: list[Any]) -> None:
        self._answers = answers
        self._calls = calls

    def remote(self, *arguments: Any) -> Any:
        """Return the next answer; the last one is given for ever."""
        self._calls.append(arguments)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


class Actor:
    """One actor with planned answers to its pings."""

    def __init__(self, answers: list[Any]) -> None:
        self.stopped: list[Any] = []
        self.ping = Method(answers, [])
        self.stop = Method([True], self.stopped)


class FakeRay:
    """The part of Ray that the driver uses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.init_options: dict[str, Any] = {}
        self.actor_options: list[dict[str, Any]] = []
        self.actors: list[Actor] = []
        self.answers: dict[str, list[Any]] = {}
        self.killed: list[Actor] = []
        self.bundles: list[dict[str, float]] = []
        self.places = True
        self.group_removed = False
        self.num_groups_removed = 0
        self.requested: list[list[dict[str, float]]] = []
        self.is_up = False
        for name, fake in {
            "init": self._init,
            "is_initialized": lambda: self.is_up,
            "get": self._get,
            "wait": lambda refs, num_returns, timeout: (refs, []),
            "kill": lambda actor, no_restart: self.killed.append(actor),
            "shutdown": self._shutdown,
            "remote": self._remote,
            "available_resources": lambda: {"CPU": 1.0},
        }.items():
            monkeypatch.setattr(ray, name, fake)
        monkeypatch.setattr(ray_driver, "placement_group", self._group)
        monkeypatch.setattr(ray.util, "remove_placement_group", self._remove_group)
        monkeypatch.setattr(ray_driver, "_POLL_S", 0.001)
        monkeypatch.setattr(ray.autoscaler.sdk, "request_resources", self._request)

    def wait(self, timeout_seconds: float) -> bool:
        """As a placement group: is it placed?"""
        return self.places

    def _request(self, *, bundles: list[dict[str, float]]) -> None:
        self.requested.append(bundles)

    def _remove_group(self, group: object) -> None:
        self.group_removed = True
        self.num_groups_removed += 1

    def _init(self, **options: Any) -> None:
        self.init_options, self.is_up = options, True

    def _shutdown(self) -> None:
        self.is_up = False

    def _get(self, answer: Any, timeout: float) -> Any:
        if isinstance(answer, Late):
            return answer.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _group(self, bundles: list[dict[str, float]], *, strategy: str, name: str) -> "FakeRay":
        self.bundles = bundles
        return self

    def _remote(self, kind: type) -> "FakeRay":
        fake = self

        class Made:
            """What `ray.remote(...)` returns."""

            def options(self, **options: Any) -> "Made":
                """Note them."""
                fake.actor_options.append(options)
                return self

            def remote(self, *arguments: Any, **named: Any) -> Actor:
                """Make the actor."""
                actor = Actor(list(fake.answers.get(fake.actor_options[-1]["name"], [READY])))
                fake.actors.append(actor)
                return actor

        return Made()  # type: ignore[return-value]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    return FakeRay(monkeypatch)


def program(*, address: str | None = None, start_timeout_s: float = 5.0) -> RayProgramConfig:
    config = ClusterConfig.model_validate({"model": {"source": "x"}, "engine": {"num_threads": 3}})
    workers = plan_workers(config, MODEL, RegistryTarget(kind="router"))
    return RayProgramConfig(
        address=address,
        namespace="ns",
        workers=[PlacedWorker(program=worker, cpus=1.5, gpus=0.5) for worker in workers],
        temp_folder=Path("/t"),
        log_folder=Path("/l"),
        start_timeout_s=start_timeout_s,
        stop_timeout_s=2.0,
    )


def test_a_ray_of_our_own_is_small_and_private(fake: FakeRay) -> None:
    driver = RayDriver(program(), threading.Event())
    driver.start()
    assert fake.init_options["address"] == "local"
    assert fake.init_options["include_dashboard"] is False
    assert fake.init_options["log_to_driver"] is False
    assert fake.init_options["num_cpus"] == 3
    assert fake.init_options["_temp_dir"] == "/t"
    assert fake.bundles == [{"CPU": 1.5, "GPU": 0.5}] * 2
    for bundle, (name, options) in enumerate(zip(("prefill-0", "decode-0"), fake.actor_options, strict=True)):
        assert options["name"] == name
        assert options["max_restarts"] == -1
        assert (options["num_cpus"], options["num_gpus"]) == (1.5, 0.5)
        assert options["scheduling_strategy"].placement_group is fake
        assert options["scheduling_strategy"].placement_group_bundle_index == bundle
        assert "runtime_env" not in options


def test_a_foreign_ray_is_joined_and_its_actors_get_their_environment(fake: FakeRay) -> None:
    RayDriver(program(address="auto"), threading.Event()).start()
    assert fake.init_options["address"] == "auto"
    assert "num_cpus" not in fake.init_options
    assert fake.actor_options[0]["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "3"


def test_it_waits_until_every_worker_is_ready(fake: FakeRay, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers = {"decode-0": [Late(LOADING), LOADING, Late(READY)]}
    RayDriver(program(), threading.Event()).start()
    out = capsys.readouterr().out
    assert out.count('"worker": "decode-0"') == 2, "a state is told once"
    assert '"detail": "loading"' in out


def test_a_worker_that_fails_fails_the_start_in_its_own_words(fake: FakeRay) -> None:
    failure = {"problem": "no weights", "remedy": "give some", "reason": ModelError.reason}
    fake.answers = {"prefill-0": [{**LOADING, "failure": failure}]}
    with pytest.raises(ModelError) as raised:
        RayDriver(program(), threading.Event()).start()
    assert raised.value.problem == "prefill-0 could not start: no weights"
    assert raised.value.remedy == "give some"


def test_a_worker_that_is_never_ready(fake: FakeRay) -> None:
    fake.answers = {"decode-0": [LOADING]}
    with pytest.raises(EnvironmentProblem, match=r"not ready after 0\.05 s: decode-0"):
        RayDriver(program(start_timeout_s=0.05), threading.Event()).start()


def test_bundles_that_fit_nowhere(fake: FakeRay) -> None:
    fake.places = False
    with pytest.raises(EnvironmentProblem, match=r"can't place 2 workers \(3 CPU, 1 GPU\) as PACK; it has 1 CPU free"):
        RayDriver(program(start_timeout_s=0.01), threading.Event()).start()


def test_a_ray_that_does_not_start(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**options: Any) -> None:
        raise RuntimeError("no room\nmany more lines")

    monkeypatch.setattr(ray, "init", broken)
    with pytest.raises(EnvironmentProblem, match=r"^Ray can't start here: no room\n"):
        RayDriver(program(), threading.Event()).start()
    with pytest.raises(EnvironmentProblem, match=r"^Ray can't be reached at auto: no room"):
        RayDriver(program(address="auto"), threading.Event()).start()


def test_an_end_during_the_start_is_noticed(fake: FakeRay) -> None:
    fake.answers = {"decode-0": [LOADING]}
    ended = threading.Event()
    threading.Timer(0.05, ended.set).start()
    driver = RayDriver(program(), ended)
    with pytest.raises(Stopped):
        driver.start()
    driver.stop()
    assert fake.killed == fake.actors


def test_a_dead_actor_is_told_as_restarting_and_then_as_another_process(
    fake: FakeRay, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()
    driver = RayDriver(program(), ended)
    fake.answers = {"decode-0": [READY, RayActorError(), {**LOADING, "pid": 12}, {**READY, "pid": 12}]}
    driver.start()
    threading.Timer(0.1, ended.set).start()
    driver.watch()
    told = [line for line in capsys.readouterr().out.splitlines() if '"decode-0"' in line]
    assert '"detail": "restarting"' in told[1]
    assert '"running": false' in told[1]
    assert '"pid": 12' in told[-1]
    assert '"restarts": 1' in told[-1]
    assert '"running": true' in told[-1]


def test_stop_drains_then_ends_then_gives_the_bundles_back(fake: FakeRay) -> None:
    driver = RayDriver(program(), threading.Event())
    driver.start()
    driver.stop()
    assert [actor.stopped for actor in fake.actors] == [[(2.0,)], [(2.0,)]]
    assert fake.killed == fake.actors
    assert fake.group_removed
    assert not fake.is_up
    driver.stop()  # Ray has been left: nothing to do


def test_stop_without_a_start_does_nothing(fake: FakeRay) -> None:
    RayDriver(program(), threading.Event()).stop()
    assert fake.killed == []


def _extra(name: str = "decode-9") -> PlacedWorker:
    placed = program().workers[1]
    return placed.model_copy(update={"program": placed.program.model_copy(update={"worker_id": name})})


def _carried_out(driver: RayDriver, *orders: RayOrder) -> None:
    for order in orders:
        driver.order(order.model_dump_json())
    for _ in range(3):
        driver._poll()


def test_a_worker_that_is_ordered_gets_a_group_of_its_own_and_gives_it_back(
    fake: FakeRay, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = RayDriver(program(address="auto"), threading.Event())
    driver.start()
    _carried_out(driver, RayOrder(add=_extra()), RayOrder(add=_extra()))
    assert len(fake.actors) == 3, "the same order twice is one worker"
    assert fake.bundles == [{"CPU": 1.5, "GPU": 0.5}]
    assert fake.requested == [[{"CPU": 1.5, "GPU": 0.5}] * 3], "the autoscaler is asked for all of them"
    assert fake.actor_options[-1]["scheduling_strategy"].placement_group_bundle_index == 0
    assert '"worker": "decode-9", "pid"' in capsys.readouterr().out
    _carried_out(driver, RayOrder(remove="decode-9"), RayOrder(remove="decode-9"))
    assert fake.killed == [fake.actors[-1]]
    assert fake.num_groups_removed == 1
    assert fake.requested[-1] == [{"CPU": 1.5, "GPU": 0.5}] * 2
    assert capsys.readouterr().out.count('"event": "worker_ended"') == 1


def test_a_worker_of_the_plan_that_is_removed_leaves_the_others_their_group(fake: FakeRay) -> None:
    driver = RayDriver(program(), threading.Event())
    driver.start()
    _carried_out(driver, RayOrder(remove="prefill-0"))
    assert fake.killed == [fake.actors[0]]
    assert fake.num_groups_removed == 0
    driver.stop()
    assert fake.killed[1:] == [fake.actors[1]]


def test_an_ordered_worker_that_can_not_start_is_told_of_and_taken_away(
    fake: FakeRay, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = RayDriver(program(), threading.Event())
    driver.start()
    failure = {"problem": "no weights", "remedy": "give some", "reason": ModelError.reason}
    fake.answers["decode-9"] = [{**LOADING, "failure": failure}]
    _carried_out(driver, RayOrder(add=_extra()))
    out = capsys.readouterr().out
    assert '"event": "worker_failed"' in out
    assert '"problem": "no weights"' in out
    assert fake.num_groups_removed == 1


def test_the_controller_is_a_detached_actor_that_ends_with_the_cluster(fake: FakeRay) -> None:
    driver = RayDriver(program(), threading.Event())
    driver.start()
    controller = ControllerProgramConfig(registry=RegistryTarget(kind="router"), routers=["127.0.0.1:1"])
    _carried_out(driver, RayOrder(controller=controller))
    options = fake.actor_options[-1]
    assert (options["lifetime"], options["max_restarts"], options["num_cpus"]) == ("detached", -1, 0)
    driver.stop()
    assert fake.killed[0] is fake.actors[-1], "first, so that it orders nothing of what is ending"


def test_a_ray_of_our_own_promises_room_for_what_may_be_ordered(fake: FakeRay) -> None:
    RayDriver(program().model_copy(update={"may_scale": True}), threading.Event()).start()
    assert fake.init_options["num_cpus"] == 3 + 1024
