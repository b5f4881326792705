"""Tenants' names as keyed hashes: equal names get equal ones, and nobody without the key can try names. Zero I/O."""

from hashlib import blake2b
from secrets import token_bytes

_BYTES = 8
_MOST_KNOWN = 4096
MIN_KEY_BYTES = 16


class Pseudonyms:
    """Hashes with one key; what was hashed lately is remembered."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = blake2b(key).digest() if key else token_bytes(32)
        self._known: dict[str, str] = {}

    def of(self, tenant: str) -> str:
        """The tenant's pseudonym: 16 hexadecimal digits."""
        found = self._known.get(tenant)
        if found is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            digest = blake2b(tenant.encode(errors="surrogatepass"), key=self._key, digest_size=_BYTES)
            found = self._known[tenant] = digest.hexdigest()
        return found
