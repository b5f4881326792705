"""The one error hierarchy.

::

    TandemError
    ├── RequestError                       the request can't be served as it is: the caller's fault
    │   ├── InvalidArgument                a field has a bad value                        (not retryable)
    │   ├── Unauthenticated                no or a bad credential                         (not retryable)
    │   ├── PermissionDenied               the credential may not do this                 (not retryable)
    │   ├── NotFound                       no such model                                  (not retryable)
    │   ├── DuplicateRequest               its idempotency key runs, or has been answered (retryable while it runs)
    │   └── QuotaExceeded                  the tenant's own limit                         (retry after)
    ├── ServiceError                       our fault or our load
    │   ├── Overloaded                     shed before any work was done                  (retry after)
    │   ├── Unavailable                    no worker, worker lost, router draining        (retryable)
    │   ├── DeadlineExceeded               the caller's deadline passed, at a named stage (not retryable)
    │   ├── Cancelled                      the caller went away or cancelled              (not retryable)
    │   ├── KvIntegrity                    KV did not verify after every retry            (retryable)
    │   ├── FailedPrecondition             versions or layouts do not fit                 (not retryable)
    │   └── InternalError                  a defect                                       (not retryable)
    └── SetupError                         a person starting Tandem must act
        ├── ConfigError                    a line of a file
        ├── ModelError                     a model can't be had or is not supported
        └── EnvironmentProblem             a port in use, a missing package, too little memory

Every error has a stable upper-snake ``reason``. ``retryable`` says whether the same call may succeed later unchanged.
"""

from collections.abc import Mapping


class TandemError(Exception):
    """Base of every error Tandem raises on purpose.

    ``message`` is for people; ``reason`` is for programs and never changes; ``metadata`` holds small named facts
    (never prompts, paths or addresses) that travel in the error details.
    """

    reason: str = "TANDEM_ERROR"
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        if reason is not None:
            self.reason = reason
        self.metadata: dict[str, str] = dict(metadata or {})

    def __str__(self) -> str:
        return self.message


class RequestError(TandemError):
    """The request can't be served as it stands."""


class InvalidArgument(RequestError):
    """A field of the request has a value that can't be served."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, field: str, problem: str, *, remedy: str = "", reason: str | None = None) -> None:
        text = f"{field}: {problem}" + (f"; {remedy}" if remedy else "")
        super().__init__(text, reason=reason, metadata={"field": field})
        self.field = field
        self.problem = problem
        self.remedy = remedy


class Unauthenticated(RequestError):
    """No credential, or one nobody knows."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(RequestError):
    """A known caller asked for something it may not have."""

    reason = "PERMISSION_DENIED"


class NotFound(RequestError):
    """The named thing does not exist."""

    reason = "NOT_FOUND"


class DuplicateRequest(RequestError):
    """A request with this idempotency key runs already, or was answered: it is not run a second time.

    Retryable only while the first one runs, because that one may still be cancelled or fail.
    """

    reason = "DUPLICATE_REQUEST"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata, retry_after_s=retry_after_s)
        self.retryable = retry_after_s is not None


class QuotaExceeded(RequestError):
    """The tenant's own limit is used up; ask again after ``retry_after_s``."""

    reason = "QUOTA_EXCEEDED"
    retryable = True


class ServiceError(TandemError):
    """Not the caller's fault."""


class Overloaded(ServiceError):
    """Shed before any work was done; ask again after ``retry_after_s``."""

    reason = "OVERLOADED"
    retryable = True


class Unavailable(ServiceError):
    """No worker can take the request now, or its worker was lost."""

    reason = "UNAVAILABLE"
    retryable = True


class DeadlineExceeded(ServiceError):
    """The caller's deadline passed; ``stage`` names where the request was."""

    reason = "DEADLINE_EXCEEDED"

    def __init__(self, message: str, *, stage: str) -> None:
        super().__init__(message, metadata={"stage": stage})
        self.stage = stage


class Cancelled(ServiceError):
    """The caller cancelled or went away."""

    reason = "CANCELLED"


class KvIntegrity(ServiceError):
    """The KV cache handed over did not verify, after every retry."""

    reason = "KV_INTEGRITY"
    retryable = True


class FailedPrecondition(ServiceError):
    """Two sides do not fit each other (layout, version, model)."""

    reason = "FAILED_PRECONDITION"


class InternalError(ServiceError):
    """A defect in Tandem; the log has the traceback."""

    reason = "INTERNAL"


class SetupError(TandemError):
    """Somebody starting or configuring Tandem must act; ``remedy`` says what to do."""

    reason = "SETUP"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message + (f"\n  → {remedy}" if remedy else ""))
        self.problem = message
        self.remedy = remedy


class ConfigError(SetupError):
    """A configuration file has a bad line; the message begins with ``file:line:col``."""

    reason = "CONFIG"


class ModelError(SetupError):
    """A model is missing, broken, refused or not supported."""

    reason = "MODEL"


class EnvironmentProblem(SetupError):
    """This machine lacks something: a free port, a package, memory, a device."""

    reason = "ENVIRONMENT"
