"""Ray's driver against a Ray that is made of plain Python: what it asks for, what it makes of the answers."""

import threading
from typing import Any

import pytest
import ray
import ray.autoscaler.sdk
import structlog
from ray.exceptions import GetTimeoutError, RayActorError

from tandem.cluster.programs.config import (
    RayOrder,
)
from tandem.cluster.runtime import ray_controller_host
from tandem.cluster.runtime.ray_driver import RayDriver, Stopped
from tandem.core.errors import EnvironmentProblem, ModelError
from tests.fakes.plain_ray import CONTROLLER, LOADING, READY, Actor, FakeRay, Late, carried_out, extra, kind_of, program


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    return FakeRay(monkeypatch)


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
        assert kind_of(options["name"]) == name
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


def test_a_worker_that_is_ordered_gets_a_group_of_its_own_and_gives_it_back(
    fake: FakeRay, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = RayDriver(program(address="auto"), threading.Event())
    driver.start()
    carried_out(driver, RayOrder(add=extra()), RayOrder(add=extra()))
    assert len(fake.actors) == 3, "the same order twice is one worker"
    assert fake.bundles == [{"CPU": 1.5, "GPU": 0.5}]
    assert fake.requested == [[{"CPU": 1.5, "GPU": 0.5}] * 3], "the autoscaler is asked for all of them"
    assert fake.actor_options[-1]["scheduling_strategy"].placement_group_bundle_index == 0
    assert '"worker": "decode-9", "pid"' in capsys.readouterr().out
    carried_out(driver, RayOrder(remove="decode-9"), RayOrder(remove="decode-9"))
    assert fake.killed == [fake.actors[-1]]
    assert fake.num_groups_removed == 1
    assert fake.requested[-1] == [{"CPU": 1.5, "GPU": 0.5}] * 2
    assert capsys.readouterr().out.count('"event": "worker_ended"') == 1


def test_a_worker_of_the_plan_that_is_removed_leaves_the_others_their_group(fake: FakeRay) -> None:
    driver = RayDriver(program(), threading.Event())
    driver.start()
    carried_out(driver, RayOrder(remove="prefill-0"))
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
    carried_out(driver, RayOrder(add=extra()))
    out = capsys.readouterr().out
    assert '"event": "worker_failed"' in out
    assert '"problem": "no weights"' in out
    assert fake.num_groups_removed == 1


def test_the_controller_is_a_detached_actor_that_ends_with_the_cluster(fake: FakeRay) -> None:
    driver = RayDriver(program(), threading.Event())
    driver.start()
    carried_out(driver, RayOrder(controller=CONTROLLER))
    options = fake.actor_options[-1]
    assert (options["lifetime"], options["max_restarts"], options["num_cpus"]) == ("detached", -1, 0)
    assert (options["scheduling_strategy"].node_id, options["scheduling_strategy"].soft) == ("ab" * 28, True)
    driver.stop()
    assert fake.actors[-1].stopped == [(5.0,)]
    assert fake.killed[0] is fake.actors[-1], "first, so that it orders nothing of what is ending"


def test_the_controller_is_placed_by_a_resource_that_a_ray_of_our_own_offers(fake: FakeRay) -> None:
    driver = RayDriver(program().model_copy(update={"own_resources": {"here": 1.0}}), threading.Event())
    driver.start()
    assert fake.init_options["resources"] == {"here": 1.0}
    carried_out(driver, RayOrder(controller=CONTROLLER.model_copy(update={"ray_resource": "here"})))
    assert fake.actor_options[-1]["resources"].keys() == {"here"}
    assert "scheduling_strategy" not in fake.actor_options[-1]


def test_the_controller_of_a_driver_that_was_killed_is_replaced(fake: FakeRay) -> None:
    """Its name is taken until Ray has ended it; a second one of the same name would be an error."""
    driver = RayDriver(program(address="auto"), threading.Event())
    driver.start()
    old = Actor([READY])
    fake.predecessors = [old, old]
    carried_out(driver, RayOrder(controller=CONTROLLER))
    assert fake.killed == [old, old]
    assert len(fake.actors) == 3, "two workers, and then one controller"


def test_a_controller_that_is_not_well_is_told_of_once(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_controller_host, "_PING_S", 0.0)
    fake.answers["tandem-controller"] = [
        {"failure": "policy.yaml: no"},
        {"failure": "policy.yaml: no"},
        RayActorError(),
        GetTimeoutError(),
        {"failure": ""},
    ]
    driver = RayDriver(program(), threading.Event())
    driver.start()
    with structlog.testing.capture_logs() as logs:
        driver.order(RayOrder(controller=CONTROLLER).model_dump_json())
        for _ in range(9):
            driver._poll()
            assert driver._head.finish(5.0)
    told = [line["problem"] for line in logs if line["event"] == "controller_not_well"]
    assert [words.split()[0] for words in told] == ["policy.yaml:", "its", "no"]


def test_a_ray_of_our_own_promises_room_for_what_may_be_ordered(fake: FakeRay) -> None:
    RayDriver(program().model_copy(update={"may_scale": True}), threading.Event()).start()
    assert fake.init_options["num_cpus"] == 3 + 1024
