"""From a method and a raw path to an endpoint. Pure.

The path is taken apart before it is decoded, and each part is decoded once: a `%2F` inside a name
is part of the name and never separates anything. A literal part goes before a parameter, if it
knows the method: `POST .../vectors/batch` is a batch and `GET .../vectors/batch` is a record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from dvecdb.errors import Code, InvalidRequestError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dvecdb.api.endpoints import Endpoint


class Routes:
    """The endpoints by the number of parts of their paths."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._by_length: dict[int, list[Endpoint]] = {}
        for endpoint in endpoints:
            self._by_length.setdefault(len(endpoint.segments), []).append(endpoint)
        for rows in self._by_length.values():
            rows.sort(key=lambda row: [part.startswith("{") for part in row.segments])

    def find(self, method: str, raw_path: bytes) -> tuple[Endpoint, dict[str, str]]:
        """Return the endpoint and the parameters of the path, decoded.

        Raises:
            NotFoundError: `unknown-path`.
            InvalidRequestError: `method-not-allowed`, `details.allowed` has those that are;
                `invalid-argument`, a part is not UTF-8.
        """
        parts = raw_path.decode("latin-1").split("/")[1:]
        allowed: list[str] = []
        for endpoint in self._by_length.get(len(parts), ()):
            if all(
                part and (mine == part or mine.startswith("{"))
                for mine, part in zip(endpoint.segments, parts, strict=True)
            ):
                if endpoint.method == method:
                    return endpoint, {
                        mine[1:-1]: _decoded(part)
                        for mine, part in zip(endpoint.segments, parts, strict=True)
                        if mine.startswith("{")
                    }
                allowed.append(endpoint.method)
        shown = raw_path.decode("latin-1")
        if allowed:
            raise InvalidRequestError(
                Code.METHOD_NOT_ALLOWED,
                f"{shown:.200} takes {', '.join(sorted(set(allowed)))}, not {method:.20}",
                allowed=sorted(set(allowed)),
            )
        raise NotFoundError(
            Code.UNKNOWN_PATH, f"there is nothing at {shown:.200}; GET /docs shows what there is"
        )


def _decoded(part: str) -> str:
    try:
        return unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT, f"the part {part!r:.200} of the path is not UTF-8"
        ) from None
