"""The last decisions, by number, by age and by request. Bounded in count and age. Zero I/O."""

from collections import deque
from collections.abc import Iterator
from itertools import islice

from tandem.core.decisions import Decision, DecisionFilter


class DecisionRing:
    """Decisions in the order they were made; the oldest go first."""

    def __init__(self, *, max_records: int, max_age_s: float) -> None:
        self._max_records = max_records
        self._max_age_s = max_age_s
        self._records: deque[Decision] = deque()
        self._by_request: dict[str, list[Decision]] = {}
        self.num_forgotten = 0

    def __len__(self) -> int:
        return len(self._records)

    @property
    def num_requests(self) -> int:
        """Requests that something is known of."""
        return len(self._by_request)

    def add(self, decision: Decision, *, now_unix_s: float) -> None:
        """Take one; its sequence number is the one after the last. Ages are by our clock: others' may be wrong."""
        records = self._records
        records.append(decision)
        if decision.request_id:
            self._by_request.setdefault(decision.request_id, []).append(decision)
        if len(records) > self._max_records:
            self._forget_oldest()
        oldest_s = now_unix_s - self._max_age_s
        while records and records[0].unix_s < oldest_s:
            self._forget_oldest()

    def of_request(self, request_id: str) -> tuple[Decision, ...]:
        """Everything that is still known of a request, in order."""
        return tuple(self._by_request.get(request_id, ()))

    def latest(self, wanted: DecisionFilter, *, tenant_hash: str = "") -> tuple[Decision, ...]:
        """The last ``wanted.limit`` that match, in order; ``tenant_hash`` is that of ``wanted.tenant``."""
        source = self._by_request.get(wanted.request_id, ()) if wanted.request_id else self._records
        found = (record for record in reversed(source) if matches(record, wanted, tenant_hash))
        return tuple(reversed(list(islice(found, wanted.limit))))

    def after(self, sequence: int) -> Iterator[Decision]:
        """Those with a higher number, in order."""
        return reversed(list(_until(self._records, sequence)))

    def _forget_oldest(self) -> None:
        gone = self._records.popleft()
        self.num_forgotten += 1
        if gone.request_id:
            known = self._by_request[gone.request_id]
            del known[0]
            if not known:
                del self._by_request[gone.request_id]


def matches(record: Decision, wanted: DecisionFilter, tenant_hash: str) -> bool:
    """Whether ``record`` is wanted."""
    return (
        (not wanted.kinds or record.kind in wanted.kinds)
        and (not wanted.request_id or record.request_id == wanted.request_id)
        and (not wanted.tenant or record.tenant_hash in (wanted.tenant, tenant_hash))
        and (wanted.since_unix_s is None or record.unix_s >= wanted.since_unix_s)
    )


def _until(records: deque[Decision], sequence: int) -> Iterator[Decision]:
    for record in reversed(records):
        if record.sequence <= sequence:
            return
        yield record
