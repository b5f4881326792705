"""What a handler knows about the call it serves."""

from contextvars import ContextVar
from dataclasses import dataclass, field

from tandem.core.ids import LOCAL_TENANT, RequestId, Tenant, new_request_id

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
