"""What an operation is given and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dvecdb.errors import Code, InvalidRequestError
from dvecdb.records import check_name
from dvecdb.wire.bodies import pairs
from dvecdb.wire.codec import Format

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dvecdb.api.audit import Audit
    from dvecdb.api.auth import Guard, Principal
    from dvecdb.api.import_reports import ImportReports
    from dvecdb.api.jobs import Jobs
    from dvecdb.api.metrics import Metrics
    from dvecdb.api.tasks import Tasks
    from dvecdb.clock import Clock
    from dvecdb.engine.collection import Collection as EngineCollection
    from dvecdb.errors import DvecdbError
    from dvecdb.protection.collection import Collection
    from dvecdb.records import WriteOptions
    from dvecdb.rescue.database import Database
    from dvecdb.wire.bodies import DocumentValue

_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Parts:
    """What the server is made of. `started_ns`: monotonic; `description`, `docs`: ready pages.

    imports: the reports of imports; import_roots: directories that an import or a job may read;
    jobs: those that run; job_env: variables of `environment` that a job may name.
    """

    database: Database
    guard: Guard
    audit: Audit
    tasks: Tasks
    imports: ImportReports
    import_roots: tuple[str, ...]
    jobs: Jobs
    job_env: tuple[str, ...]
    environment: Mapping[str, str]
    metrics: Metrics
    clock: Clock
    started_ns: int
    description: bytes
    docs: bytes

    @property
    def uptime_seconds(self) -> int:
        """Whole seconds since the start."""
        return (self.clock.monotonic_ns() - self.started_ns) // _NANOSECONDS


@dataclass(slots=True)
class Context:
    """One request. `path`: its parameters, decoded; `query`: the endpoint's query struct."""

    parts: Parts
    principal: Principal
    request_id: str
    path: Mapping[str, str]
    query: Any
    headers: Mapping[str, str]
    form: Format = Format.JSON
    """How the answer will be written."""
    options: WriteOptions = field(default_factory=dict)  # type: ignore[assignment]
    """Idempotency key, actor, reason, condition and request id of a write."""
    opened: EngineCollection | None = None
    """What is read in place of the collection of the path: a trash entry or a backup."""
    subject: str | None = None
    """For the audit log: which collection it is about, where the path does not say."""
    note: Callable[[Answer | None, DvecdbError | None], None] = lambda _, __: None
    """Writes a line of the audit log: for work that goes on after the answer."""

    @property
    def database(self) -> Database:
        """The database."""
        return self.parts.database

    @property
    def collection(self) -> Collection:
        """The collection of the path.

        Raises:
            InvalidRequestError: `invalid-name`.
            NotFoundError: `collection-not-found`.
            DamagedDataError: `collection-damaged`.
        """
        return self.parts.database.collection(check_name(self.path["collection"]))

    @property
    def readable(self) -> EngineCollection:
        """What a read is of: the collection of the path, or what was opened in its place."""
        return self.collection if self.opened is None else self.opened

    def conditions(
        self, expect: list[DocumentValue], if_lsn: int | None = None, *, confirm: bool = False
    ) -> WriteOptions:
        """Return the options of a write with the conditions that its body sets.

        Raises:
            InvalidRequestError: `invalid-argument`, the header has another `if_lsn`.
        """
        options: WriteOptions = {**self.options, "expect": pairs(expect, "expect")}
        options["confirm"] = confirm
        if if_lsn is not None:
            if options.get("if_lsn", if_lsn) != if_lsn:
                raise InvalidRequestError(
                    Code.INVALID_ARGUMENT,
                    f"if_lsn is {if_lsn} in the body and {options['if_lsn']} in the header; "
                    "pass one of them",
                )
            options["if_lsn"] = if_lsn
        return options

    @property
    def is_binary(self) -> bool:
        """Whether vectors of the answer are bytes."""
        return self.form is Format.MSGPACK


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operation came to.

    data: what `wire.codec.encode` takes, or the bytes of the whole answer where the endpoint has a
    media type of its own; lsn: of the commit, or of the state it is about; rows: written or
    deleted, for the audit log; status and media: if they are not the endpoint's; headers: besides
    those of every answer, names in lower case.
    """

    data: Any
    lsn: int | None = None
    rows: int | None = None
    status: int | None = None
    media: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
