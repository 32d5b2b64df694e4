"""Any HTTP service that takes `{"texts": [...]}` and gives `{"embeddings": [[...], ...]}`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from dvecdb.embedding.embedders.answers import Expected, decode, in_order, vectors_of
from dvecdb.embedding.embedders.openai import TOKEN_FIELDS, tokens_of
from dvecdb.embedding.embedders.sending import encode
from dvecdb.embedding.job import EmbedderSpec
from dvecdb.embedding.model import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvecdb.embedding.embedders.http import Endpoint

DEFAULT_FIELD: Final = EmbedderSpec().vectors_field
OTHER_FIELDS: Final = ("vectors", "data.embedding", "data.vector", "data", "embedding")
"""Looked for, in this order, where nobody said what the answer looks like."""

_ABSENT: Final = object()
_DECODER: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder()


class ServiceEmbedder:
    """A service with its own request and answer. Safe to use from several threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        model: str | None,
        dimensions: int | None,
        texts_field: str,
        vectors_field: str,
    ) -> None:
        self._endpoint = endpoint
        self._dimensions = dimensions
        self._texts_field = texts_field
        self._vectors_field = vectors_field
        self._fixed: dict[str, Any] = {}
        if model is not None:
            self._fixed["model"] = model
        if dimensions is not None:
            self._fixed["dimensions"] = dimensions
        self._usual = _usual_decoder(vectors_field)
        self.model = "service" if model is None else f"service:{model}"
        if dimensions is not None:
            self.model += f"@{dimensions}"

    def embed(self, texts: Sequence[str]) -> Answer:
        """Return a vector for each text. Raises EmbedError."""
        body = encode(_nested(self._texts_field, list(texts), self._fixed))
        expected = Expected(len(texts), self._dimensions, self._endpoint.where)
        answer = self._endpoint.post(body, expected.bytes_max(len(body)))
        try:
            usual = self._usual.decode(answer)
        except msgspec.MsgspecError:
            reply = decode(answer, _DECODER, expected)
            return Answer(vectors_of(self._find(reply, expected), expected), _tokens(reply))
        vectors = vectors_of(usual.vectors, expected)
        return Answer(vectors, _tokens(msgspec.structs.asdict(usual)))

    def renew(self) -> None:
        """Drop every connection."""
        self._endpoint.renew()

    def close(self) -> None:
        """Give back connections."""
        self._endpoint.close()

    def _find(self, reply: object, expected: Expected) -> object:
        """Return what should be the list of vectors. Raises EmbedError: it is not there."""
        found = _walk(reply, self._vectors_field, expected)
        if found is not _ABSENT:
            return found
        if self._vectors_field == DEFAULT_FIELD:
            if isinstance(reply, list):
                return reply if _is_vectors(reply) else _walk(reply, "embedding", expected)
            for field in OTHER_FIELDS:
                found = _walk(reply, field, expected)
                if found is not _ABSENT and _is_vectors(found):
                    return found
        names = ", ".join(map(str, list(reply)[:10])) if isinstance(reply, dict) else "no object"
        return expected.wrong(
            f"nothing at {self._vectors_field!r}: the answer has {names or 'nothing'}"
        )


def _usual_decoder(field: str) -> msgspec.json.Decoder[Any]:
    """Return what reads lists of numbers in a field of the answer, faster than what reads all."""
    beside = [name for name in ("usage", *TOKEN_FIELDS) if name != field]
    reply = msgspec.defstruct(
        "Reply",
        [("vectors", list[list[float]]), *((name, Any, None) for name in beside)],
        rename={"vectors": field},
    )
    return msgspec.json.Decoder(reply)


def _nested(field: str, texts: list[str], fixed: dict[str, Any]) -> dict[str, Any]:
    """Return the request: `a.b` puts the texts under `b` of `a`."""
    request = dict(fixed)
    *outer, last = field.split(".")
    place = request
    for name in outer:
        place[name] = {}
        place = place[name]
    place[last] = texts
    return request


def _walk(value: object, field: str, expected: Expected) -> object:
    """Return what a dotted field leads to; through a list, of each of its items, by `index`."""
    names = field.split(".")
    for position, name in enumerate(names):
        if isinstance(value, list):
            if not value or not all(isinstance(item, dict) for item in value):
                return _ABSENT
            items = in_order(value, [item.get("index") for item in value], expected)
            rest = ".".join(names[position:])
            found = [_walk(item, rest, expected) for item in items]
            return _ABSENT if _ABSENT in found else found
        if not isinstance(value, dict) or name not in value:
            return _ABSENT
        value = value[name]
    return value


def _is_vectors(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], list | str)


def _tokens(reply: object) -> int | None:
    if not isinstance(reply, dict):
        return None
    found = tokens_of(reply.get("usage"))
    return tokens_of(reply) if found is None else found
