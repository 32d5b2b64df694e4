"""What an HTTP answer without vectors means: from its status, headers and words to a reason. Pure.

A service that says no in its own words is quoted, without the secrets that were sent to it.
"""

from __future__ import annotations

import math
import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from dvecdb.clock import NANOSECONDS_PER_SECOND, from_datetime
from dvecdb.embedding.model import EmbedError, Reason
from dvecdb.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

QUOTED_MAX: Final = 300
_ALWAYS: Final = frozenset({401, 402, 403, 404, 405, 407, 410})
_LATER: Final = frozenset({408, 409, 425})
_TOO_MUCH: Final = re.compile(
    r"too[ _](many|long|large|big)|maximum|\bmax\b|max_|at most|exceed|token limit|batch size"
    r"|context[_ ]length|reduce (the|your)",
    re.IGNORECASE,
)
_NO_MONEY: Final = re.compile(r"insufficient_quota|billing_hard_limit", re.IGNORECASE)
_KEY: Final = re.compile(r"\b(sk|pk|key)-[\w*-]{6,}|\bBearer\s+\S+", re.IGNORECASE)


def refusal(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    where: str,
    hide: Callable[[str], str],
    wall_ns: int,
) -> EmbedError:
    """Return what a status that is not 2xx means.

    headers: by lower-case name; body: its beginning; where: of the URL, without secrets; hide:
    takes them out of what the service says; wall_ns: now, for a `Retry-After` that is a date.
    """
    said = complaint(body)
    reason = _reason(status, said)
    quoted = _KEY.sub("***", hide(said))[:QUOTED_MAX]
    message = f"{where} answered {status}" + (f": {quoted}" if quoted else "")
    if 300 <= status < 400:
        to = _KEY.sub("***", hide(headers.get("location", "nowhere"))).partition("?")[0]
        message += f", elsewhere: {to:.200}; give the URL itself"
    elif reason is Reason.FORBIDDEN:
        message += f"; {_advice(status)}"
    return EmbedError(reason, message, retry_after_seconds=retry_after(headers, wall_ns))


def _reason(status: int, said: str) -> Reason:
    if status in _ALWAYS or 300 <= status < 400:
        return Reason.FORBIDDEN
    if status == 429:
        return Reason.FORBIDDEN if _NO_MONEY.search(said) else Reason.RATE_LIMITED
    if status == 413:
        return Reason.TOO_LARGE
    if status in {400, 422} and _TOO_MUCH.search(said):
        return Reason.TOO_LARGE
    if 400 <= status < 500 and status not in _LATER:
        return Reason.REFUSED
    return Reason.OVERLOADED


def _advice(status: int) -> str:
    if status in {401, 403}:
        return "check the key (api_key_env) and what it is allowed to do"
    if status in {402, 429}:
        return "the account has nothing left to pay with"
    if status == 407:
        return "the proxy wants a user and a password"
    return "check the URL and the path of the embedder"


def complaint(body: bytes) -> str:
    """Return what an error answer says to people, on one line: its message, or its beginning.

    Texts that were sent and are repeated in it are left out where its form is known.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        value = re.sub(r"<[^>]*>", " ", body[:2_000].decode("utf-8", "replace"))
    return " ".join("; ".join(_sentences(value)).split())[:2_000]


def _sentences(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [said for one in value[:5] for said in _sentences(one)]
    if isinstance(value, dict):
        names = ("message", "msg", "detail", "error", "errors", "code", "type", "error_type")
        found = [said for name in names for said in _sentences(value.get(name))]
        return list(dict.fromkeys(found))
    return []


def retry_after(headers: Mapping[str, str], wall_ns: int) -> float | None:
    """Return the seconds after which the service wants to be asked again, None if it names none.

    A date counts from the date of the answer, so that a clock that is wrong does not matter.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1_000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    until = _moment(text)
    if until is None:
        return None
    now = _moment(headers.get("date", ""))
    return max((until - (wall_ns if now is None else now)) / NANOSECONDS_PER_SECOND, 0.0)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return max(number, 0.0) if math.isfinite(number) else None


def _moment(text: str) -> int | None:
    try:
        return from_datetime(parsedate_to_datetime(text))
    except (ValueError, TypeError, OverflowError, InvalidRequestError):
        return None
