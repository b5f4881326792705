"""Pins what a task asked for, as soon as its KV is there: after the prefill where it is computed, after the hand-over
where it arrives. Engine thread only.
"""

from dataclasses import dataclass, replace

from tandem.core.blocks import AttemptKey
from tandem.core.ids import Tenant
from tandem.core.messages import AttemptFailed, AttemptReleased, HandoverDone, PrefillDone, RequestEvent
from tandem.core.types import GenerationTask
from tandem.engine.kv.block_cache import BlockCache


@dataclass(frozen=True, slots=True)
class _Wanted:
    tenant: Tenant
    token_ids: tuple[int, ...]
    ttl_s: float


class Pins:
    """What the open attempts want pinned."""

    def __init__(self, cache: BlockCache | None) -> None:
        self._cache = cache
        self._wanted: dict[AttemptKey, _Wanted] = {}

    def __len__(self) -> int:
        return len(self._wanted)

    def begun(self, task: GenerationTask) -> None:
        """An attempt was taken."""
        pin = task.pin
        if pin is None or self._cache is None or pin.num_tokens < 1:
            return
        key = AttemptKey(request_id=task.request_id, attempt=task.attempt)
        self._wanted[key] = _Wanted(task.tenant, task.prompt_token_ids[: pin.num_tokens], pin.ttl_s)

    def forget(self, key: AttemptKey) -> None:
        """Nobody waits for this attempt any more."""
        self._wanted.pop(key, None)

    def amend(self, event: RequestEvent) -> RequestEvent:
        """Pin, if this event says that the KV is there; return the event with what is pinned."""
        if not self._wanted or self._cache is None:
            return event
        key = AttemptKey(request_id=event.request_id, attempt=event.attempt)
        if isinstance(event, AttemptReleased) or (isinstance(event, AttemptFailed) and event.child is None):
            self._wanted.pop(key, None)
            return event
        wanted = self._wanted.get(key)
        if wanted is None or not isinstance(event, PrefillDone | HandoverDone):
            return event
        num_tokens = self._cache.keep(wanted.tenant, wanted.token_ids, wanted.ttl_s)
        return replace(event, num_pinned_tokens=num_tokens) if isinstance(event, PrefillDone) else event
