"""The decision log of one router: numbers, stamps and keeps what was decided; the file's queue gets a copy.

``note`` is called in the event loop: it makes one struct, appends it, and returns. No I/O, no waiting, no lock.
"""

import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from tandem.core.clock import Clock
from tandem.core.decisions import Decision, DecisionFilter, DecisionPage, Detail
from tandem.core.errors import ConfigError, EnvironmentProblem
from tandem.router.decisions.config import DecisionsSection
from tandem.router.decisions.file import DecisionFile
from tandem.router.decisions.pseudonym import MIN_KEY_BYTES, Pseudonyms
from tandem.router.decisions.ring import DecisionRing, matches

MOST_FOLLOWED = 1000


class DecisionLog:
    """What was decided, by whom, when and why. Not thread-safe: it belongs to the event loop."""

    def __init__(
        self,
        source: str,
        *,
        clock: Clock,
        config: DecisionsSection | None = None,
        pseudonyms: Pseudonyms | None = None,
        file: DecisionFile | None = None,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        """``source`` is this router's name. ``file``, if any, is closed with the log."""
        config = config or DecisionsSection()
        self._config = config
        self._source = source
        self._clock = clock
        self._offset_s = unix_s() - clock.now_s()
        self._ring = DecisionRing(max_records=config.max_records, max_age_s=config.max_age_s)
        self._file = file
        self._sequence = 0
        self.pseudonyms = pseudonyms or Pseudonyms()

    @property
    def last_sequence(self) -> int:
        """Number of the last decision; 0 before the first."""
        return self._sequence

    @property
    def kept(self) -> str:
        """How long decisions are kept, in words."""
        config = self._config
        return f"the last {config.max_records} decisions, none for more than {config.max_age_s / 60:g} min"

    def note(
        self,
        detail: Detail,
        reason: str,
        *,
        request_id: str = "",
        tenant: str = "",
        priority: str = "",
    ) -> None:
        """Keep one decision of this router."""
        self._sequence += 1
        now_unix_s = self._offset_s + self._clock.now_s()
        self._keep(
            Decision(
                sequence=self._sequence,
                unix_s=now_unix_s,
                source=self._source,
                reason=reason,
                detail=detail,
                request_id=request_id,
                tenant_hash=self.pseudonyms.of(tenant) if tenant else "",
                priority=priority,
            ),
            now_unix_s,
        )

    def take(self, source: str, decisions: Sequence[Decision]) -> None:
        """Keep decisions of somebody else, a controller; their times and reasons stay."""
        now_unix_s = self._offset_s + self._clock.now_s()
        for decision in decisions:
            self._sequence += 1
            self._keep(msgspec.structs.replace(decision, sequence=self._sequence, source=source), now_unix_s)

    def page(self, wanted: DecisionFilter) -> DecisionPage:
        """The latest that match."""
        return self._page(self._ring.latest(wanted, tenant_hash=self._hash_of(wanted)))

    def page_after(self, sequence: int, wanted: DecisionFilter) -> DecisionPage:
        """The first thousand that match and were made after number ``sequence``: for who follows."""
        tenant_hash = self._hash_of(wanted)
        found = (one for one in self._ring.after(sequence) if matches(one, wanted, tenant_hash))
        return self._page(tuple(islice(found, MOST_FOLLOWED)))

    def of_request(self, request_id: str) -> DecisionPage:
        """All that is known of a request."""
        return self._page(self._ring.of_request(request_id))

    def close(self) -> None:
        """Write what the file has not got yet; waits for the disk."""
        if self._file is not None:
            self._file.close()

    def _keep(self, decision: Decision, now_unix_s: float) -> None:
        self._ring.add(decision, now_unix_s=now_unix_s)
        if self._file is not None:
            self._file.put(decision)

    def _page(self, decisions: tuple[Decision, ...]) -> DecisionPage:
        return DecisionPage(
            decisions=decisions,
            num_forgotten=self._ring.num_forgotten,
            num_unwritten=0 if self._file is None else self._file.num_dropped,
        )

    def _hash_of(self, wanted: DecisionFilter) -> str:
        return self.pseudonyms.of(wanted.tenant) if wanted.tenant else ""


def open_decision_log(config: DecisionsSection, *, router_id: str, clock: Clock) -> DecisionLog | None:
    """The log of a router as it is configured; None when none is wanted. Raises ConfigError or EnvironmentProblem."""
    if not config.max_records:
        return None
    key = None if config.tenant_key_file is None else _read_key(config.tenant_key_file)
    return DecisionLog(
        router_id, clock=clock, config=config, pseudonyms=Pseudonyms(key), file=_open_file(config, router_id)
    )


def _open_file(config: DecisionsSection, router_id: str) -> DecisionFile | None:
    if config.folder is None:
        return None
    try:
        return DecisionFile(
            config.folder, f"decisions-{router_id}", max_bytes=config.max_file_bytes, max_files=config.max_files
        )
    except OSError as error:
        raise EnvironmentProblem(
            f"decisions can't be written to {config.folder}: {error.strerror}",
            remedy="set router.decisions.folder to a folder that the router may write to, or leave it out",
        ) from error


def _read_key(path: Path) -> bytes:
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise EnvironmentProblem(
            f"the key of tenants' hashes can't be read from {path}: {error.strerror}",
            remedy="make router.decisions.tenant_key_file readable to the router, or leave it out",
        ) from error
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(
            f"{path} holds {len(key)} bytes", remedy=f"put a random secret of at least {MIN_KEY_BYTES} bytes there"
        )
    return key
