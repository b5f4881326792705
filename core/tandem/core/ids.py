"""Identifiers. All of them are made by the server; what a client sends as an id is a label, never one of these."""

import secrets
from typing import NewType

RequestId = NewType("RequestId", str)
"""128 random bits as 32 hexadecimal digits, made by the router."""

WorkerId = NewType("WorkerId", str)
"""Name of a worker's slot in its pool, e.g. ``decode-0``; survives restarts, unlike the epoch."""

Epoch = NewType("Epoch", int)
"""63 random bits drawn once per worker process; tells one life of a worker from the next."""

Tenant = NewType("Tenant", str)
"""Name of an authenticated customer, from the credential alone; ``local`` when no keys are configured."""

LOCAL_TENANT = Tenant("local")


def new_request_id() -> RequestId:
    """Return a fresh request id that nobody can guess."""
    return RequestId(secrets.token_hex(16))


def new_epoch() -> Epoch:
    """Return a fresh epoch; 63 bits, so that it fits a signed 64-bit field everywhere."""
    return Epoch(secrets.randbits(63))
