"""What a command works on: a server or a data directory. Commands do not know which."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import dvecdb
from dvecdb.cli.app import UsageError
from dvecdb.errors import Code, DirectoryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dvecdb.errors import DvecdbError


@dataclass(frozen=True, slots=True)
class Target:
    """A server or a data directory: exactly one of `url` and `data_dir`.

    api_key: for a server, also for one that turns out to have the directory.
    """

    url: str | None = None
    api_key: str | None = None
    data_dir: Path | None = None

    @contextlib.contextmanager
    def open(self, *, write: bool = False, create: bool = False) -> Iterator[dvecdb.Database]:
        """Open it for as long as the context lasts; `create` makes a missing data directory.

        A server's database comes as the embedded one, whose interface it has.

        Raises:
            DvecdbError: as opening either does; `directory-unreadable`, there is none.
        """
        if self.url is not None:
            with dvecdb.connect(self.url, api_key=self.api_key) as remote:
                yield cast("dvecdb.Database", remote)
            return
        assert self.data_dir is not None
        if write and not create and not self.data_dir.is_dir():
            raise DirectoryError(
                Code.DIRECTORY_UNREADABLE,
                f"{self.data_dir}: there is no such directory; 'dvecdb create' makes one",
                path=str(self.data_dir),
            )
        try:
            database = dvecdb.open(self.data_dir, read_only=not write)
        except DirectoryError as error:
            if error.code is Code.DIRECTORY_IN_USE:
                url = server_of(error)
                where = "If that is a server, write through it: --url"
                error.message += f". {where}" if url is None else f". It is a server: --url {url}"
            raise
        with database:
            yield database


def server_of(error: DvecdbError) -> str | None:
    """Return the address of the server of this machine that has the directory in use, if it is."""
    address, host = error.details.get("address"), error.details.get("host")
    return str(address) if address and host == socket.gethostname() else None


def find_target(
    url: str | None,
    api_key: str | None,
    data_dir: Path | None,
    environment: Mapping[str, str] = os.environ,
) -> Target:
    """Return what the options name, or else what the environment names.

    Raises:
        UsageError: nothing is named, or both a server and a directory.
    """
    if url is None and data_dir is None:
        url = environment.get("DVECDB_URL") or None
        named = environment.get("DVECDB_DATA_DIR")
        data_dir = Path(named) if named else None
    api_key = api_key or environment.get("DVECDB_API_KEY") or None
    if (url is None) == (data_dir is None):
        found = "both are" if url is not None else "neither is"
        raise UsageError(
            f"give a server (--url or DVECDB_URL) or a data directory (--data-dir or "
            f"DVECDB_DATA_DIR); {found} given"
        )
    if url is None:
        return Target(data_dir=data_dir, api_key=api_key)
    return Target(url=url, api_key=api_key)
