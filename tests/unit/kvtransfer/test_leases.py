"""The lease table and the idle timer, on virtual time."""

from hypothesis import given
from hypothesis import strategies as st

from tandem.core.blocks import AttemptKey
from tandem.core.ids import RequestId
from tandem.kvtransfer.machine.lease import (
    LeaseDropped,
    LeaseExpired,
    LeaseRenewed,
    LeaseScan,
    LeaseStarted,
    LeaseTable,
)
from tandem.kvtransfer.timing import IdleTimer

KEY = AttemptKey(RequestId("a" * 32), 0)


def test_scan_looks_at_every_lease() -> None:
    """Like vllm #58222: a renewed lease in front must not hide expired ones behind it."""
    table = LeaseTable()
    keys = [AttemptKey(RequestId(f"{n:032x}"), 0) for n in range(3)]
    for key in keys:
        table.on_event(0.0, LeaseStarted(key))
    table.on_event(14.0, LeaseRenewed(keys[0]))
    assert table.on_event(14.9, LeaseScan()) == []
    assert table.on_event(15.0, LeaseScan()) == [LeaseExpired(keys[1]), LeaseExpired(keys[2])]
    assert table.on_event(24.0, LeaseScan()) == [LeaseExpired(keys[0])]
    assert len(table) == 0


def test_renewal_neither_shortens_nor_revives() -> None:
    table = LeaseTable()
    table.on_event(0.0, LeaseStarted(KEY))
    table.on_event(1.0, LeaseRenewed(KEY))  # to 11 s would be shorter
    assert table.on_event(14.0, LeaseScan()) == []
    table.on_event(14.0, LeaseDropped(KEY))
    table.on_event(14.0, LeaseRenewed(KEY))
    assert len(table) == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["start", "renew", "drop", "scan"]), st.floats(0, 5))))
def test_leases_against_the_obvious_model(steps: list[tuple[int, str, float]]) -> None:
    table, model, now_s = LeaseTable(), dict[int, float](), 0.0
    keys = [AttemptKey(RequestId(f"{n:032x}"), 0) for n in range(4)]
    for index, kind, wait_s in steps:
        now_s += wait_s
        if kind == "start":
            table.on_event(now_s, LeaseStarted(keys[index]))
            model.setdefault(index, now_s + 15.0)
        elif kind == "renew":
            table.on_event(now_s, LeaseRenewed(keys[index]))
            if index in model:
                model[index] = max(model[index], now_s + 10.0)
        elif kind == "drop":
            table.on_event(now_s, LeaseDropped(keys[index]))
            model.pop(index, None)
        else:
            expired = {expired.key for expired in table.on_event(now_s, LeaseScan())}
            assert expired == {keys[i] for i, end_s in model.items() if end_s <= now_s}
            model = {i: end_s for i, end_s in model.items() if end_s > now_s}
        assert len(table) == len(model)


def test_idle_timer_adapts_to_slow_steps() -> None:
    timer = IdleTimer(0.0)
    assert not timer.expired(5.9)  # a stall that the router would not notice ends nothing here either
    assert timer.expired(6.1)
    timer.progress(1.0)  # one step of a second: 8 s are normal now
    assert not timer.expired(8.9)
    assert timer.expired(9.1)
    timer.rest(100.0)
    assert timer.limit_s == 8.0
