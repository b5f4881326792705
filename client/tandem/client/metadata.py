"""What goes along with every call: the key, the trace it belongs to, and how often it was tried before."""

from tandem.client.settings import Settings
from tandem.rpc.context import ATTEMPT
from tandem.rpc.trace import TRACEPARENT, current_traceparent

Metadata = tuple[tuple[str, str], ...]


def call_metadata(settings: Settings, *, attempt: int = 0) -> Metadata:
    """Return the metadata of one call made now; ``attempt`` counts from 0."""
    pairs = []
    if settings.api_key is not None:
        pairs.append(("authorization", f"Bearer {settings.api_key}"))
    traceparent = current_traceparent()
    if traceparent:
        pairs.append((TRACEPARENT, traceparent))
    if attempt:
        pairs.append((ATTEMPT, str(attempt)))
    return tuple(pairs)
