"""Every error dvecdb raises: one class per reaction the caller can take.

`DvecdbError.code` is stable and append-only (`Code`): programs match on it, people read the
message. A message says what failed, where, what was expected, what was found and what to do next.

    DvecdbError
    ├── InvalidRequestError   fix-request   the arguments can never work
    ├── NotFoundError         fix-request   the named thing does not exist
    ├── ConflictError         fix-request   the stored state contradicts it; nothing was written
    ├── DirectoryError        fix-request   the data directory cannot be used like this
    ├── DiskFullError         retry         nothing written; works again once space is free
    ├── OutcomeUnknownError   reopen        the write may or may not survive; a key settles it
    ├── HandleError           reopen        this handle lost its right to the directory
    ├── DamagedDataError      restore       stored bytes are damaged and were not served
    ├── AuthError             fix-request   the key is missing, unknown or not allowed to do this
    ├── UnavailableError      retry         the server did not take or did not finish the request
    └── ServerError           report-bug    the server failed in a way that nobody foresaw
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Advice = Literal["fix-request", "retry", "reopen", "restore", "report-bug"]


class Code(StrEnum):
    """Stable error codes. Append only: a code never changes its meaning and never goes away."""

    INVALID_ARGUMENT = "invalid-argument"
    INVALID_NAME = "invalid-name"
    INVALID_ID = "invalid-id"
    INVALID_METADATA = "invalid-metadata"
    METADATA_TOO_LARGE = "metadata-too-large"
    WRONG_DIMENSION = "wrong-dimension"
    NOT_FINITE = "not-finite"
    VECTOR_OUT_OF_RANGE = "vector-out-of-range"
    DUPLICATE_ID = "duplicate-id"
    BATCH_TOO_LARGE = "batch-too-large"
    AS_OF_UNREADABLE = "as-of-unreadable"
    READ_ONLY = "read-only"
    COLLECTION_NOT_FOUND = "collection-not-found"
    ID_NOT_FOUND = "id-not-found"
    COLLECTION_EXISTS = "collection-exists"
    ID_EXISTS = "id-exists"
    CONDITION_FAILED = "condition-failed"
    IDEMPOTENCY_KEY_REUSED = "idempotency-key-reused"
    DIRECTORY_IN_USE = "directory-in-use"
    NOT_A_DATA_DIRECTORY = "not-a-data-directory"
    FORMAT_TOO_NEW = "format-too-new"
    DIRECTORY_UNREADABLE = "directory-unreadable"
    DISK_FULL = "disk-full"
    OUTCOME_UNKNOWN = "outcome-unknown"
    WRITES_STOPPED = "writes-stopped"
    FENCED = "fenced"
    FORKED_HANDLE = "forked-handle"
    HANDLE_CLOSED = "handle-closed"
    COLLECTION_DELETED = "collection-deleted"
    DAMAGED_DATA = "damaged-data"
    COLLECTION_DAMAGED = "collection-damaged"
    INVALID_BODY = "invalid-body"
    UNKNOWN_FIELD = "unknown-field"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    UNKNOWN_PATH = "unknown-path"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    BODY_TOO_LARGE = "body-too-large"
    HEADERS_TOO_LARGE = "headers-too-large"
    TASK_NOT_FOUND = "task-not-found"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    TOO_MANY_REQUESTS = "too-many-requests"
    REQUEST_TIMEOUT = "request-timeout"
    DEADLINE_EXCEEDED = "deadline-exceeded"
    UNREACHABLE = "unreachable"
    SERVER_ERROR = "server-error"
    INVALID_SETTINGS = "invalid-settings"
    PORT_IN_USE = "port-in-use"
    UNSAFE_ADDRESS = "unsafe-address"
    KEY_NOT_FOUND = "key-not-found"
    CANCELLED = "cancelled"
    COLLECTION_PROTECTED = "collection-protected"
    CONFIRMATION_NEEDED = "confirmation-needed"
    PATH_NOT_ALLOWED = "path-not-allowed"
    TRASH_ENTRY_NOT_FOUND = "trash-entry-not-found"
    BACKUP_NOT_FOUND = "backup-not-found"
    BACKUP_DAMAGED = "backup-damaged"
    CLOCK_JUMPED = "clock-jumped"
    SOURCE_NOT_FOUND = "source-not-found"
    SOURCE_UNCLEAR = "source-unclear"
    SOURCE_CONTRADICTS = "source-contradicts"
    SOURCE_IN_USE = "source-in-use"
    SOURCE_NOT_ALLOWED = "source-not-allowed"
    NOTHING_RECOVERABLE = "nothing-recoverable"
    LEGACY_DIRECTORY = "legacy-directory"
    INVALID_JOB = "invalid-job"
    JOB_RUNNING = "job-running"
    JOB_NOT_FOUND = "job-not-found"
    SOURCE_UNREACHABLE = "source-unreachable"
    SOURCE_REFUSED = "source-refused"
    EMBEDDER_UNREACHABLE = "embedder-unreachable"
    EMBEDDER_REFUSED = "embedder-refused"
    EMBEDDER_MISMATCH = "embedder-mismatch"
    EXTRA_MISSING = "extra-missing"
    INVALID_FILTER = "invalid-filter"


class DvecdbError(Exception):
    """Base of every error of this package.

    `details` carries the facts of the message as JSON values, for programs.
    """

    advice: ClassVar[Advice] = "report-bug"

    def __init__(self, code: Code, message: str, **details: object) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details: Mapping[str, object] = details

    def __str__(self) -> str:
        """Return `code: message`, the form shown to people."""
        return f"{self.code}: {self.message}"


class InvalidRequestError(DvecdbError):
    """The arguments can never work. Nothing was written."""

    advice = "fix-request"


class NotFoundError(DvecdbError):
    """The named collection or record does not exist."""

    advice = "fix-request"


class ConflictError(DvecdbError):
    """The stored state contradicts the request. Nothing was written."""

    advice = "fix-request"


class DirectoryError(DvecdbError):
    """The data directory is in use, is not ours, or has a format this version cannot read."""

    advice = "fix-request"


class DiskFullError(DvecdbError):
    """There is no room for this write. Nothing was written; deletes still work."""

    advice = "retry"


class OutcomeUnknownError(DvecdbError):
    """The write reached the disk in an unclear way: it may or may not be there after reopening.

    The same call with the same idempotency key, after reopening, settles it.
    """

    advice = "reopen"


class HandleError(DvecdbError):
    """This handle is closed, fenced off, was forked, or its collection is gone. Open again."""

    advice = "reopen"


class DamagedDataError(DvecdbError):
    """Stored bytes are damaged. They were not served; `details` names what is affected."""

    advice = "restore"


class AuthError(DvecdbError):
    """The API key is missing or unknown, or its scopes do not allow this. Nothing was done."""

    advice = "fix-request"


class UnavailableError(DvecdbError):
    """The server cannot be reached, is busy, or did not finish in time.

    A write may have been done all the same where the code is `deadline-exceeded` or `unreachable`:
    the same call with the same idempotency key settles it.
    """

    advice = "retry"


class ServerError(DvecdbError):
    """The server failed in a way that nobody foresaw; its log knows more under the request id."""

    advice = "report-bug"
