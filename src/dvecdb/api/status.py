"""From error codes to HTTP statuses: one table, complete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dvecdb.errors import Code

if TYPE_CHECKING:
    from dvecdb.errors import DvecdbError

WRONG_TYPE: Final = 422
"""Of `invalid-body` that is well-formed: a value of the wrong type, a missing field."""

STATUSES: Final[dict[Code, int]] = {
    Code.INVALID_ARGUMENT: 400,
    Code.INVALID_NAME: 400,
    Code.INVALID_ID: 400,
    Code.INVALID_FILTER: 400,
    Code.INVALID_METADATA: 400,
    Code.METADATA_TOO_LARGE: 400,
    Code.WRONG_DIMENSION: 400,
    Code.NOT_FINITE: 400,
    Code.VECTOR_OUT_OF_RANGE: 400,
    Code.DUPLICATE_ID: 400,
    Code.PATH_NOT_ALLOWED: 400,
    Code.AS_OF_UNREADABLE: 400,
    Code.SOURCE_UNCLEAR: 400,
    Code.SOURCE_CONTRADICTS: 400,
    Code.INVALID_JOB: 400,
    Code.SOURCE_REFUSED: 400,
    Code.EMBEDDER_REFUSED: 400,
    Code.INVALID_BODY: 400,
    Code.UNKNOWN_FIELD: 400,
    Code.UNAUTHENTICATED: 401,
    Code.READ_ONLY: 403,
    Code.FORBIDDEN: 403,
    Code.COLLECTION_PROTECTED: 403,
    Code.SOURCE_NOT_ALLOWED: 403,
    Code.COLLECTION_NOT_FOUND: 404,
    Code.COLLECTION_DELETED: 404,
    Code.ID_NOT_FOUND: 404,
    Code.TASK_NOT_FOUND: 404,
    Code.KEY_NOT_FOUND: 404,
    Code.TRASH_ENTRY_NOT_FOUND: 404,
    Code.BACKUP_NOT_FOUND: 404,
    Code.SOURCE_NOT_FOUND: 404,
    Code.NOTHING_RECOVERABLE: 404,
    Code.JOB_NOT_FOUND: 404,
    Code.UNKNOWN_PATH: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.REQUEST_TIMEOUT: 408,
    Code.COLLECTION_EXISTS: 409,
    Code.ID_EXISTS: 409,
    Code.CONDITION_FAILED: 409,
    Code.CONFIRMATION_NEEDED: 409,
    Code.BACKUP_DAMAGED: 409,
    Code.CLOCK_JUMPED: 409,
    Code.SOURCE_IN_USE: 409,
    Code.JOB_RUNNING: 409,
    Code.EMBEDDER_MISMATCH: 409,
    Code.IDEMPOTENCY_KEY_REUSED: 409,
    Code.BATCH_TOO_LARGE: 413,
    Code.BODY_TOO_LARGE: 413,
    Code.UNSUPPORTED_MEDIA_TYPE: 415,
    Code.TOO_MANY_REQUESTS: 429,
    Code.HEADERS_TOO_LARGE: 431,
    Code.SERVER_ERROR: 500,
    Code.INVALID_SETTINGS: 500,  # these three stop a server before it answers anybody
    Code.PORT_IN_USE: 500,
    Code.UNSAFE_ADDRESS: 500,
    Code.EXTRA_MISSING: 501,
    Code.SOURCE_UNREACHABLE: 503,
    Code.EMBEDDER_UNREACHABLE: 503,
    Code.DIRECTORY_IN_USE: 503,
    Code.NOT_A_DATA_DIRECTORY: 503,
    Code.LEGACY_DIRECTORY: 503,
    Code.FORMAT_TOO_NEW: 503,
    Code.DIRECTORY_UNREADABLE: 503,
    Code.OUTCOME_UNKNOWN: 503,
    Code.WRITES_STOPPED: 503,
    Code.FENCED: 503,
    Code.FORKED_HANDLE: 503,
    Code.HANDLE_CLOSED: 503,
    Code.DAMAGED_DATA: 503,
    Code.COLLECTION_DAMAGED: 503,
    Code.DEADLINE_EXCEEDED: 503,
    Code.UNREACHABLE: 503,
    Code.CANCELLED: 503,
    Code.DISK_FULL: 507,
}

APPLICATION_CODES: Final = frozenset(
    code
    for code, status in STATUSES.items()
    if status in {404, 409, 503, 507} or code in {Code.WRONG_DIMENSION, Code.READ_ONLY}
) - {Code.UNKNOWN_PATH, Code.DEADLINE_EXCEEDED, Code.TASK_NOT_FOUND}
"""What the old server answered with status 200: see the setting `legacy_errors`."""


def status_of(error: DvecdbError) -> int:
    """Return the HTTP status of an error."""
    if error.code == Code.INVALID_BODY and "path" in error.details:
        return WRONG_TYPE
    return STATUSES[error.code]
