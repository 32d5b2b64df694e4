"""What an embedding job that a server runs may read: files and environment variables.

    a path        what an import may read: the data directory without what is in use, import roots
    a variable    `DATABASE_URL` as that of a database, `FASTAPI_URL` as that of a service; the
                  ones made for jobs, `DVECDB_JOB_…`, and those that the server was told, anywhere

Whoever may start a job says where texts and keys are sent, so nothing else of the server's
environment can be named: not even seen by the job. Pure, but for the links of paths.
"""

from __future__ import annotations

import posixpath
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from dvecdb.api import import_sources
from dvecdb.errors import Code, InvalidRequestError
from dvecdb.media.files import absolute_paths

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dvecdb.embedding.job import Job
    from dvecdb.records import Json
    from dvecdb.rescue.database import Database

PREFIX: Final = "DVECDB_JOB_"
DATABASE: Final = "DATABASE_URL"
SERVICE: Final = "FASTAPI_URL"
PATH_LENGTH_MAX: Final = 4096
_PROXIES: Final = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})
_SECRET_LENGTH_MIN: Final = 4  # what is shorter stands in any text


@dataclass(frozen=True, slots=True)
class Allowance:
    """What this server lets a job read. names: variables that it was told."""

    database: Database
    roots: Sequence[str]
    names: Sequence[str]
    environment: Mapping[str, str]

    # --- files ---

    def resolve(self, text: str) -> str:
        """Return where the file of a source is; a relative path is inside the data directory.

        Raises:
            InvalidRequestError: `invalid-job`; `source-not-allowed`, says what would allow it.
            ConflictError: `source-in-use`.
        """
        if not text or "\0" in text or len(text) > PATH_LENGTH_MAX:
            raise InvalidRequestError(
                Code.INVALID_JOB,
                f"path: expected 1 to {PATH_LENGTH_MAX} characters without NUL, found {text!r:.80}",
            )
        shown, data_dir = absolute_paths(self.database.path)
        asked = import_sources.absolute(text, shown)
        path = absolute_paths(asked)[1]
        roots = [absolute_paths(root)[1] for root in self.roots]
        if import_sources.find_source(path, data_dir, roots) is None:
            flag = f"--import-root {shlex.quote(posixpath.dirname(asked))}"
            raise InvalidRequestError(
                Code.SOURCE_NOT_ALLOWED,
                f"{asked:.300} is neither inside the data directory nor inside an import root; "
                f"nothing was read. Start the server with '{flag}', or run the job on the machine "
                "that has the file, with 'dvecdb embed run'",
                path=asked,
                flag=flag,
            )
        import_sources.refuse_in_use(path, data_dir, self.database.collections())
        return path

    # --- variables ---

    def admit(self, job: Job) -> Mapping[str, str]:
        """Return the environment of a job, with what it names and may, and nothing else.

        Raises:
            InvalidRequestError: `source-not-allowed`, a variable or a path; says what would allow
                it. `invalid-job`.
            ConflictError: `source-in-use`.
        """
        for source in job.sources.values():
            if source.path is not None:
                self.resolve(source.path)
        named = {name for name, whose in _named(job) if self._check(name, whose)}
        proxies = {name for name in self.environment if name.lower() in _PROXIES}
        return {
            name: self.environment[name] for name in named | proxies if name in self.environment
        }

    def _check(self, name: str, known: str | None) -> bool:
        """Refuse a variable that is not made for jobs. known: one that may stand here."""
        if name == known or name.startswith(PREFIX) or name in self.names:
            return True
        flag = f"--job-env {shlex.quote(name)}"
        raise InvalidRequestError(
            Code.SOURCE_NOT_ALLOWED,
            f"a job may not use the environment variable {name:.80} of this server"
            f"{' here' if name in {DATABASE, SERVICE} else ''}; nothing was read. Name it "
            f"{PREFIX}… where the server is started, or start the server with '{flag:.120}': then "
            "whoever may start jobs can send its value anywhere",
            variable=name[:256],
            flag=flag[:256],
        )


def _named(job: Job) -> Iterator[tuple[str, str | None]]:
    """Yield every variable that a job will use, and the well-known one that may stand there."""
    for source in job.sources.values():
        if source.path is None:
            yield source.database_url_env, DATABASE
    embedder = job.embedder
    if embedder.kind != "local":
        if not embedder.url:
            yield embedder.url_env, SERVICE
        if embedder.api_key_env is not None:
            yield embedder.api_key_env, None


def secrets_of(job: Job, environment: Mapping[str, str]) -> list[str]:
    """Return what may stand in no answer, longest first: values, passwords in them, headers."""
    found = set(job.embedder.headers.values())
    for value in (*environment.values(), job.embedder.url or ""):
        try:
            parts = urlsplit(value.strip())
            password = parts.password
        except ValueError:
            found.add(value.strip())
            continue
        if password is not None:
            found |= {value.strip(), password, unquote(password)}
        elif not parts.hostname:  # else where a service is, which an error has to say
            found.add(value.strip())
    return sorted((one for one in found if len(one) >= _SECRET_LENGTH_MIN), key=len, reverse=True)


def without(secrets: Sequence[str], value: Json) -> Json:
    """Return a text, or the JSON value that has texts in it, with every secret replaced."""
    if isinstance(value, dict):
        return {name: without(secrets, inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without(secrets, inner) for inner in value]
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
    return value
