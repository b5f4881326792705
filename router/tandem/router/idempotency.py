"""Calls that must not run twice: a caller's own key for one call, by tenant. Zero I/O.

A key is *running* from the moment its request is taken until it ends; then it is remembered as *answered* if it ended
well, and forgotten if it did not: then the caller may, and should, try again. A second call with a key that runs or was
answered is refused by name. It does not join the first: what the first has sent is not kept, and a caller whose
connection broke has cancelled it, so that its next try runs within moments.

The keys live in this router only. After a restart nothing of the dead router's runs any more, because workers end what
came over its streams; so a repeated call is a first one again.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final

from tandem.core.errors import DuplicateRequest, InvalidArgument
from tandem.core.ids import RequestId, Tenant
from tandem.core.inference import ChatPrompt, GenerateRequest

MAX_KEY_CHARS: Final = 128
_RETRY_AFTER_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One tenant's key, as claimed for one request."""

    tenant: Tenant
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    request_id: RequestId
    fingerprint: bytes
    answered_until_s: float | None  # None = it runs


class IdempotencyKeys:
    """What runs and what was answered. Answered keys are bounded in number and time; running ones by the queue."""

    def __init__(self, *, ttl_s: float, max_answered: int) -> None:
        self._ttl_s = ttl_s
        self._max_answered = max_answered
        self._running: dict[Claim, _Entry] = {}
        self._answered: OrderedDict[Claim, _Entry] = OrderedDict()  # oldest first

    def __len__(self) -> int:
        return len(self._running) + len(self._answered)

    def claim(self, request: GenerateRequest, *, tenant: Tenant, request_id: RequestId, now_s: float) -> Claim | None:
        """Take the request's key; None when it has none.

        Raises DuplicateRequest while the key runs or is remembered, InvalidArgument for a key that can't be one or that
        was used for another request.
        """
        key = request.idempotency_key
        if not key:
            return None
        if len(key) > MAX_KEY_CHARS or not (key.isascii() and key.isprintable()):
            raise InvalidArgument(
                "idempotency_key",
                f"has {len(key)} characters, or some that are not printable ASCII",
                remedy=f"use at most {MAX_KEY_CHARS} printable ASCII characters, different for each call",
            )
        self._forget_old(now_s)
        claim = Claim(tenant=tenant, key=key)
        fingerprint = _fingerprint(request)
        known = self._running.get(claim) or self._answered.get(claim)
        if known is not None:
            raise _refusal(known, fingerprint)
        self._running[claim] = _Entry(request_id=request_id, fingerprint=fingerprint, answered_until_s=None)
        return claim

    def answered(self, claim: Claim, now_s: float) -> None:
        """The request ended well: its key is remembered."""
        entry = self._running.pop(claim, None)
        if entry is None:
            return
        self._answered[claim] = _Entry(
            request_id=entry.request_id, fingerprint=entry.fingerprint, answered_until_s=now_s + self._ttl_s
        )
        while len(self._answered) > self._max_answered:
            self._answered.popitem(last=False)

    def release(self, claim: Claim) -> None:
        """The request is over without an answer: the key may be used again. Without effect once it was answered."""
        self._running.pop(claim, None)

    def _forget_old(self, now_s: float) -> None:
        while self._answered:
            oldest = next(iter(self._answered.values()))
            if oldest.answered_until_s is not None and oldest.answered_until_s > now_s:
                return
            self._answered.popitem(last=False)


def _fingerprint(request: GenerateRequest) -> bytes:
    """A digest of the whole request. Maps are sorted: they come over the wire in any order."""
    maps: list[object] = [sorted(request.sampling.logit_bias.items())]
    plain = replace(request, sampling=replace(request.sampling, logit_bias={}))
    if isinstance(request.prompt, ChatPrompt):
        maps.append(sorted(request.prompt.template_variables.items()))
        plain = replace(plain, prompt=replace(request.prompt, template_variables={}))
    return blake2b(repr((plain, maps)).encode("utf-8", errors="surrogatepass"), digest_size=16).digest()


def _refusal(known: _Entry, fingerprint: bytes) -> DuplicateRequest | InvalidArgument:
    if known.fingerprint != fingerprint:
        return InvalidArgument(
            "idempotency_key", "was used for another request", remedy="use a new key for each different request"
        )
    facts = {"running_request_id" if known.answered_until_s is None else "answered_request_id": known.request_id}
    if known.answered_until_s is None:
        return DuplicateRequest(
            "a request with this idempotency key is running", metadata=facts, retry_after_s=_RETRY_AFTER_S
        )
    return DuplicateRequest(
        "a request with this idempotency key was answered already", reason="ALREADY_ANSWERED", metadata=facts
    )
