"""`dvecdb keys`: make, list and revoke the API keys of a data directory; a server may run on it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dvecdb.cli.exit_codes import DAMAGE, OK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dvecdb.api.keys import Key, KeyStore

_DAY_NS: Final = 86_400 * 1_000_000_000

DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir", envvar="DVECDB_DATA_DIR", help="The data directory.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

app = typer.Typer(
    name="keys",
    help="API keys of a server. A running server notices new and revoked keys within 2 s.",
    rich_markup_mode=None,
)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Shown in lists, the audit log and commit notes.")],
    data_dir: DataDir,
    scope: Annotated[
        list[str],
        typer.Option(help="read, write, backup, restore or admin (all). Repeat it for several."),
    ],
    collections: Annotated[
        list[str] | None,
        typer.Option(help="A pattern such as 'docs*'; all by default. Repeat it for several."),
    ] = None,
    expires_days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until it stops working.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, once: it is stored nowhere. Makes the directory if it is missing."""
    from dvecdb.clock import SystemClock  # noqa: PLC0415  # lazy

    expires_ns = None
    if expires_days is not None:
        expires_ns = SystemClock().wall_ns() + expires_days * _DAY_NS
    scopes = [_scope(text) for text in scope]
    with _store(data_dir, make=True) as store:
        new = store.create(name, scopes, collections or ("*",), expires_ns=expires_ns)
    described = _described(new.key)
    if as_json:
        _print_json({**described, "token": new.token})
        return
    _say(f"{new.key.name} ({new.key.id}): {_allows(described)}")
    _say("The key is shown only now and stored nowhere:")
    _say(new.token)


@app.command("list")
def list_keys(data_dir: DataDir, as_json: Json = False) -> None:
    """List the keys, revoked and expired ones included. Exit code 1 if a key's file is damaged."""
    with _store(data_dir) as store:
        found = [_described(key) for key in store.all()] if store else []
        findings = store.findings() if store else []
    if as_json:
        _print_json({"keys": found, "findings": findings})
    else:
        for item in found:
            expires = f", expires {item['expires']}" if item["expires"] else ""
            _say(f"{item['name']} ({item['id']}): {item['state']}; {_allows(item)}{expires}")
        for finding in findings:
            _say(f"{finding.code}: {finding.message}")
        if not found and not findings:
            _say("no keys")
    raise typer.Exit(DAMAGE if findings else OK)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID|NAME", help="Which key.", show_default=False)],
    data_dir: DataDir,
    as_json: Json = False,
) -> None:
    """Revoke a key for ever. A running server refuses it within 2 s."""
    from dvecdb.errors import Code, NotFoundError  # noqa: PLC0415  # lazy

    with _store(data_dir) as store:
        if store is None:
            raise NotFoundError(Code.KEY_NOT_FOUND, f"{data_dir} has no API keys", key=key)
        revoked = store.revoke(key)
    if as_json:
        _print_json(_described(revoked))
    else:
        _say(f"{revoked.name or '-'} ({revoked.id}): revoked")


@contextlib.contextmanager
def _store(data_dir: Path, *, make: bool = False) -> Iterator[Any]:
    """Yield the keys of a data directory; None if it has none and `make` is not asked for."""
    from dvecdb.api import server_directory  # noqa: PLC0415  # lazy
    from dvecdb.api.keys import KeyStore  # noqa: PLC0415  # lazy
    from dvecdb.formats import names  # noqa: PLC0415  # lazy
    from dvecdb.media.files import OsFiles  # noqa: PLC0415  # lazy

    files = OsFiles()
    look = (
        server_directory.make_server_directory if make else server_directory.find_server_directory
    )
    directory = look(files, str(data_dir), names.KEYS)
    if directory is None:
        yield None
        return
    store: KeyStore = KeyStore(files, directory)
    try:
        yield store
    finally:
        store.close()


def _scope(text: str) -> Any:
    from dvecdb.api.auth import Scope  # noqa: PLC0415  # lazy
    from dvecdb.errors import Code, InvalidRequestError  # noqa: PLC0415  # lazy

    try:
        return Scope(text.lower())
    except ValueError:
        raise InvalidRequestError(
            Code.INVALID_ARGUMENT, f"unknown scope {text!r}; expected one of {', '.join(Scope)}"
        ) from None


def _described(key: Key) -> dict[str, Any]:
    from dvecdb.clock import SystemClock, to_datetime  # noqa: PLC0415  # lazy

    def moment(nanoseconds: int | None) -> str | None:
        if nanoseconds is None:
            return None
        return to_datetime(nanoseconds).isoformat(timespec="seconds").replace("+00:00", "Z")

    return {
        "id": key.id,
        "name": key.name,
        "state": key.state(SystemClock().wall_ns()),
        "scopes": sorted(key.scopes),
        "collections": list(key.patterns),
        "created": moment(key.created_ns),
        "expires": moment(key.expires_ns),
        "revoked": moment(key.revoked_ns),
    }


def _allows(described: dict[str, Any]) -> str:
    scopes = ", ".join(described["scopes"]) or "nothing"
    return f"{scopes} on collections {', '.join(described['collections']) or '(none)'}"


def _say(text: str) -> None:
    from dvecdb.cli.output import say  # noqa: PLC0415  # lazy

    say(text)


def _print_json(value: Any) -> None:
    from dvecdb.cli.output import print_json  # noqa: PLC0415  # lazy

    print_json(value)
