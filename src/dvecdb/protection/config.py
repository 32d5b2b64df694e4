"""What a collection keeps about itself as documents: its own settings, protection, tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from dvecdb.engine.writes import CONFIG_NAMESPACE, TAGS_NAMESPACE
from dvecdb.errors import Code, ConflictError, InvalidRequestError
from dvecdb.records import Lsn, check_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dvecdb.engine.store import Store
    from dvecdb.records import Json

PROTECTION: Final = "protection"
TAG_LENGTH_MAX: Final = 64
HOURS: Final = ("trash_hours", "history_hours")
HOURS_MAX: Final = 876_000


def check_config(values: Mapping[str, Json]) -> None:
    """Refuse settings that cannot work.

    Raises:
        InvalidRequestError: `invalid-argument`.
    """
    for name, value in values.items():
        if name in HOURS:
            if value is not None:
                check_whole(name, value, 0, HOURS_MAX)
        elif name == PROTECTION:
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT, f"{name} is not a setting; call protect()"
            )


def _document(store: Store, namespace: str, key: str) -> Json:
    visible = store.visible  # first: the view is then at least as new
    stored = store.view.document(namespace, key, visible.lsn)
    return None if stored is None else msgspec.json.decode(stored)


def is_protected(store: Store) -> bool:
    """Tell whether deleting the collection is refused."""
    stored = _document(store, CONFIG_NAMESPACE, PROTECTION)
    return isinstance(stored, dict) and bool(stored.get("deletion"))


def refuse_protected(store: Store) -> None:
    """Refuse to delete a protected collection.

    Raises:
        ConflictError: `collection-protected`.
    """
    if is_protected(store):
        raise ConflictError(
            Code.COLLECTION_PROTECTED,
            f"collection {store.name!r} is protected against deletion; nothing was changed. Lift "
            "that with protect(deletion=False) first",
            name=store.name,
        )


def own_hours(store: Store, name: str, default: int) -> int:
    """Return a setting of the collection in hours, or the database's."""
    stored = _document(store, CONFIG_NAMESPACE, name)
    return stored if isinstance(stored, int) and not isinstance(stored, bool) else default


def check_tag_name(name: object) -> None:
    """Refuse what cannot be the name of a tag.

    Raises:
        InvalidRequestError: `invalid-argument`.
    """
    if not isinstance(name, str) or not 1 <= len(name) <= TAG_LENGTH_MAX:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT,
            f"a tag is text of 1 to {TAG_LENGTH_MAX} characters, found {name!r:.80}",
        )


def read_tags(store: Store) -> dict[str, Lsn]:
    """Return the tags of a collection and their LSNs."""
    visible = store.visible
    found = store.view.documents(TAGS_NAMESPACE, visible.lsn)
    return {name: Lsn(int(msgspec.json.decode(value)["lsn"])) for name, value in found.items()}


def described(what: str, actor: str | None, reason: str | None) -> str:
    """Return what a manifest says about where it comes from."""
    by = "" if actor is None else f" by {actor}"
    return what + by + ("" if reason is None else f": {reason}")
