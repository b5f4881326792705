"""What a handler knows about the call it serves."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from tandem.core.ids import LOCAL_TENANT, RequestId, Tenant, new_request_id

ATTEMPT: Final = "tandem-attempt"
"""Metadata of a call that was tried before: how often."""
_MOST_ATTEMPTS: Final = 1000

current_tenant: ContextVar[Tenant] = ContextVar("tandem_tenant", default=LOCAL_TENANT)
"""Who the authenticated caller of this task is; set by the interceptor before any handler runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """One call, as it was when it arrived.

    ``deadline_left_s`` is a duration from then, a little shorter than the caller's, so that an answer which names the
    stage arrives before the caller's own timer ends the call; None = no deadline.
    """

    method: str
    request_id: RequestId = field(default_factory=new_request_id)
    tenant: Tenant = LOCAL_TENANT
    deadline_left_s: float | None = None
    traceparent: str = ""
    attempt: int = 0  # how often its caller says that it has tried before


def attempt_of(header: str | None) -> int:
    """Read the attempt header; what is no count of attempts is none."""
    if header is None or not header.isascii() or not header.isdigit() or len(header) > len(str(_MOST_ATTEMPTS)):
        return 0
    return min(int(header), _MOST_ATTEMPTS)
