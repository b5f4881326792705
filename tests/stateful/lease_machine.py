"""Hypothesis state machine over the production lease table: any order of starts, renewals, ends and scans.

A scan must return exactly those leases whose time is over, wherever they stand in the table (vLLM #58222: a reaper that
stopped at the first unexpired lease stranded the blocks of all behind it).
"""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tandem.core.blocks import AttemptKey
from tandem.core.ids import RequestId
from tandem.kvtransfer.machine.lease import LeaseDropped, LeaseRenewed, LeaseScan, LeaseStarted, LeaseTable
from tests.stateful.running import require

LEASE_S, RENEWAL_S = 15.0, 10.0
KEYS = tuple(AttemptKey(RequestId(f"{n:032x}"), 0) for n in range(4))
WAITS = st.sampled_from([0.0, 0.5, 2.5, 5.0, 15.0])


class LeaseMachine(RuleBasedStateMachine):
    """Subclasses choose the table: production or a mutant."""

    table_class: type[LeaseTable] = LeaseTable

    def __init__(self) -> None:
        super().__init__()
        self.table = self.table_class(lease_s=LEASE_S, renewal_s=RENEWAL_S)
        self.now_s = 0.0
        self.ends_s: dict[AttemptKey, float] = {}

    @rule(key=st.sampled_from(KEYS), wait_s=WAITS)
    def start(self, key: AttemptKey, wait_s: float) -> None:
        self.now_s += wait_s
        self.table.on_event(self.now_s, LeaseStarted(key))
        self.ends_s.setdefault(key, self.now_s + LEASE_S)

    @rule(key=st.sampled_from(KEYS), wait_s=WAITS)
    def renew(self, key: AttemptKey, wait_s: float) -> None:
        self.now_s += wait_s
        self.table.on_event(self.now_s, LeaseRenewed(key))
        if key in self.ends_s:
            self.ends_s[key] = max(self.ends_s[key], self.now_s + RENEWAL_S)

    @rule(key=st.sampled_from(KEYS))
    def drop(self, key: AttemptKey) -> None:
        self.table.on_event(self.now_s, LeaseDropped(key))
        self.ends_s.pop(key, None)

    @rule(wait_s=WAITS)
    def scan(self, wait_s: float) -> None:
        self.now_s += wait_s
        given = [expired.key for expired in self.table.on_event(self.now_s, LeaseScan())]
        due = {key for key, end_s in self.ends_s.items() if end_s <= self.now_s}
        require(due <= set(given), "an ended lease was left standing")
        require(set(given) <= due, "a lease ended before its time")
        require(len(given) == len(set(given)), "a lease ended twice")
        for key in due:
            del self.ends_s[key]

    @rule(order=st.permutations(KEYS))
    def drive_renewals_out_of_order(self, order: list[AttemptKey]) -> None:
        """All start together and one is renewed late: the order of starts is no order of ends any more."""
        for key in order:
            self.start(key, 0.0)
        self.renew(order[0], LEASE_S - 0.5)
        self.scan(0.5)

    @invariant()
    def it_knows_those_alone_that_run(self) -> None:
        require(len(self.table) == len(self.ends_s), "leases are lost or kept")
