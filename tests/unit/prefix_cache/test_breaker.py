"""The breaker opens after failures in a row, lets one call through at a time, and closes with its success."""

from hypothesis import given
from hypothesis import strategies as st

from tandem.prefix_cache.remote.breaker import Breaker, BreakerPolicy, BreakerState

POLICY = BreakerPolicy(max_failures=3, open_s=5.0)


def opened(now_s: float = 0.0) -> Breaker:
    breaker = Breaker(POLICY)
    for _ in range(3):
        assert breaker.may_call(now_s)
        breaker.failed(now_s)
    return breaker


def test_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(POLICY)
    for _ in range(10):
        for _ in range(2):
            assert breaker.may_call(0.0)
            breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.state(0.0) is BreakerState.CLOSED
    assert opened().state(0.0) is BreakerState.OPEN


def test_nothing_is_called_while_open() -> None:
    breaker = opened()
    assert not any(breaker.may_call(now_s / 10) for now_s in range(50))
    assert breaker.state(5.0) is BreakerState.HALF_OPEN


def test_one_probe_at_a_time() -> None:
    breaker = opened()
    assert breaker.may_call(5.0)
    assert not breaker.may_call(5.0)
    breaker.failed(5.5)
    assert breaker.state(10.0) is BreakerState.OPEN  # five seconds from the failed probe
    assert breaker.may_call(10.5)
    breaker.succeeded()
    assert breaker.state(10.5) is BreakerState.CLOSED
    assert breaker.may_call(10.5)
    assert breaker.num_opened == 1


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.booleans()), max_size=60))
def test_a_healthy_server_is_always_reached_again(calls: list[tuple[float, bool]]) -> None:
    breaker, now_s = Breaker(POLICY), 0.0
    for pause_s, is_good in calls:
        now_s += pause_s
        if breaker.may_call(now_s):
            breaker.succeeded() if is_good else breaker.failed(now_s)
    now_s += POLICY.open_s
    assert breaker.may_call(now_s)
    breaker.succeeded()
    assert breaker.state(now_s) is BreakerState.CLOSED
