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
    from collections.abc import Iterable, Sequence

    from dvecdb.api.endpoints import Endpoint


Shape = tuple[bool, ...]
"""Of the parts of a path: which of them are parameters."""


class Routes:
    """The endpoints by the shapes of their paths, and by the parts that are no parameters."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._known: dict[Shape, dict[tuple[str, ...], dict[str, Endpoint]]] = {}
        for endpoint in endpoints:
            shape = tuple(part.startswith("{") for part in endpoint.segments)
            literals = self._known.setdefault(shape, {}).setdefault(
                _literals(endpoint.segments, shape), {}
            )
            literals[endpoint.method] = endpoint
        shapes = sorted(self._known)  # literal parts go first
        self._shapes = {
            length: [shape for shape in shapes if len(shape) == length]
            for length in {len(shape) for shape in shapes}
        }

    def find(self, method: str, raw_path: bytes) -> tuple[Endpoint, dict[str, str]]:
        """Return the endpoint and the parameters of the path, decoded.

        Raises:
            NotFoundError: `unknown-path`.
            InvalidRequestError: `method-not-allowed`, `details.allowed` has those that are;
                `invalid-argument`, a part is not UTF-8.
        """
        parts = raw_path.decode("latin-1").split("/")[1:]
        allowed: list[str] = []
        for shape in self._shapes.get(len(parts), ()) if all(parts) else ():
            methods = self._known[shape].get(_literals(parts, shape), {})
            endpoint = methods.get(method)
            if endpoint is not None:
                return endpoint, {
                    mine[1:-1]: _decoded(part)
                    for mine, part, is_parameter in zip(
                        endpoint.segments, parts, shape, strict=True
                    )
                    if is_parameter
                }
            allowed += methods
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


def _literals(parts: Sequence[str], shape: Shape) -> tuple[str, ...]:
    return tuple(
        [part for part, is_parameter in zip(parts, shape, strict=True) if not is_parameter]
    )
