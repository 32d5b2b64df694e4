"""Pages made once, when the server starts: the OpenAPI description and the docs made from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dvecdb.api.context import Answer

if TYPE_CHECKING:
    from dvecdb.api.context import Context


def openapi(context: Context, _: None) -> Answer:
    """Describe every call, answer and error of this server (OpenAPI 3.1)."""
    return Answer(context.parts.description)


def docs(context: Context, _: None) -> Answer:
    """Show the description to people."""
    return Answer(context.parts.docs)
