"""What goes along with every call: the key, and the trace it belongs to."""

from tandem.client.settings import Settings
from tandem.rpc.trace import TRACEPARENT, current_traceparent

Metadata = tuple[tuple[str, str], ...]


def call_metadata(settings: Settings) -> Metadata:
    """Return the metadata of one call made now."""
    pairs = []
    if settings.api_key is not None:
        pairs.append(("authorization", f"Bearer {settings.api_key}"))
    traceparent = current_traceparent()
    if traceparent:
        pairs.append((TRACEPARENT, traceparent))
    return tuple(pairs)
