"""Bearer keys: making one, and finding out whose a presented one is."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tandem.core.errors import Unauthenticated
from tandem.core.ids import Tenant
from tandem.rpc.config import ApiKey

_PREFIX: Final = "tandem"
_SCHEME: Final = "bearer "
_NOBODY: Final = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKey:
    """A new key: ``text`` is for its owner and is stored nowhere; ``entry`` goes into the configuration."""

    text: str = field(repr=False)
    entry: ApiKey


def issue_key(key_id: str, tenant: Tenant, *, operator: bool = False) -> IssuedKey:
    """Make a key with 256 random bits."""
    text = f"{_PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
    return IssuedKey(text=text, entry=ApiKey(id=key_id, tenant=tenant, sha256=_hash(text), operator=operator))


class KeyRing:
    """The keys a server knows."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._by_id = {key.id: key for key in keys}

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, authorization: str | None) -> ApiKey:
        """Return the key of an ``authorization`` header.

        Raises Unauthenticated when there is none or it is not ours. An unknown id takes as long as a wrong secret.
        """
        if not authorization:
            raise Unauthenticated(
                "this server asks for a key", reason="NO_CREDENTIAL", metadata={"scheme": "Bearer tandem_<id>_<secret>"}
            )
        text = authorization[len(_SCHEME) :] if authorization.lower().startswith(_SCHEME) else ""
        parts = text.split("_", 2)
        entry = self._by_id.get(parts[1]) if len(parts) == 3 and parts[0] == _PREFIX else None
        same = hmac.compare_digest(_hash(text), entry.sha256 if entry is not None else _NOBODY)
        if entry is None or not same:
            raise Unauthenticated("the key is not known here", reason="BAD_CREDENTIAL")
        return entry


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()
