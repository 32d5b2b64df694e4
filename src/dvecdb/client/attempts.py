"""From a call to its result or error: what is tried again, when, and what is known in the end.

Pure: a call is played as a generator that yields `Send` and `Wait` and gets an `Answer`, or has an
`ExchangeError` thrown into it. Whoever plays it moves bytes and time (`connection`, `aio`).

    repeat      nothing was sent         the server refused before doing      it may have been done
    READ        yes                      yes                                  yes
    KEYED       yes                      yes                                  yes, with the same key
    ONCE        yes                      yes                                  no

A write that may have been done is never called refused: only its result, or an answer that proves
that it was not done, ends the doubt. Else the error says so and names the key that settles it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec

from dvecdb.client.exchange import Answer, ExchangeError
from dvecdb.errors import (
    Code,
    ConflictError,
    DvecdbError,
    InvalidRequestError,
    NotFoundError,
    ServerError,
    UnavailableError,
)
from dvecdb.wire.codec import Format
from dvecdb.wire.envelope import ErrorBody, error_from

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from uuid import UUID

ATTEMPTS_MAX: Final = 5
WAIT_SECONDS_FIRST: Final = 0.1
WAIT_SECONDS_MAX: Final = 5.0
RETRY_AFTER_SECONDS_MAX: Final = 30.0

T = TypeVar("T")


class Repeat(Enum):
    """Whether a call may be made again when it may have been done already."""

    READ = "read"
    KEYED = "keyed"
    ONCE = "once"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and how to read its answer.

    path: of the URL, encoded, with its query; headers: values are plain ASCII; parse: from the body
    of an answer with a status below 300; notes: changes that result by the headers of the answer;
    key: the idempotency key in `headers`. Without one a `KEYED` call is given one, if it may be
    repeated at all.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    parse: Callable[[bytes], T]
    repeat: Repeat = Repeat.READ
    key: str | None = None
    notes: Callable[[T, Mapping[str, str]], T] | None = None


@dataclass(frozen=True, slots=True)
class Send:
    """Wanted: the answer to this call. `fresh`: over a connection of its own."""

    call: Call[Any]
    fresh: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """Wanted: this many seconds to pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Terms:
    """What attempts depend on. where: HOST:PORT; new_uuid: for keys, and for jitter."""

    where: str
    attempts_max: int
    new_uuid: Callable[[], UUID]


@dataclass(slots=True)
class _Failure:
    """What one attempt came to. doubt: the call may have been done; again: worth a repetition."""

    error: DvecdbError
    doubt: bool
    again: bool
    retry_after: float = 0.0


def play(call: Call[T], terms: Terms) -> Generator[Send | Wait, Answer | None, T]:
    """Play `call` until it has a result.

    Raises:
        DvecdbError: of the server, or `unreachable`.
    """
    if call.repeat is Repeat.KEYED and call.key is None:
        call = _keyed(call, terms)
    doubtful: DvecdbError | None = None
    attempt = 0
    while True:
        attempt += 1
        try:
            answer = yield Send(call, fresh=call.repeat is Repeat.ONCE)
        except ExchangeError as error:
            failure = _without_answer(call, error, terms)
        else:
            assert answer is not None
            if answer.status < 300:
                return _result(call, answer, terms)
            failure = _refused(call, answer, terms)
        if failure.doubt:
            doubtful = failure.error
        may_repeat = not failure.doubt or call.repeat is not Repeat.ONCE
        if not (failure.again and may_repeat) or attempt >= terms.attempts_max:
            raise _final(call, failure.error, doubtful, attempt)
        yield Wait(_wait_seconds(attempt, failure.retry_after, terms.new_uuid()))


def _keyed(call: Call[T], terms: Terms) -> Call[T]:
    if terms.attempts_max == 1:
        return replace(call, repeat=Repeat.ONCE)
    key = terms.new_uuid().hex
    return replace(call, key=key, headers={**call.headers, "idempotency-key": key})


def _wait_seconds(attempt: int, retry_after: float, draw: UUID) -> float:
    """Return how long to wait after the given attempt: doubling, between half and all of it."""
    fraction = (draw.int & 0xFFFF_FFFF) / 2**32
    seconds = min(WAIT_SECONDS_FIRST * 2.0 ** (attempt - 1), WAIT_SECONDS_MAX)
    return max(seconds * (0.5 + 0.5 * fraction), min(retry_after, RETRY_AFTER_SECONDS_MAX))


def _result(call: Call[T], answer: Answer, terms: Terms) -> T:
    try:
        result = call.parse(answer.body)
        return result if call.notes is None else call.notes(result, answer.headers)
    except (msgspec.MsgspecError, DvecdbError, ValueError, TypeError, KeyError) as error:
        done = "" if call.repeat is Repeat.READ else " The request itself was done."
        raise ServerError(
            Code.SERVER_ERROR,
            f"{terms.where} answered {call.method} {call.path} with {answer.status} and a body "
            f"that is not what this client knows: {error}.{done} Is it dvecdb, of a version that "
            "fits?",
            **_request_id(answer),
        ) from error


def _without_answer(call: Call[Any], error: ExchangeError, terms: Terms) -> _Failure:
    what = "check the address and that the server runs (dvecdb serve)"
    if error.sent:
        what = "the server or a proxy ended it; look into its log"
    return _Failure(
        UnavailableError(Code.UNREACHABLE, f"{terms.where} {error}; {what}", server=terms.where),
        doubt=error.sent and call.repeat is not Repeat.READ,
        again=not error.is_lasting,
    )


def _refused(call: Call[Any], answer: Answer, terms: Terms) -> _Failure:
    error = _rebuild(call, answer, terms)
    if error.code is Code.BODY_TOO_LARGE and call.repeat is not Repeat.READ:
        error = _batch_too_large(call, error)
    is_open = error.code in _OPEN or (answer.status >= 500 and isinstance(error, ServerError))
    again = answer.status == 429 or (
        answer.status in {408, 502, 503, 504} and (error.advice == "retry" or error.code in _AGAIN)
    )
    retry_after = answer.headers.get("retry-after", "")
    return _Failure(
        error,
        doubt=is_open and call.repeat is not Repeat.READ,
        again=again,
        retry_after=float(retry_after) if retry_after.isdecimal() else 0.0,
    )


_OPEN: Final = frozenset({Code.OUTCOME_UNKNOWN, Code.DEADLINE_EXCEEDED, Code.UNREACHABLE})
"""Answers after which a write may have been done."""
_AGAIN: Final = frozenset({Code.OUTCOME_UNKNOWN, Code.HANDLE_CLOSED})
"""Answers that a server about to start again gives, though their advice is another."""


def _batch_too_large(call: Call[Any], error: DvecdbError) -> DvecdbError:
    refused = InvalidRequestError(
        Code.BATCH_TOO_LARGE,
        f"the write has {len(call.body)} bytes and the server does not take that: {error.message}. "
        "A write is atomic, so it is not split for you: write fewer rows at a time",
    )
    refused.details = {**error.details, "bytes": len(call.body)}
    return refused


def _rebuild(call: Call[Any], answer: Answer, terms: Terms) -> DvecdbError:
    """Return the error that the server raised, or what its answer means if it is not dvecdb's."""
    try:
        is_msgpack = answer.headers.get("content-type", "").startswith(Format.MSGPACK)
        codec = msgspec.msgpack if is_msgpack else msgspec.json
        error = error_from(codec.decode(answer.body, type=ErrorBody))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _foreign(call, answer, terms)
    error.details = {**error.details, **_request_id(answer)}
    return error


def _foreign(call: Call[Any], answer: Answer, terms: Terms) -> DvecdbError:
    text = f"{terms.where} answered {call.method} {call.path} with {answer.status}"
    details = {"server": terms.where, "status": answer.status, **_request_id(answer)}
    if answer.status in {429, 502, 503, 504}:
        code = Code.TOO_MANY_REQUESTS if answer.status == 429 else Code.UNREACHABLE
        return UnavailableError(code, f"{text}, and not from dvecdb; try again", **details)
    if 300 <= answer.status < 400:
        to = answer.headers.get("location", "nowhere")
        return InvalidRequestError(
            Code.INVALID_ARGUMENT, f"{text}, to {to:.200}; connect to that URL itself", **details
        )
    if answer.status < 500:
        return NotFoundError(
            Code.UNKNOWN_PATH, f"{text}, and not from dvecdb; is the URL right?", **details
        )
    return ServerError(Code.SERVER_ERROR, f"{text}, and not from dvecdb", **details)


def _request_id(answer: Answer) -> dict[str, object]:
    found = answer.headers.get("x-request-id")
    return {} if found is None else {"request_id": found}


def _final(
    call: Call[Any], error: DvecdbError, doubtful: DvecdbError | None, attempts: int
) -> DvecdbError:
    """Return the error to raise after the last attempt: it says what is known."""
    tried = f" (tried {attempts} times)" if attempts > 1 else ""
    details = dict(error.details)
    if attempts > 1:
        details["attempts"] = attempts
    if doubtful is None or _settles(error):
        final = type(error)(error.code, f"{error.message}{tried}")
        final.details = details
        return final
    later = "" if doubtful is error else f"; after that: {error.message}"
    settle = "look whether it was before doing it again"
    if call.key is not None:
        settle = f"the same call with idempotency_key={call.key!r} settles it"
        details["idempotency_key"] = call.key
    final = type(doubtful)(
        doubtful.code,
        f"{doubtful.message}{later}{tried}. It may or may not have been done: {settle}",
    )
    final.details = {**doubtful.details, **details}
    return final


def _settles(error: DvecdbError) -> bool:
    """Return whether this answer proves that an earlier attempt with the same key did nothing.

    A write with its key is looked up before anything else about the stored state is asked.
    """
    if error.code in {Code.READ_ONLY, Code.COLLECTION_NOT_FOUND, Code.UNKNOWN_PATH}:
        return False
    return isinstance(error, InvalidRequestError | ConflictError | NotFoundError)
