"""Calls to Ray's head: in order, tried again, given up at last, and never in the way of whoever asked for them."""

import threading

import pytest
import structlog

from tandem.cluster.runtime import ray_head_calls
from tandem.cluster.runtime.ray_head_calls import HeadCalls


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_head_calls, "_PAUSE_S", 0.0)


def test_calls_are_made_in_order_and_whoever_asks_does_not_wait() -> None:
    made: list[int] = []
    gate = threading.Event()
    calls = HeadCalls()
    calls.do("wait", lambda: made.append(int(gate.wait(5.0))))
    calls.do("next", lambda: made.append(2))
    assert not calls.finish(0.02)
    assert made == []
    gate.set()
    assert calls.finish(5.0)
    assert made == [1, 2]


def test_nothing_to_make_is_finished() -> None:
    assert HeadCalls().finish(0.0)


def test_what_fails_is_tried_again_and_told_of() -> None:
    tries: list[int] = []

    def fail_twice() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("no head\nmany lines")

    calls = HeadCalls()
    with structlog.testing.capture_logs() as logs:
        calls.do("try", fail_twice)
        assert calls.finish(5.0)
    assert len(tries) == 3
    assert [(line["what"], line["number"], line["problem"]) for line in logs] == [
        ("try", 1, "no head"),
        ("try", 2, "no head"),
    ]


def test_what_always_fails_is_given_up_and_does_not_hold_up_the_next() -> None:
    tries: list[int] = []
    made: list[int] = []

    def fail() -> None:
        tries.append(1)
        raise ValueError

    calls = HeadCalls()
    with structlog.testing.capture_logs():
        calls.do("fail", fail)
        calls.do("next", lambda: made.append(1))
        assert calls.finish(5.0)
    assert len(tries) == 10
    assert made == [1]
