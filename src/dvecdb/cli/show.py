"""`dvecdb collections`, `create`, `info`, `stats`, `delete` and `history`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dvecdb.cli.exit_codes import DAMAGE, OK
from dvecdb.cli.output import (
    confirm,
    duration_text,
    finding_lines,
    print_facts,
    print_json,
    print_table,
    say,
    size_text,
    time_text,
)
from dvecdb.cli.trash import expiry_text
from dvecdb.errors import DamagedDataError

if TYPE_CHECKING:
    import dvecdb
    from dvecdb.cli.target import Target
    from dvecdb.records import CollectionStats, CommitInfo, Finding, IndexStats


def list_collections(target: Target, *, as_json: bool) -> int:
    """Print the collections; return the exit code. Raises `DvecdbError`."""
    with target.open() as database:
        stats = [database.collection(name).stats() for name in database.collections()]
        aside = set_aside(database)
    if as_json:
        print_json({"collections": stats, "set_aside": aside})
        return DAMAGE if aside else OK
    if stats:
        headings = ["NAME", "RECORDS>", "DIMENSION>", "TYPE", "METRIC", "LSN>", "SIZE>",
                    "FINDINGS>"]  # fmt: skip
        print_table(headings, [_summary(item) for item in stats])
    for finding in aside:
        say("\n".join(finding_lines(finding)))
    if not stats and not aside:
        say("no collections")
    return DAMAGE if aside else OK


def set_aside(database: dvecdb.Database) -> list[Finding]:
    """Return the findings about collections that could not be opened."""
    opened = set(database.collections())
    return [finding for finding in database.findings() if finding.collection not in opened]


def _summary(stats: CollectionStats) -> tuple[object, ...]:
    schema = stats.schema
    return (
        stats.name, stats.count, schema.dimension, schema.vector_type, schema.metric,
        stats.last_lsn, size_text(_size(stats)), stats.findings,
    )  # fmt: skip


def _size(stats: CollectionStats) -> int:
    return stats.segment_bytes + stats.wal_bytes


def create_collection(
    target: Target, name: str, dimension: int, metric: str, vector_type: str, *, as_json: bool
) -> int:
    """Make a collection; return the exit code. Raises `DvecdbError`."""
    with target.open(write=True, create=True) as database:
        schema = database.create_collection(
            name, dimension=dimension, metric=metric, vector_type=vector_type
        ).schema
    if as_json:
        print_json({"name": name, **msgspec.to_builtins(schema)})
    else:
        say(f"created {name}: {schema.dimension} x {schema.vector_type}, {schema.metric}")
    return OK


def show_collection(target: Target, name: str, *, as_json: bool) -> int:
    """Print what a collection is and what was done to it last; return the exit code."""
    with target.open() as database:
        collection = database.collection(name)
        stats, newest = collection.stats(), collection.history(limit=1)
        findings, tags = collection.findings(), collection.tags()
        is_protected = collection.is_protected()
    if as_json:
        commit = commit_json(newest[0]) if newest else None
        print_json({**msgspec.to_builtins(stats), "last_commit": commit,
                    "is_protected": is_protected, "tags": tags})  # fmt: skip
        return OK
    schema = stats.schema
    facts: list[tuple[str, object]] = [
        ("name", stats.name),
        ("uuid", stats.uuid),
        ("dimension", schema.dimension),
        ("vector type", schema.vector_type),
        ("metric", schema.metric),
        ("records", stats.count),
        ("size", size_text(_size(stats))),
        ("index", index_text(stats.index)),
        ("last LSN", stats.last_lsn),
    ]
    if newest:
        who = f" by {newest[0].actor}" if newest[0].actor else ""
        facts.append(("last commit", f"{newest[0].operation} at {time_text(newest[0].time)}{who}"))
    if stats.horizon_lsn:
        facts.append(("readable from", f"LSN {stats.horizon_lsn}"))
    if tags:
        facts.append(("tags", ", ".join(f"{name} (LSN {lsn})" for name, lsn in tags.items())))
    if is_protected:
        facts.append(("protected", "yes: deleting it is refused"))
    print_facts([*facts, ("findings", stats.findings)])
    for finding in findings:
        say("\n".join(finding_lines(finding)))
    return OK


def index_text(index: IndexStats) -> str:
    """Return how far the index of a collection is."""
    if index.state == "none":
        return "none: searches measure every record"
    total = index.rows_done + index.rows_to_do
    text = f"{index.state}, {index.rows_done} of {total} rows"
    if index.seconds_left is not None:
        text += f", about {duration_text(index.seconds_left)} left"
    return f"{text}, {index.lists} lists, {size_text(index.size_bytes)}"


def show_stats(target: Target, name: str | None, *, as_json: bool) -> int:
    """Print the figures of one or of all collections; return the exit code."""
    with target.open() as database:
        names = database.collections() if name is None else [name]
        stats = [database.collection(item).stats() for item in names]
    if as_json:
        print_json(stats[0] if name is not None else {"collections": stats})
        return OK
    if name is None:
        figures: list[tuple[str, Any]] = [
            ("collections", len(stats)),
            ("records", sum(item.count for item in stats)),
            ("rows ever written", sum(item.rows for item in stats)),
            ("segments", sum(item.segments for item in stats)),
            ("segment bytes", sum(item.segment_bytes for item in stats)),
            ("in memory, bytes", sum(item.memtable_bytes for item in stats)),
            ("log bytes", sum(item.wal_bytes for item in stats)),
            ("in indexes", sum(item.index.rows_done for item in stats)),
            ("to be indexed", sum(item.index.rows_to_do for item in stats)),
            ("findings", sum(item.findings for item in stats)),
        ]
    else:
        built: dict[str, Any] = msgspec.to_builtins(stats[0])
        built.update(built.pop("schema"))
        index = {f"index {key}": value for key, value in built.pop("index").items()}
        built.update(index)
        figures = [(key.replace("_", " ").replace("lsn", "LSN"), built[key]) for key in built]
    print_facts(figures)
    return OK


def delete_collection(
    target: Target, name: str, *, yes: bool, actor: str | None, reason: str | None, as_json: bool
) -> int:
    """Move a collection to the trash; return the exit code. Raises `DvecdbError`."""
    with target.open(write=True) as database:
        count = count_if_sound(database, name)
        what = "damage" if count is None else f"{count} records"
        confirm(f"Delete collection {name} with {what}? It goes to the trash.", yes=yes)
        database.delete_collection(name, actor=actor, reason=reason)
        entry = next((item for item in database.trash() if item.collection == name), None)
    if as_json:
        print_json({"deleted": name, "records": count, "entry": entry})
        return OK
    say(f"deleted {name} ({what}); it is in the trash, whole")
    if entry is not None:
        say(f"bring it back: dvecdb restore {entry.name}   (it goes: {expiry_text(entry)})")
    return OK


def count_if_sound(database: dvecdb.Database, name: str) -> int | None:
    """Return the number of records of a collection; None if it was set aside.

    Raises:
        NotFoundError: `collection-not-found`.
    """
    try:
        return database.collection(name).count()
    except DamagedDataError:
        return None


def show_history(
    target: Target, name: str, *, limit: int, before: int | None, as_json: bool
) -> int:
    """Print the newest commits of a collection; return the exit code. Raises `DvecdbError`."""
    with target.open() as database:
        commits = database.collection(name).history(limit=limit, before=before)
    if as_json:
        print_json({"commits": [commit_json(commit) for commit in commits]})
        return OK
    if not commits:
        say("no commits")
        return OK
    print_table(
        ["LSN>", "TIME", "OPERATION", "ROWS>", "ENDED>", "BY", "REASON"],
        [
            (item.lsn, time_text(item.time), item.operation, item.rows, item.ended,
             item.actor or "-", item.reason or "-")
            for item in commits
        ],
    )  # fmt: skip
    return OK


def commit_json(commit: CommitInfo) -> dict[str, Any]:
    """Return a commit as JSON has it."""
    built: dict[str, Any] = msgspec.to_builtins(commit)
    return built
