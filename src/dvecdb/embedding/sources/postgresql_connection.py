"""Short read-only transactions of PostgreSQL, and what their errors mean for a job.

Nothing is set for the session, so that a pooler may give each transaction another connection: a
transaction says itself that it reads only, how long a statement may take and how dates look.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

from dvecdb.errors import Code, DvecdbError, InvalidRequestError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONNECT_SECONDS: Final = 10
STATEMENT_SECONDS: Final = 60.0
SCAN_SECONDS: Final = 600.0
"""For what looks at every row: counts, duplicates, the greatest value."""
_GRACE_SECONDS: Final = 5.0  # for a server to end its statement itself

_SETTINGS: Final = (
    "SELECT set_config('statement_timeout', $1, true), set_config('timezone', 'UTC', true), "
    "set_config('datestyle', 'ISO, YMD', true), set_config('intervalstyle', 'iso_8601', true), "
    "set_config('extra_float_digits', '1', true), set_config('bytea_output', 'hex', true)"
)
_LOADED: Final = ("int2", "int4", "int8", "oid", "float4", "float8", "bool", "numeric", "json",
                  "jsonb", "bytea")  # fmt: skip
"""Types that become Python values; all others come as PostgreSQL prints them."""
_UNLISTED: Final = (0, 18, 705)  # what is of no known type, "char", unknown
_LASTING: Final = re.compile(
    r"FATAL: .*(authentication failed|does not exist|no password|pg_hba\.conf|permission denied"
    r"|not permitted to log in|not currently accepting connections|unrecognized configuration)"
    r"|fe_sendauth: no password|does not support SSL|certificate|invalid (port|sslmode|integer)",
    re.DOTALL,
)
"""Messages after which connecting can never work: libpq gives no code for those."""


class PostgresConnection:
    """A connection made when it is needed, and again after it broke.

    dsn: as libpq takes it, `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`. what: begins every
    message, like "source cyber".
    """

    def __init__(
        self, dsn: str, what: str, *, statement_seconds: float = STATEMENT_SECONDS
    ) -> None:
        """Read the address; nothing is sent yet.

        Raises:
            InvalidRequestError: `extra-missing`, or `source-refused`: no address.
        """
        self._psycopg = load_psycopg(what)
        self._what = what
        self._statement_seconds = statement_seconds
        self._parameters = self._parse(dsn)
        self._password = str(self._parameters.get("password") or "")
        self._connection: Any = None

    @property
    def where(self) -> str:
        """Where it connects to, without a secret."""
        given = self._parameters
        host = given.get("host") or given.get("hostaddr") or "localhost"
        database = given.get("dbname") or given.get("user") or "the default database"
        return f"PostgreSQL at {host}:{given.get('port') or 5432}, database {database}"

    def query(
        self, statement: str, parameters: Sequence[object] = (), *, seconds: float | None = None
    ) -> tuple[list[tuple[Any, ...]], list[tuple[str, int]]]:
        """Return the rows of one statement in a transaction of its own, and (name, oid) of columns.

        statement: parameters are $1, $2, ...; seconds: how long it may take.

        Raises:
            UnavailableError: `source-unreachable`; the connection is dropped.
            InvalidRequestError: `source-refused`; `details["sqlstate"]` says what.
        """
        seconds = seconds or self._statement_seconds
        late = threading.Event()
        try:
            with self._watched(seconds + _GRACE_SECONDS, late) as connection:
                with connection.cursor() as cursor:
                    cursor.execute(_SETTINGS, [str(int(seconds * 1_000))])
                    # With a parameter it is one statement, whatever is written in it.
                    cursor.execute(statement, list(parameters) or None, prepare=False)
                    rows = cursor.fetchall()
                    columns = [(one.name, one.type_code) for one in cursor.description]
                connection.commit()
        except self._psycopg.Error as error:
            self.close()
            self._explain(error, late=late.is_set())
        except UnicodeEncodeError:
            self.close()
            raise InvalidRequestError(
                Code.SOURCE_REFUSED,
                f"{self._what}: {self.where}: a name or value in the statement is no UTF-8 text",
                sqlstate="22021",
            ) from None
        except BaseException:
            self.close()
            raise
        return rows, columns

    def close(self) -> None:
        """Drop the connection; the next query makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(self._psycopg.Error, OSError):
                connection.close()

    @contextlib.contextmanager
    def _watched(self, seconds: float, late: threading.Event) -> Iterator[Any]:
        """Give a connection; cut it when the time is over, should the server be frozen or away."""
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        connection = self._connection

        def cut() -> None:
            late.set()
            with contextlib.suppress(OSError, self._psycopg.Error):
                copy = socket.socket(fileno=os.dup(connection.fileno()))
                with contextlib.closing(copy):
                    copy.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield connection
        finally:
            timer.cancel()

    def _connect(self) -> Any:
        psycopg = self._psycopg
        defaults = {
            "connect_timeout": CONNECT_SECONDS, "application_name": "dvecdb embed",
            "keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10,
            "keepalives_count": 3, "tcp_user_timeout": 30_000, "client_encoding": "UTF8",
        }  # fmt: skip
        connection = psycopg.Connection.connect(
            **{**defaults, **self._parameters, "client_encoding": "UTF8"},
            prepare_threshold=None,
            cursor_factory=psycopg.RawCursor,
        )
        try:
            connection.read_only = True
            self._adapt(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _adapt(self, connection: Any) -> None:
        """Say how values come: see `_LOADED`."""
        from psycopg.types import json as json_types  # noqa: PLC0415  # an extra
        from psycopg.types import string  # noqa: PLC0415

        adapters = connection.adapters
        printed = string.TextLoader
        if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
            printed, dumper = _tolerant(self._psycopg)
            connection.execute("SET client_encoding TO 'SQL_ASCII'")  # else bytes are refused
            connection.commit()
            adapters.register_dumper(str, dumper)
        loaded = {adapters.types[name].oid for name in _LOADED}
        for oid in (*_UNLISTED, *(info.oid for info in adapters.types)):
            if oid not in loaded:
                adapters.register_loader(oid, printed)
        json_types.set_json_loads(read_json, connection)

    def _parse(self, dsn: str) -> dict[str, Any]:
        scheme, found, rest = dsn.strip().partition("://")
        if found and scheme.partition("+")[0] in ("postgresql", "postgres"):
            dsn = f"postgresql://{rest}"  # the driver is ours to choose
        try:
            given: dict[str, Any] | None = self._psycopg.conninfo.conninfo_to_dict(dsn)
        except self._psycopg.Error:  # its message has parts of the address in it
            given = None
        # An @ or / in a password, written plainly, makes a part of it the host, port or database.
        if given is None or not (
            re.fullmatch(r"[0-9,]*", str(given.get("port") or ""))
            and "@" not in str(given.get("host") or "")[1:]  # one in front: an abstract socket
            and "@" not in str(given.get("dbname") or "")
        ):
            raise InvalidRequestError(
                Code.SOURCE_REFUSED,
                f"{self._what}: its database address cannot be read; expected "
                "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with the special characters of the "
                "password written as codes (@ %40, / %2F, % %25)",
            ) from None
        return given

    def _explain(self, error: Any, *, late: bool) -> NoReturn:
        psycopg = self._psycopg
        state = error.sqlstate or ""
        said = (error.diag.message_primary or str(error) or type(error).__name__).strip()
        said = "; ".join(line.strip() for line in said.splitlines() if line.strip())
        if len(self._password) > 3:
            said = said.replace(self._password, "***")
        details: dict[str, object] = {"sqlstate": state or None, "where": self.where}
        message = f"{self._what}: {self.where}: {said}"
        is_lasting = (
            isinstance(error, (psycopg.ProgrammingError, psycopg.DataError,
                               psycopg.NotSupportedError))
            or state[:2] in ("28", "25", "3D")
            or (not state and _LASTING.search(said) is not None)
        )  # fmt: skip
        failure: DvecdbError
        if is_lasting:
            failure = InvalidRequestError(Code.SOURCE_REFUSED, message, **details)
        else:
            if late or state == "57014":
                message += "; it did not answer in time"
            failure = UnavailableError(Code.SOURCE_UNREACHABLE, message, **details)
        raise failure from None


def load_psycopg(what: str) -> Any:
    """Return the module psycopg.

    Raises:
        InvalidRequestError: `extra-missing`.
    """
    try:
        import psycopg  # noqa: PLC0415  # an extra, and slow to import
    except ImportError:
        raise InvalidRequestError(
            Code.EXTRA_MISSING,
            f"{what}: PostgreSQL needs the extra 'postgres': pip install 'dvecdb[postgres]'",
        ) from None
    return psycopg


def read_json(data: str | bytes) -> Any:
    """Return a JSON value. What is not strict JSON is read as far as Python does, else as text."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = data if isinstance(data, str) else bytes(data).decode(errors="surrogateescape")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text


def _tolerant(psycopg: Any) -> tuple[type[Any], type[Any]]:
    """Return how to read and write texts in a database that takes any bytes for text."""

    class Texts(psycopg.adapt.Loader):  # type: ignore[misc]  # known at run time only
        def load(self, data: Any) -> str:
            return bytes(data).decode(errors="surrogateescape")

    class Bytes(psycopg.adapt.Dumper):  # type: ignore[misc]  # known at run time only
        def dump(self, text: Any) -> bytes:
            return str(text).encode(errors="surrogateescape")

    return Texts, Bytes
