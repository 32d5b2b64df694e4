"""Whatever speaks `/v1/embeddings`: `input`, `model`, and `data[i].embedding` with `index`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from dvecdb.embedding.embedders.answers import Expected, decode, in_order, vectors_of
from dvecdb.embedding.embedders.sending import encode
from dvecdb.embedding.model import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dvecdb.embedding.embedders.http import Endpoint

TOKEN_FIELDS: Final = ("total_tokens", "prompt_tokens", "tokens")
"""Under which an answer says how many tokens it counted, the best first."""


class _Item(msgspec.Struct):
    embedding: str | list[float]
    index: int | None = None


class _Reply(msgspec.Struct):
    data: list[_Item]
    usage: Any = None


_DECODER: Final = msgspec.json.Decoder(_Reply)


class OpenAiEmbedder:
    """A model behind `/v1/embeddings`. Safe to use from several threads."""

    def __init__(
        self, endpoint: Endpoint, model: str, *, dimensions: int | None, encoding: str
    ) -> None:
        self._endpoint = endpoint
        self._dimensions = dimensions
        self._fixed: dict[str, Any] = {"model": model, "encoding_format": encoding}
        if dimensions is not None:
            self._fixed["dimensions"] = dimensions
        self.model = f"openai:{model}" + ("" if dimensions is None else f"@{dimensions}")

    def embed(self, texts: Sequence[str]) -> Answer:
        """Return a vector for each text. Raises EmbedError."""
        body = encode({"input": list(texts), **self._fixed})
        expected = Expected(len(texts), self._dimensions, self._endpoint.where)
        answer = self._endpoint.post(body, expected.bytes_max(len(body)))
        reply: _Reply = decode(answer, _DECODER, expected)
        items = in_order(reply.data, [item.index for item in reply.data], expected)
        vectors = vectors_of([item.embedding for item in items], expected)
        return Answer(vectors, tokens_of(reply.usage))

    def renew(self) -> None:
        """Drop every connection."""
        self._endpoint.renew()

    def close(self) -> None:
        """Give back connections."""
        self._endpoint.close()


def tokens_of(usage: object) -> int | None:
    """Return the tokens that a `usage` object speaks of, or None."""
    if isinstance(usage, dict):
        for name in TOKEN_FIELDS:
            found = usage.get(name)
            if isinstance(found, int) and not isinstance(found, bool) and found >= 0:
                return found
    return None
