"""Calls that must not run twice: a caller's own key for one call, by tenant. Zero I/O.

A key is *running* from the moment its request is taken until it ends; then it is remembered as *answered* if it ended
well, and forgotten if it did not: then the caller may, and should, try again. A second call with a key that runs or was
answered is refused by name. It does not join the first: what the first has sent is not kept, and a caller whose
connection broke has cancelled it, so that its next try runs within moments.

Memory is shared out fairly. A tenant that has as many answered keys as it may loses its own oldest; when all are full,
the tenant with the most does. So no tenant pushes out another's keys while that one has no more than its even share. A
key that was pushed out is as good as new: a repeat of that call runs, as it would after ``ttl_s``.

The keys live in this router only. After a restart nothing of the dead router's runs any more, because workers end what
came over its streams; so a repeated call is a first one again.
"""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from tandem.core.errors import DuplicateRequest, InvalidArgument
from tandem.core.ids import RequestId, Tenant
from tandem.core.inference import ChatPrompt, GenerateRequest, TextPrompt, TokenPrompt

MAX_KEY_CHARS: Final = 128
_RETRY_AFTER_S: Final = 0.5
_NO_PROMPT: Final = TokenPrompt(token_ids=())


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

    def __init__(self, *, ttl_s: float, max_answered: int, max_per_tenant: int) -> None:
        self._ttl_s = ttl_s
        self._max_answered = max_answered
        self._max_per_tenant = min(max_per_tenant, max_answered)
        self._running: dict[Claim, _Entry] = {}
        self._answered: dict[Tenant, OrderedDict[str, _Entry]] = {}  # no tenant without keys; a tenant's oldest first
        self._num_answered = 0

    def __len__(self) -> int:
        return len(self._running) + self._num_answered

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
        self._forget_old(tenant, now_s)
        claim = Claim(tenant=tenant, key=key)
        fingerprint = _fingerprint(request)
        known = self._running.get(claim)
        if known is None and tenant in self._answered:
            known = self._answered[tenant].get(key)
        if known is not None:
            raise _refusal(known, fingerprint)
        self._running[claim] = _Entry(request_id=request_id, fingerprint=fingerprint, answered_until_s=None)
        return claim

    def answered(self, claim: Claim, now_s: float) -> None:
        """The request ended well: its key is remembered."""
        entry = self._running.pop(claim, None)
        if entry is None:
            return
        own = self._answered.setdefault(claim.tenant, OrderedDict())
        own[claim.key] = replace(entry, answered_until_s=now_s + self._ttl_s)
        self._num_answered += 1
        if len(own) > self._max_per_tenant:
            self._forget_oldest(claim.tenant)
        if self._num_answered > self._max_answered:
            for tenant in list(self._answered):
                self._forget_old(tenant, now_s)
        while self._num_answered > self._max_answered:
            self._forget_oldest(max(self._answered, key=lambda t: (len(self._answered[t]), t == claim.tenant)))

    def release(self, claim: Claim) -> None:
        """The request is over without an answer: the key may be used again. Without effect once it was answered."""
        self._running.pop(claim, None)

    def _forget_old(self, tenant: Tenant, now_s: float) -> None:
        while tenant in self._answered:
            oldest = next(iter(self._answered[tenant].values()))
            if oldest.answered_until_s is not None and oldest.answered_until_s > now_s:
                return
            self._forget_oldest(tenant)

    def _forget_oldest(self, tenant: Tenant) -> None:
        own = self._answered[tenant]
        own.popitem(last=False)
        self._num_answered -= 1
        if not own:
            del self._answered[tenant]


def _fingerprint(request: GenerateRequest) -> bytes:
    """A digest of the whole request. It is made on the event loop, so what may be long is hashed as bytes, unprinted.

    Maps are sorted: they come over the wire in any order. Each long part is preceded by its length, so that no two
    requests give the same bytes.
    """
    digest = sha256()
    maps: list[object] = [sorted(request.sampling.logit_bias.items())]
    match request.prompt:
        case TokenPrompt():
            kind = "tokens"
            _add(digest.update, _bytes_of(request.prompt.token_ids))
        case TextPrompt():
            kind = "text"
            _add(digest.update, request.prompt.text.encode("utf-8", errors="surrogatepass"))
        case ChatPrompt():
            kind = f"chat {request.prompt.add_generation_prompt}"
            for message in request.prompt.messages:
                _add(digest.update, message.role.encode("utf-8", errors="surrogatepass"))
                _add(digest.update, message.content.encode("utf-8", errors="surrogatepass"))
            maps.append(sorted(request.prompt.template_variables.items()))
    plain = replace(request, prompt=_NO_PROMPT, sampling=replace(request.sampling, logit_bias={}))
    _add(digest.update, repr((kind, plain, maps)).encode("utf-8", errors="surrogatepass"))
    return digest.digest()


def _bytes_of(token_ids: Sequence[int]) -> bytes:
    try:
        return array("I", token_ids).tobytes()
    except OverflowError:  # what is no token of any model is refused later, by name
        return repr(token_ids).encode()


def _add(update: Callable[[bytes], None], part: bytes) -> None:
    update(len(part).to_bytes(8, "little"))
    update(part)


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
