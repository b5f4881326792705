"""What the engine thread has to tell, sorted by the router that asked. Zero I/O.

Only the engine thread touches an outbox; reports leave through each session's thread-safe ``send``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from tandem.core.blocks import AttemptKey
from tandem.core.ids import Epoch
from tandem.core.messages import AttemptFailed, AttemptReleased, RequestEvent, StepReport, WorkerMessage
from tandem.core.types import TokenDelta, WorkerLoad

Send = Callable[[WorkerMessage], None]


@dataclass(slots=True)
class _Pending:
    send: Send
    sequence: int = 0
    tokens: list[TokenDelta] = field(default_factory=list)
    events: list[RequestEvent] = field(default_factory=list)


class Outbox:
    """Collects events and tokens between two flushes and hands one report to each router concerned.

    Guarantees: what concerns one attempt goes to the router that began it, in order; after the attempt's terminal
    event (failed as a whole, or released) the attempt is forgotten, and anything further about it is dropped.
    """

    def __init__(self, epoch: Epoch, *, amend: Callable[[RequestEvent], RequestEvent] = lambda event: event) -> None:
        """``amend`` sees every event first and returns it, or one with more in it."""
        self._epoch = epoch
        self._amend = amend
        self._sessions: dict[str, _Pending] = {}
        self._session_of: dict[AttemptKey, str] = {}

    def open_session(self, session_id: str, send: Send) -> None:
        """Begin to serve a router's stream."""
        self._sessions[session_id] = _Pending(send)

    def close_session(self, session_id: str) -> list[AttemptKey]:
        """Forget a router's stream; return the attempts that it had open, for the caller to abort."""
        self._sessions.pop(session_id, None)
        orphans = [key for key, owner in self._session_of.items() if owner == session_id]
        for key in orphans:
            del self._session_of[key]
        return orphans

    def bind(self, key: AttemptKey, session_id: str) -> bool:
        """Tie an attempt to the router that began it; False when it is known already, or the router is gone."""
        if key in self._session_of or session_id not in self._sessions:
            return False
        self._session_of[key] = session_id
        return True

    @property
    def num_attempts(self) -> int:
        """Attempts that have not ended here."""
        return len(self._session_of)

    def knows(self, key: AttemptKey) -> bool:
        """Tell whether the attempt is open here."""
        return key in self._session_of

    def open_attempts(self) -> tuple[AttemptKey, ...]:
        """Return the attempts that have not ended here, oldest first."""
        return tuple(self._session_of)

    def token(self, delta: TokenDelta) -> None:
        """Queue new output."""
        pending = self._pending(AttemptKey(request_id=delta.request_id, attempt=delta.attempt))
        if pending is not None:
            pending.tokens.append(delta)

    def event(self, event: RequestEvent) -> None:
        """Queue an event; a terminal one unbinds its attempt."""
        event = self._amend(event)
        key = AttemptKey(request_id=event.request_id, attempt=event.attempt)
        pending = self._pending(key)
        if pending is None:
            return
        pending.events.append(event)
        is_failed = isinstance(event, AttemptFailed) and event.child is None and not event.held
        if is_failed or isinstance(event, AttemptReleased):
            del self._session_of[key]

    def flush(self, load: WorkerLoad) -> int:
        """Send one report to each router that has news; return how many were sent."""
        num_sent = 0
        for pending in self._sessions.values():
            if not pending.tokens and not pending.events:
                continue
            pending.sequence += 1
            pending.send(
                StepReport(
                    worker_epoch=self._epoch,
                    sequence=pending.sequence,
                    tokens=tuple(pending.tokens),
                    events=tuple(pending.events),
                    load=load,
                )
            )
            pending.tokens.clear()
            pending.events.clear()
            num_sent += 1
        return num_sent

    def _pending(self, key: AttemptKey) -> _Pending | None:
        session_id = self._session_of.get(key)
        return None if session_id is None else self._sessions.get(session_id)
