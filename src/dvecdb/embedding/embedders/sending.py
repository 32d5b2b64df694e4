"""The JSON of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dvecdb.embedding.model import EmbedError, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping


def encode(values: Mapping[str, Any]) -> bytes:
    """Return the JSON of a request. Raises EmbedError: `refused`, a text in it is no Unicode."""
    try:
        return msgspec.json.encode(values)
    except UnicodeEncodeError as error:
        raise EmbedError(
            Reason.REFUSED, f"a text cannot be sent: {error.reason} at character {error.start}"
        ) from error
