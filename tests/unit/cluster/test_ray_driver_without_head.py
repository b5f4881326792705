"""Ray's driver while Ray's head is away: it watches and drains workers, and what needs the head waits for it."""

import threading
from collections.abc import Callable

import pytest
import ray
import structlog
from ray.exceptions import ActorUnschedulableError

from tandem.cluster.programs.config import RayOrder
from tandem.cluster.runtime import ray_driver, ray_head_calls
from tandem.cluster.runtime.ray_driver import RayDriver
from tests.fakes.plain_ray import CONTROLLER, READY, Actor, FakeRay, carried_out, extra, program


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    return FakeRay(monkeypatch)


def _driver_without_head(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> RayDriver:
    monkeypatch.setattr(ray_driver, "_HEAD_S", 0.05)
    driver = RayDriver(program(address="auto"), threading.Event())
    driver.start()
    fake.head_is_there.clear()
    return driver


def test_while_the_head_is_away_workers_are_watched_and_orders_wait(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = _driver_without_head(fake, monkeypatch)
    driver.order(RayOrder(add=extra()).model_dump_json())
    driver.order(RayOrder(remove="decode-0").model_dump_json())
    for _ in range(5):
        driver._poll()
    assert fake.actors[1].stopped == [(2.0,)], "a drain needs the worker alone"
    assert len(fake.actors) == 2
    assert '"event": "worker_ended"' in capsys.readouterr().out
    fake.head_is_there.set()
    assert driver._head.finish(5.0)
    driver._poll()
    assert '"worker": "decode-9", "pid"' in capsys.readouterr().out
    assert fake.killed == [fake.actors[1]]


def test_a_worker_that_is_removed_and_added_again_before_ray_made_it_is_made_once(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The follower of orders gives one up that is late, and orders it again; Ray's head was away for both."""
    driver = _driver_without_head(fake, monkeypatch)
    for order in (RayOrder(add=extra()), RayOrder(remove="decode-9"), RayOrder(add=extra())):
        driver.order(order.model_dump_json())
    driver._poll()
    assert capsys.readouterr().out.count('"event": "worker_ended"') == 1
    fake.head_is_there.set()
    assert driver._head.finish(5.0)
    driver._poll()
    assert len(fake.actors) == 3
    names = [options["name"] for options in fake.actor_options]
    assert len({*names, *fake.group_names}) == len(names) + len(fake.group_names), "no name is used twice"


def test_a_worker_that_was_removed_while_ray_made_it_is_ended(fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = _driver_without_head(fake, monkeypatch)
    driver._has_asked = True
    driver.order(RayOrder(add=extra()).model_dump_json())
    driver._poll()
    (addition,) = driver._adding
    driver._head.do("let the addition begin", lambda: None)
    fake.head_is_there.set()
    assert driver._head.finish(5.0)
    assert addition.made is not None
    driver.order(RayOrder(remove="decode-9").model_dump_json())
    driver._follow(RayOrder.model_validate_json(driver._orders.get()))  # before the driver took over what was made
    driver._poll()
    assert driver._head.finish(5.0)
    assert fake.killed == [fake.actors[-1]]
    assert fake.num_groups_removed == 1
    assert [worker.name for worker in driver._workers] == ["prefill-0", "decode-0"]


def test_an_end_while_the_head_is_away_drains_and_leaves_the_rest_to_ray(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = _driver_without_head(fake, monkeypatch)
    driver.order(RayOrder(add=extra()).model_dump_json())
    driver._poll()
    with structlog.testing.capture_logs() as logs:
        driver.stop()
    assert [actor.stopped for actor in fake.actors] == [[(2.0,)], [(2.0,)]]
    assert [line["event"] for line in logs] == ["ray_head_away"]
    assert fake.is_up, "leaving Ray would wait for the head"
    fake.head_is_there.set()
    assert driver._head.finish(5.0), "the thread of these calls would meet the next test's Ray"


def test_a_group_of_a_worker_that_ray_refuses_is_given_back_and_the_order_told_to_have_failed(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = RayDriver(program(address="auto"), threading.Event())
    driver.start()

    def refuse(*_: object) -> None:
        raise ValueError("no such thing\nmore")

    monkeypatch.setattr(driver, "_make_actor", refuse)
    carried_out(driver, RayOrder(add=extra()))
    out = capsys.readouterr().out
    assert '"event": "worker_failed"' in out
    assert "Ray can't make it: no such thing" in out
    assert fake.num_groups_removed == 1
    assert driver._adding == []


def test_the_autoscaler_is_asked_for_nothing_any_more_at_the_end(fake: FakeRay) -> None:
    driver = RayDriver(program(address="auto"), threading.Event())
    driver.start()
    carried_out(driver, RayOrder(add=extra()))
    driver.stop()
    assert fake.requested[-1] == []


def test_an_actor_that_ray_can_not_place_is_no_end_of_the_driver(
    fake: FakeRay, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = RayDriver(program(), threading.Event())
    fake.answers = {"decode-0": [READY, ActorUnschedulableError("its bundle is gone"), READY]}
    driver.start()
    for _ in range(4):
        driver._poll()
    assert '"detail": "restarting"' in capsys.readouterr().out


def test_the_controller_is_made_once_however_often_it_is_looked_for_while_the_head_is_away(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = _driver_without_head(fake, monkeypatch)
    monkeypatch.setattr(ray, "get_actor", _named_when(fake))
    driver.order(RayOrder(controller=CONTROLLER).model_dump_json())
    for _ in range(5):
        driver._poll()
    fake.head_is_there.set()
    for _ in range(3):
        assert driver._head.finish(5.0)
        driver._poll()
    assert len(fake.actors) == 3
    assert fake.killed == []


def _named_when(fake: FakeRay) -> Callable[[str], Actor]:
    def named(name: str) -> Actor:
        fake.need_head()
        if len(fake.actors) > 2:
            return fake.actors[-1]
        raise ValueError(name)

    return named


def test_the_controller_is_made_once_when_the_first_try_fails_and_it_is_looked_for_before_the_second(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_head_calls, "_PAUSE_S", 0.1)
    driver = RayDriver(program(address="auto"), threading.Event())
    driver.start()
    named = _named_when(fake)
    tries: list[str] = []

    def fail_once(name: str) -> Actor:
        tries.append(name)
        if len(tries) == 1:
            raise RuntimeError("no head")
        return named(name)

    monkeypatch.setattr(ray, "get_actor", fail_once)
    driver.order(RayOrder(controller=CONTROLLER).model_dump_json())
    driver._poll()
    while not tries:
        driver._poll()
    for _ in range(5):
        driver._poll()
    for _ in range(3):
        assert driver._head.finish(5.0)
        driver._poll()
    assert len(fake.actors) == 3
    assert fake.killed == []
