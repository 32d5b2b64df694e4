"""The models that run in this process, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from dvecdb.embedding.model import Embedder

MODELS: Final = ("fake", "minilm")


def open_model(name: str, dimensions: int | None = None) -> Embedder:
    """Return a model that is ready to embed. dimensions: None, as many as it has.

    fake: hashed words, no model at all; 2 to 4,096 dimensions, 384 unless told. minilm:
    all-MiniLM-L6-v2, 384 dimensions.

    Raises:
        InvalidRequestError: `invalid-argument`, no such model, or not with these dimensions;
            `extra-missing`, what it needs is not installed; says what to install.
    """
    match name:
        case "fake":
            from dvecdb.embedding.local.fake import FakeModel  # noqa: PLC0415  # only if wanted

            return FakeModel(dimensions)
        case "minilm":
            from dvecdb.embedding.local.minilm import MiniLm  # noqa: PLC0415  # only if wanted

            return MiniLm(dimensions)
        case _:
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT,
                f"there is no local model {name!r}; there are {' and '.join(MODELS)}",
                model=name,
            )
