"""What a run did, for people and programs."""

from __future__ import annotations

from typing import Literal

import msgspec

from dvecdb.embedding.progress import Cursor  # msgspec reads it

State = Literal["done", "stopped", "budget"]


class Spent(msgspec.Struct, frozen=True):
    """What a run asked of its embedder. money: in the unit of `price_per_million_tokens`."""

    requests: int
    texts: int
    tokens: int
    money: float | None
    seconds: float
    waited_seconds: float


class JobReport(msgspec.Struct, frozen=True):
    """A run. sources: how far each is; dead_letters: of all its sources, when it ended."""

    collection: str
    model: str
    state: State
    sources: dict[str, Cursor]
    dead_letters: int
    spent: Spent


class Estimate(msgspec.Struct, frozen=True):
    """What a run would do with a source. texts: that would be paid for; tokens: about."""

    rows: int
    unchanged: int
    relabelled: int
    copied: int
    failed: int
    skipped: int
    texts: int
    tokens: int
    money: float | None


class Checked(msgspec.Struct, frozen=True):
    """How a source and its records compare. ok: every row has its vector, and no more are there.

    counts, listed: how many rows are `missing`, `stale`, `damaged`, `failed`, by their keys, and
    how many records are `orphaned`, by their ids; the first thousand of each are listed.
    """

    rows: int
    good: int
    counts: dict[str, int]
    listed: dict[str, list[str]]
    ok: bool


class SourceStatus(msgspec.Struct, frozen=True):
    """A source as the collection remembers it. dead_letters: its rows without a vector."""

    cursor: Cursor | None
    dead_letters: int


class Status(msgspec.Struct, frozen=True):
    """What a collection says of its job. running: the lease, None if nobody runs one."""

    collection: str
    model: str | None
    dimension: int | None
    running: dict[str, str | int] | None
    sources: dict[str, SourceStatus]
    dead_letters: list[dict[str, str | int]]
