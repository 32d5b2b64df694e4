r"""What a job is: its sources, its embedder, how fast it may go. From TOML, JSON or Python.

[embedder]
kind = "openai"
url = "https://api.example.com/v1"
model = "text-embedding-3-small"

[sources.cyber]
table = "cyber_incidents"
key = "id"
text = "{title}\n{description}"
metadata = ["severity", "year"]

Every field has a default or is named by the error that misses it. Secrets are named, never kept:
`api_key_env` and `database_url_env` are names of environment variables.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec

from dvecdb.embedding.identity import FIELD
from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

_OWN_FIELD: Final = re.compile(rf"(?:^|\sas\s)\s*{FIELD}\s*$", re.IGNORECASE)
TOKENS_OF_A_PRICE: Final = 1_000_000
SOURCE_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"

Whole = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class SourceSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    r"""One source of a job. Exactly one of `table`, `query` and `path` says where the rows are.

    kind: None, by what else is given: a path by its ending, anything else PostgreSQL.
    text: a template of columns, `{title}\n{description}`, or the name of one column.
    metadata: columns that become metadata; one may be renamed: `column as name`.
    changed_since: a column that grows whenever a row changes.
    """

    key: str
    text: str
    kind: Literal["postgresql", "sqlite", "jsonl", "csv", "parquet"] | None = None
    table: str | None = None
    query: str | None = None
    path: str | None = None
    database_url_env: str = "DATABASE_URL"
    metadata: tuple[str, ...] = ()
    changed_since: str | None = None


class EmbedderSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who makes the vectors.

    kind: `service`, any HTTP service that takes texts and gives vectors; `openai`, whatever speaks
    `/v1/embeddings`; `local`, a model in this process (`model`: `fake`, `minilm`).
    url: None, what `url_env` names. texts_field, vectors_field: of the service's request and
    answer, dotted (`data.vectors`). dimensions: asked for, and checked.
    """

    kind: Literal["service", "openai", "local"] = "service"
    url: str | None = None
    url_env: str = "FASTAPI_URL"
    path: str | None = None
    model: str | None = None
    dimensions: Whole | None = None
    api_key_env: str | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    texts_field: str = "texts"
    vectors_field: str = "embeddings"
    encoding: Literal["base64", "float"] = "base64"
    timeout_seconds: Seconds = 60.0
    connect_timeout_seconds: Seconds = 10.0
    price_per_million_tokens: Annotated[float, msgspec.Meta(ge=0)] | None = None

    def money(self, tokens: int) -> float | None:
        """Return what tokens cost, None if no price is known."""
        price = self.price_per_million_tokens
        return None if price is None else tokens * price / TOKENS_OF_A_PRICE


class FlowSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How fast a job may go, and how long it tries.

    batch: texts of a request at most. page: rows read from a source at a time. concurrency:
    requests at a time at most. ahead: rows read and not yet committed at most; 0: a page is only
    read when everything before it is committed. attempts: tries of a request that the service
    failed, before its texts are tried one by one. A wait is `retry_seconds`, doubled with each
    try, less a random part of at most `jitter` of it. budgets: of one run; it stops before it
    would exceed one. Probes of the embedder are not counted.
    give_up_seconds: how long a dead service or database is waited for; None: for ever.
    """

    batch: Whole = 50
    page: Whole = 1_000
    ahead: Count = 20_000
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    requests_per_minute: Whole | None = None
    tokens_per_minute: Whole | None = None
    tokens_per_request: Whole | None = None
    budget_requests: Count | None = None
    budget_tokens: Count | None = None
    budget_money: Annotated[float, msgspec.Meta(ge=0)] | None = None
    attempts: Whole = 5
    jitter: Share = 0.5
    retry_seconds: Seconds = 1.0
    retry_seconds_max: Seconds = 60.0
    give_up_seconds: Seconds | None = None


class TextSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to do with texts as they come.

    too_long: what is longer than `length_max` characters is cut, or embedded in parts whose
    vectors are averaged by their lengths, or becomes a dead letter. empty: rows without text
    become dead letters, or are passed over.
    """

    length_max: Whole | None = None
    too_long: Literal["truncate", "split", "dead-letter"] = "truncate"
    empty: Literal["dead-letter", "skip"] = "dead-letter"


class TargetSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the vectors go: a collection, made with these if it does not exist."""

    collection: str
    metric: str = "cosine"
    vector_type: str = "float32"


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A job: sources, an embedder, a target. Rerunning it embeds what is new or has changed."""

    target: TargetSpec
    sources: Annotated[
        dict[Annotated[str, msgspec.Meta(pattern=SOURCE_NAME)], SourceSpec],
        msgspec.Meta(min_length=1),
    ]
    embedder: EmbedderSpec = msgspec.field(default_factory=EmbedderSpec)
    flow: FlowSpec = msgspec.field(default_factory=FlowSpec)
    text: TextSpec = msgspec.field(default_factory=TextSpec)

    def __post_init__(self) -> None:
        """Refuse what can never work."""
        for name, source in self.sources.items():
            places = [
                what for what in ("table", "query", "path") if getattr(source, what) is not None
            ]
            if source.kind in {None, "sqlite"} and len(places) == 2 and "path" in places:
                continue  # a file of SQLite, and what to read in it; others refuse that
            if len(places) != 1:
                raise ValueError(
                    f"source {name}: give one of table, query and path; found "
                    f"{' and '.join(places) or 'none'}"
                )


def parse_job(values: Mapping[str, Any]) -> Job:
    """Return the job that a mapping describes.

    Raises:
        InvalidRequestError: `invalid-job`, says which field, what was expected and found.
    """
    try:
        return msgspec.convert(values, Job)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(Code.INVALID_JOB, f"the job cannot be used: {error}") from error


def parse_toml(text: str, shown: str = "the job") -> dict[str, Any]:
    """Return the values of a TOML text, not yet checked.

    Raises:
        InvalidRequestError: `invalid-job`, it is no TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequestError(Code.INVALID_JOB, f"{shown} is no TOML: {error}") from error


def refuse_own_field(job: Job) -> None:
    """Refuse metadata that would hide what a record was made of. Raises `invalid-job`."""
    for name, source in job.sources.items():
        for column in source.metadata:
            if _OWN_FIELD.search(column):
                raise InvalidRequestError(
                    Code.INVALID_JOB,
                    f"source {name}: metadata {column!r}: {FIELD} is written by the job; "
                    f"give the column another name: '{FIELD} as name'",
                )
