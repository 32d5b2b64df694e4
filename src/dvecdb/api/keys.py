"""API keys: `dvk_<id>_<secret>`, stored as write-once files, valid until revoked or expired.

    ID.json           name, scopes, collection patterns, times, a salt and a SHA-256
    ID.revoked.json   the key is not valid any more

The secret is 32 random bytes and is kept nowhere. What is stored is one SHA-256 over a salt of the
key's own and the secret. A slow hash makes guessing expensive where secrets are few enough to be
guessed; 2^256 are not, and a slow hash would let anybody burn the server's time with wrong keys.

Making and revoking need no LOCK, so they work while a server runs; it lists the directory every
second and reads what is new. Where a revocation can be seen but not read, it counts.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import re
import secrets
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from dvecdb.api.auth import ALL_COLLECTIONS, ANONYMOUS_NAME, Scope
from dvecdb.clock import SystemClock, to_datetime
from dvecdb.engine.storage import read_file, unclear, unreadable, write_failed, write_file
from dvecdb.errors import (
    AuthError,
    Code,
    DirectoryError,
    DvecdbError,
    InvalidRequestError,
    NotFoundError,
)
from dvecdb.formats import names
from dvecdb.formats.framing import FormatError
from dvecdb.formats.manifest_file import seal_json
from dvecdb.formats.server_file import KeyFile, RevocationFile, decode_sealed
from dvecdb.records import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dvecdb.clock import Clock
    from dvecdb.media.files import Dir, Files

KEYS_MAX: Final = 1_000
"""Keys that are neither revoked nor expired."""
PATTERNS_MAX: Final = 100
LOOK_SECONDS: Final = 1.0
"""Time between two looks for new and revoked keys."""
_PARTIAL_AGE_NS: Final = 3_600 * 1_000_000_000
_ATTEMPTS: Final = 5
_UNREADABLE: Final = "keys-unreadable"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_ID: Final = re.compile(r"[0-9a-f]{12}")
_PATTERN: Final = re.compile(r"[A-Za-z0-9_.*?!\[\]-]{1,128}")
_TOKEN: Final = re.compile(r"dvk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class Key:
    """An API key without its secret. Times in nanoseconds since 1970, UTC."""

    id: str
    name: str
    scopes: frozenset[Scope]
    patterns: tuple[str, ...]
    created_ns: int
    expires_ns: int | None
    revoked_ns: int | None

    def state(self, now_ns: int) -> str:
        """Return `active`, `revoked` or `expired`."""
        if self.revoked_ns is not None:
            return "revoked"
        if self.expires_ns is not None and now_ns >= self.expires_ns:
            return "expired"
        return "active"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made, and its token, which is kept nowhere."""

    key: Key
    token: str


@dataclass(frozen=True, slots=True)
class _Stored:
    key: Key
    salt: bytes
    sha256: bytes


_NOBODY: Final = _Stored(
    Key("", "", frozenset(), (), 0, None, None), bytes(32), bytes(32)
)  # what an unknown id is compared with, so that it takes as long


class KeyStore:
    """The keys of a data directory. `directory`: an open handle of DATA_DIR/.server/keys.

    The handle belongs to the store from now on. `_lock` guards looking at the directory; `_stored`
    is replaced whole, so that `find` takes no lock and reads no file.
    """

    def __init__(
        self,
        files: Files,
        directory: Dir,
        *,
        clock: Clock | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._files, self._directory = files, directory
        self._clock = clock if clock is not None else SystemClock()
        self._random_bytes = random_bytes
        self._lock = threading.Lock()
        self._stored: Mapping[str, _Stored] = {}
        self._findings: list[Finding] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # --- life ---

    def start(self) -> None:
        """Read the keys, and from now on notice new and revoked ones, in a thread of its own.

        Raises:
            DirectoryError: `directory-unreadable`.
        """
        self._look()
        self._drop_partials()
        self._thread = threading.Thread(target=self._watch, name="dvecdb-keys", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop noticing, and close the directory."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self._files.close_directory(self._directory)

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            self.refresh()

    def refresh(self) -> None:
        """Look at the directory now. If it cannot be read, what was known stays, and is a finding.

        Costs one listing, and one read for each key that is new.
        """
        with contextlib.suppress(DirectoryError):
            self._look()

    def _look(self) -> None:
        with self._lock:
            try:
                present = self._files.list_names(self._directory)
            except OSError as error:
                finding = _finding(
                    _UNREADABLE, "keys", f"the API keys cannot be listed ({error.strerror}): "
                    "new and revoked keys are not noticed",
                )  # fmt: skip
                kept = [item for item in self._findings if item.code != finding.code]
                self._findings = [*kept, finding]
                raise unreadable("the directory of the API keys", error) from error
            parsed = [found for name in present if (found := names.parse_key_name(name))]
            revoked = {key_id for key_id, is_revocation in parsed if is_revocation}
            stored: dict[str, _Stored] = {}
            findings: list[Finding] = []
            for key_id, is_revocation in parsed:
                if not is_revocation:
                    try:
                        stored[key_id] = self._load(key_id, is_revoked=key_id in revoked)
                    except (OSError, FormatError, DvecdbError) as error:
                        findings.append(_damaged(names.key_name(key_id), error))
            self._stored, self._findings = stored, findings

    def _load(self, key_id: str, *, is_revoked: bool) -> _Stored:
        known = self._stored.get(key_id)
        if known is None:
            known = _decode(key_id, read_file(self._files, self._directory, names.key_name(key_id)))
        if is_revoked and known.key.revoked_ns is None:
            return replace(known, key=replace(known.key, revoked_ns=self._revoked_ns(key_id)))
        if not is_revoked and known.key.revoked_ns is not None:
            return replace(known, key=replace(known.key, revoked_ns=None))
        return known

    def _revoked_ns(self, key_id: str) -> int:
        """Return when a key was revoked. A damaged revocation revokes; it only cannot say when."""
        name = names.key_name(key_id, revoked=True)
        with contextlib.suppress(OSError, FormatError, DirectoryError):
            data = read_file(self._files, self._directory, name)
            return decode_sealed(data, RevocationFile).revoked_ns
        return 0

    def _drop_partials(self) -> None:
        """Delete what a crash left half-written. Young files may be another process's."""
        now = self._clock.wall_ns()
        with contextlib.suppress(OSError):
            for name in self._files.list_names(self._directory):
                found = self._files.stat(self._directory, name)
                is_old = found is not None and now - found.modified_ns >= _PARTIAL_AGE_NS
                if name.startswith(names.PARTIAL) and is_old:
                    self._files.remove(self._directory, name)

    # --- for the server ---

    def find(self, token: str) -> Key:
        """Return the valid key that `token` is of. Reads no file.

        Takes as long for an unknown id as for a wrong secret.

        Raises:
            AuthError: `unauthenticated`; details: `reason` is `unknown`, `revoked` or `expired`;
                `key` is the key's name where the secret was right.
        """
        match = _TOKEN.fullmatch(token)
        key_id, secret = (match[1], match[2]) if match else ("", "")
        stored = self._stored.get(key_id, _NOBODY)
        is_right = hmac.compare_digest(_sha256(stored.salt, secret), stored.sha256)
        if not is_right or stored is _NOBODY:
            raise AuthError(
                Code.UNAUTHENTICATED,
                "the API key is not known here; a key is 'dvk_', 12 hexadecimal digits, '_' and 43 "
                "characters. Check it, or make one with 'dvecdb keys create'",
                reason="unknown",
            )
        key, state = stored.key, stored.key.state(self._clock.wall_ns())
        if state != "active":
            raise AuthError(
                Code.UNAUTHENTICATED,
                f"the API key {key.name!r} ({key.id}) is {state}; use another",
                reason=state,
                key=key.name,
            )
        return key

    def holds_any(self) -> bool:
        """Return whether there was a key at the last look. Reads no file if that went well.

        Raises:
            DirectoryError: `directory-unreadable`, there still is no telling.
        """
        if not self._stored and any(item.code == _UNREADABLE for item in self._findings):
            self._look()
        return bool(self._stored)

    def findings(self) -> list[Finding]:
        """Return what is wrong with the stored keys: `key-damaged`, `keys-unreadable`."""
        return list(self._findings)

    # --- for the one who gives out keys ---

    def all(self) -> list[Key]:
        """Return every key, revoked and expired ones included, oldest first.

        Raises:
            DirectoryError: `directory-unreadable`.
        """
        self._look()
        found = [stored.key for stored in self._stored.values()]
        return sorted(found, key=lambda key: (key.created_ns, key.id))

    def create(
        self,
        name: str,
        scopes: Iterable[Scope],
        patterns: Iterable[str] = ALL_COLLECTIONS,
        *,
        expires_ns: int | None = None,
    ) -> NewKey:
        """Make a key; durable on return. Its token is in the answer and nowhere else.

        Raises:
            InvalidRequestError: `invalid-argument`, also where an active key has this name.
            DiskFullError: `disk-full`; OutcomeUnknownError: `outcome-unknown`. There is no key
                then that anybody could use.
        """
        now = self._clock.wall_ns()
        granted, wanted = frozenset(scopes), tuple(dict.fromkeys(patterns))
        self._check_new(name, granted, wanted, expires_ns, now)
        secret = base64.urlsafe_b64encode(self._random_bytes(32)).rstrip(b"=").decode()
        salt = self._random_bytes(32)
        for _ in range(_ATTEMPTS):
            key = Key(self._random_bytes(6).hex(), name, granted, wanted, now, expires_ns, None)
            data = seal_json(
                KeyFile(
                    id=key.id,
                    name=name,
                    scopes=sorted(granted),
                    collections=list(wanted),
                    created_ns=now,
                    expires_ns=expires_ns,
                    salt=salt.hex(),
                    secret_sha256=_sha256(salt, secret).hex(),
                )
            )
            if self._write_key(key, data):
                self.refresh()
                return NewKey(key, f"dvk_{key.id}_{secret}")
        raise AssertionError("random ids repeat")

    def _write_key(self, key: Key, data: bytes) -> bool:
        """Write a key's file; False if its id is taken."""
        file_name = names.key_name(key.id)
        try:
            if self._files.stat(self._directory, file_name) is not None:
                return False
            write_file(self._files, self._directory, file_name, [data])
        except OSError as error:  # nobody will know the secret: leave nothing of it
            for left in (names.PARTIAL + file_name, file_name):
                with contextlib.suppress(OSError):
                    self._files.remove(self._directory, left)
            raise write_failed(f"making the key {key.name!r}", error) from error
        return True

    def revoke(self, id_or_name: str) -> Key:
        """Revoke a key for ever; durable on return. A revoked key stays revoked.

        A running server refuses the key within 2 s.

        Raises:
            NotFoundError: `key-not-found`.
            InvalidRequestError: `invalid-argument`, several keys have this name.
            DiskFullError: `disk-full`, the key is still valid.
            OutcomeUnknownError: `outcome-unknown`, it may be revoked or not; revoke it again.
        """
        key = self._choose(id_or_name)
        now, file_name = self._clock.wall_ns(), names.key_name(key.id, revoked=True)
        try:
            if self._files.stat(self._directory, file_name) is None:
                data = seal_json(RevocationFile(id=key.id, revoked_ns=now))
                try:
                    write_file(self._files, self._directory, file_name, [data])
                except (FileExistsError, FileNotFoundError):  # another process is at it as well
                    if self._files.stat(self._directory, file_name) is None:
                        raise
            self._files.sync_directory(self._directory)  # it may be another's, not yet durable
        except OSError as error:
            failed = unclear if self._may_be_there(file_name) else write_failed
            with contextlib.suppress(OSError):
                self._files.remove(self._directory, names.PARTIAL + file_name)
            raise failed(f"revoking the key {key.name or key.id!r}", error) from error
        self.refresh()
        if key.revoked_ns is not None:
            return key
        return replace(key, revoked_ns=now)

    def _choose(self, id_or_name: str) -> Key:
        keys = self.all()
        by_id = [key for key in keys if key.id == id_or_name]
        named = [key for key in keys if key.name == id_or_name]
        in_force = [key for key in named if key.revoked_ns is None]
        found = by_id or in_force or named[-1:]
        if len(found) > 1:
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT,
                f"{len(found)} keys are called {id_or_name!r}; revoke by id: "
                f"{', '.join(key.id for key in found)}",
            )
        if found:
            return found[0]
        if _ID.fullmatch(id_or_name) and self._may_be_there(names.key_name(id_or_name)):
            return Key(id_or_name, "", frozenset(), (), 0, None, None)  # damaged: its id is enough
        raise NotFoundError(
            Code.KEY_NOT_FOUND,
            f"no API key has the id or name {id_or_name!r}; 'dvecdb keys list' shows them",
            key=id_or_name,
        )

    def _may_be_there(self, file_name: str) -> bool:
        try:
            return self._files.stat(self._directory, file_name) is not None
        except OSError:
            return True

    def _check_new(
        self,
        name: str,
        scopes: frozenset[Scope],
        patterns: tuple[str, ...],
        expires_ns: int | None,
        now: int,
    ) -> None:
        if not _NAME.fullmatch(name) or _ID.fullmatch(name) or name == ANONYMOUS_NAME:
            raise _invalid(
                f"{name!r} cannot name a key; expected 1 to 64 of A-Z a-z 0-9 _ . @ - beginning "
                f"with a letter or digit, neither {ANONYMOUS_NAME!r} nor like an id"
            )
        if not scopes:
            raise _invalid(f"a key needs a scope; expected some of {', '.join(Scope)}")
        if not 1 <= len(patterns) <= PATTERNS_MAX:
            raise _invalid(f"expected 1 to {PATTERNS_MAX} patterns, found {len(patterns)}")
        for pattern in patterns:
            if not _PATTERN.fullmatch(pattern):
                raise _invalid(
                    f"{pattern!r} is no pattern for collections; expected letters, digits, _ . - "
                    "and * ? [abc] [!abc]"
                )
        if expires_ns is not None and expires_ns <= now:
            raise _invalid(f"the key would be expired: {to_datetime(expires_ns).isoformat()}")
        active = [key for key in self.all() if key.state(now) == "active"]
        if len(active) >= KEYS_MAX:
            raise _invalid(f"there are {len(active)} active keys, {KEYS_MAX} at most; revoke some")
        if any(key.name == name for key in active):
            raise _invalid(f"an active key is called {name!r}; choose another name or revoke it")


def _decode(key_id: str, data: bytes) -> _Stored:
    found = decode_sealed(data, KeyFile)
    if found.id != key_id:
        raise FormatError(f"it is the file of another key, {found.id}")
    try:
        salt, sha256 = bytes.fromhex(found.salt), bytes.fromhex(found.secret_sha256)
    except ValueError as error:
        raise FormatError(str(error)) from error
    scopes = frozenset(Scope(scope) for scope in found.scopes if scope in set(Scope))
    key = Key(
        key_id, found.name, scopes, tuple(found.collections), found.created_ns, found.expires_ns,
        None,
    )  # fmt: skip
    return _Stored(key, salt, sha256)


def _sha256(salt: bytes, secret: str) -> bytes:
    return hashlib.sha256(salt + secret.encode()).digest()


def _damaged(name: str, error: Exception) -> Finding:
    what = error.strerror if isinstance(error, OSError) else str(error)
    return _finding("key-damaged", f"keys/{name}", f"keys/{name}: {what}; the key does not work")


def _finding(code: str, where: str, message: str) -> Finding:
    return Finding(code, None, f"{names.SERVER}/{where}", message)


def _invalid(message: str) -> InvalidRequestError:
    return InvalidRequestError(Code.INVALID_ARGUMENT, message)
