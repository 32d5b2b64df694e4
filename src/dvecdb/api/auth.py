"""Who asks, and what they may do: scopes, collection patterns, and the headers that carry a key.

A scope allows a kind of call; `admin` allows every kind. Patterns say of which collections, as in
a shell (`*`, `?`, `[abc]`) and ignoring case, for collection names are unique ignoring case. A key
whose patterns are not just `*` sees nothing of other collections.

Without a key store everybody is `anonymous` and may do everything: whether a server may run like
that is decided where it gets its address.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from dvecdb.errors import AuthError, Code

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dvecdb.api.keys import KeyStore

ALL_COLLECTIONS: Final = ("*",)
ANONYMOUS_NAME: Final = "anonymous"
_BEARER: Final = "bearer"


class Scope(StrEnum):
    """What a key allows."""

    READ = "read"
    WRITE = "write"
    BACKUP = "backup"
    RESTORE = "restore"
    ADMIN = "admin"
    """Everything, and what concerns the server or destroys: audit log, flush, cancelling tasks,
    hard-delete, purge, deleting backups, protection."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a call: the key's name, what it allows, and on which collections."""

    name: str
    scopes: frozenset[Scope]
    patterns: tuple[str, ...] = ALL_COLLECTIONS
    key_id: str | None = None

    @property
    def is_unrestricted(self) -> bool:
        """Whether the key is for every collection."""
        return "*" in self.patterns

    def has(self, scope: Scope) -> bool:
        """Return whether the scope, or `admin`, is among those of the key."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def may_see(self, collection: str) -> bool:
        """Return whether the key is for this collection. For listings; `Guard.require` raises."""
        if self.is_unrestricted:
            return True
        name = collection.lower()
        return any(fnmatch.fnmatchcase(name, pattern.lower()) for pattern in self.patterns)


ANONYMOUS: Final = Principal(ANONYMOUS_NAME, frozenset(Scope))


class Guard:
    """Turns headers into a principal, and refuses what a principal may not do. Never blocks."""

    def __init__(self, keys: KeyStore | None) -> None:
        self._keys = keys

    def authenticate(self, headers: Mapping[str, str]) -> Principal:
        """Return who asks. headers: by name in lower case, or case-insensitive.

        `Authorization: Bearer KEY` comes first, then `api-key: KEY`.

        Raises:
            AuthError: `unauthenticated`; details: `reason` is `missing`, `unknown`, `revoked` or
                `expired`, and `key` the key's name where its secret was right.
        """
        if self._keys is None:
            return ANONYMOUS
        token = _token(headers)
        if token is None:
            raise AuthError(
                Code.UNAUTHENTICATED,
                "this server asks for an API key: send the header 'Authorization: Bearer KEY' or "
                "'api-key: KEY'. Keys are made with 'dvecdb keys create'",
                reason="missing",
            )
        key = self._keys.find(token)
        return Principal(key.name, key.scopes, key.patterns, key.id)

    def require(self, principal: Principal, scope: Scope, collection: str | None = None) -> None:
        """Refuse unless `principal` has `scope` on `collection`.

        collection: None for what concerns no collection in particular. For `backup`, `restore` and
        `admin` that is the whole server, which takes a key for all collections.

        Raises:
            AuthError: `forbidden`, names the scope and the collection.
        """
        self.require_scope(principal, scope, collection)
        if collection is None:
            allowed = principal.is_unrestricted or scope in {Scope.READ, Scope.WRITE}
            what = "the whole server"
        else:
            allowed = principal.may_see(collection)
            what = f"collection {collection!r}"
        if not allowed:
            raise AuthError(
                Code.FORBIDDEN,
                f"the key {principal.name!r} does not allow {scope!r} on {what}; it is for the "
                f"collections {', '.join(principal.patterns) or '(none)'}. Nothing was done",
                scope=str(scope),
                collection=collection,
                key=principal.name,
            )

    def require_scope(
        self, principal: Principal, scope: Scope, collection: str | None = None
    ) -> None:
        """Refuse unless `principal` has `scope`, wherever; `collection`: for the message.

        Raises:
            AuthError: `forbidden`, names the scope.
        """
        if not principal.has(scope):
            have = ", ".join(sorted(principal.scopes)) or "none"
            raise AuthError(
                Code.FORBIDDEN,
                f"this takes the scope {scope!r}; the key {principal.name!r} has {have}. "
                "Nothing was done; use another key",
                scope=str(scope),
                collection=collection,
                key=principal.name,
            )


def _token(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == _BEARER and token.strip():
        return token.strip()
    return headers.get("api-key", "").strip() or None
