"""The envelope around answers, and errors as messages: written by the server, read by the client.

    {"success": true, "data": ..., "error": null}                       exactly these three keys
    {"success": false, "data": null, "error": text, "message": text,
     "code": stable code, "advice": what to do, "details": {...}}

The old clients read `error` or `message`; ours rebuild the same exception class from `code`.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from dvecdb.errors import (
    AuthError,
    Code,
    ConflictError,
    DamagedDataError,
    DirectoryError,
    DiskFullError,
    DvecdbError,
    HandleError,
    InvalidRequestError,
    NotFoundError,
    OutcomeUnknownError,
    ServerError,
    UnavailableError,
)
from dvecdb.wire.codec import Format, encode

_OPENING: Final = b'{"success":true,"data":'
_ENDING: Final = b',"error":null}'

ERROR_CLASSES: Final[dict[Code, type[DvecdbError]]] = {
    Code.INVALID_ARGUMENT: InvalidRequestError,
    Code.INVALID_NAME: InvalidRequestError,
    Code.INVALID_ID: InvalidRequestError,
    Code.INVALID_METADATA: InvalidRequestError,
    Code.METADATA_TOO_LARGE: InvalidRequestError,
    Code.WRONG_DIMENSION: InvalidRequestError,
    Code.NOT_FINITE: InvalidRequestError,
    Code.VECTOR_OUT_OF_RANGE: InvalidRequestError,
    Code.DUPLICATE_ID: InvalidRequestError,
    Code.BATCH_TOO_LARGE: InvalidRequestError,
    Code.AS_OF_UNREADABLE: InvalidRequestError,
    Code.READ_ONLY: InvalidRequestError,
    Code.COLLECTION_NOT_FOUND: NotFoundError,
    Code.ID_NOT_FOUND: NotFoundError,
    Code.COLLECTION_EXISTS: ConflictError,
    Code.ID_EXISTS: ConflictError,
    Code.CONDITION_FAILED: ConflictError,
    Code.IDEMPOTENCY_KEY_REUSED: ConflictError,
    Code.DIRECTORY_IN_USE: DirectoryError,
    Code.NOT_A_DATA_DIRECTORY: DirectoryError,
    Code.FORMAT_TOO_NEW: DirectoryError,
    Code.DIRECTORY_UNREADABLE: DirectoryError,
    Code.DISK_FULL: DiskFullError,
    Code.OUTCOME_UNKNOWN: OutcomeUnknownError,
    Code.WRITES_STOPPED: OutcomeUnknownError,
    Code.FENCED: HandleError,
    Code.FORKED_HANDLE: HandleError,
    Code.HANDLE_CLOSED: HandleError,
    Code.COLLECTION_DELETED: HandleError,
    Code.DAMAGED_DATA: DamagedDataError,
    Code.COLLECTION_DAMAGED: DamagedDataError,
    Code.INVALID_BODY: InvalidRequestError,
    Code.UNKNOWN_FIELD: InvalidRequestError,
    Code.UNSUPPORTED_MEDIA_TYPE: InvalidRequestError,
    Code.UNKNOWN_PATH: NotFoundError,
    Code.METHOD_NOT_ALLOWED: InvalidRequestError,
    Code.BODY_TOO_LARGE: InvalidRequestError,
    Code.HEADERS_TOO_LARGE: InvalidRequestError,
    Code.TASK_NOT_FOUND: NotFoundError,
    Code.UNAUTHENTICATED: AuthError,
    Code.FORBIDDEN: AuthError,
    Code.TOO_MANY_REQUESTS: UnavailableError,
    Code.REQUEST_TIMEOUT: UnavailableError,
    Code.DEADLINE_EXCEEDED: UnavailableError,
    Code.UNREACHABLE: UnavailableError,
    Code.SERVER_ERROR: ServerError,
    Code.INVALID_SETTINGS: InvalidRequestError,
    Code.PORT_IN_USE: DirectoryError,
    Code.UNSAFE_ADDRESS: InvalidRequestError,
    Code.KEY_NOT_FOUND: NotFoundError,
    Code.CANCELLED: UnavailableError,
    Code.COLLECTION_PROTECTED: ConflictError,
    Code.CONFIRMATION_NEEDED: ConflictError,
    Code.PATH_NOT_ALLOWED: InvalidRequestError,
    Code.TRASH_ENTRY_NOT_FOUND: NotFoundError,
    Code.BACKUP_NOT_FOUND: NotFoundError,
    Code.BACKUP_DAMAGED: DamagedDataError,
    Code.CLOCK_JUMPED: ConflictError,
    Code.SOURCE_NOT_FOUND: NotFoundError,
    Code.SOURCE_UNCLEAR: InvalidRequestError,
    Code.SOURCE_CONTRADICTS: InvalidRequestError,
    Code.SOURCE_IN_USE: ConflictError,
    Code.SOURCE_NOT_ALLOWED: InvalidRequestError,
    Code.NOTHING_RECOVERABLE: NotFoundError,
    Code.LEGACY_DIRECTORY: DirectoryError,
    Code.INVALID_JOB: InvalidRequestError,
    Code.JOB_RUNNING: ConflictError,
    Code.JOB_NOT_FOUND: NotFoundError,
    Code.SOURCE_UNREACHABLE: UnavailableError,
    Code.SOURCE_REFUSED: InvalidRequestError,
    Code.EMBEDDER_UNREACHABLE: UnavailableError,
    Code.EMBEDDER_REFUSED: InvalidRequestError,
    Code.EMBEDDER_MISMATCH: ConflictError,
    Code.EXTRA_MISSING: InvalidRequestError,
    Code.INVALID_FILTER: InvalidRequestError,
}


class ErrorBody(msgspec.Struct, frozen=True):
    """A failed request. `details` has the facts of the message."""

    error: str
    message: str
    code: str
    advice: str
    details: dict[str, Any]
    success: Literal[False] = False
    data: None = None


class LegacyErrorBody(msgspec.Struct, frozen=True):
    """A failed request as the old server answered it."""

    error: str
    success: Literal[False] = False
    data: None = None


def enveloped(data: object, form: Format) -> bytes:
    """Return the message of a successful answer; `data`: whatever `codec.encode` takes."""
    if form is Format.MSGPACK:
        return encode({"success": True, "data": data, "error": None}, form)
    return b"".join((_OPENING, encode(data, form), _ENDING))


def error_message(error: DvecdbError, form: Format = Format.JSON) -> bytes:
    """Return the message of an error."""
    body = {
        "success": False,
        "data": None,
        "error": error.message,
        "message": error.message,
        "code": str(error.code),
        "advice": error.advice,
        "details": dict(error.details),
    }
    return encode(body, form)


def legacy_error_message(error: DvecdbError, form: Format = Format.JSON) -> bytes:
    """Return the message of an error with the three keys of the old server."""
    return encode({"success": False, "data": None, "error": error.message}, form)


def error_from(body: ErrorBody) -> DvecdbError:
    """Return the error of a message: the class of its code, or of its advice if that is unknown.

    An unknown code, of a newer server, is kept in `details["code"]`.
    """
    details = {name: value for name, value in body.details.items() if name.isidentifier()}
    for name in ("code", "message", "self"):
        details.pop(name, None)
    try:
        code = Code(body.code)
    except ValueError:
        kind = _BY_ADVICE.get(body.advice, ServerError)
        error = kind(Code.SERVER_ERROR, body.message, **details)
        error.details = {**details, "code": body.code}
        return error
    return ERROR_CLASSES[code](code, body.message, **details)


_BY_ADVICE: Final[dict[str, type[DvecdbError]]] = {
    "fix-request": InvalidRequestError,
    "retry": UnavailableError,
    "reopen": HandleError,
    "restore": DamagedDataError,
}
