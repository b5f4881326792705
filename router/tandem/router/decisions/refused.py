"""What becomes known of a request that failed before it could be admitted: an invalid one, a late one, a repeated one.

Only the error's fixed reason is kept: its words may quote the request.
"""

from tandem.core.decisions import Admission
from tandem.core.errors import TandemError
from tandem.core.types import PriorityClass
from tandem.router.decisions.log import DecisionLog
from tandem.rpc.context import CallContext


def note_refusal(log: DecisionLog | None, call: CallContext, priority: PriorityClass, error: TandemError) -> None:
    """Keep that the request was refused, unless the log knows it: then it says more."""
    if log is None or log.of_request(call.request_id).decisions:
        return
    detail = Admission(taken=False, cause=error.reason.lower(), client_attempt=call.attempt)
    log.note(
        detail,
        "it was refused before it was queued",
        request_id=call.request_id,
        tenant=call.tenant,
        priority=priority.value,
    )
