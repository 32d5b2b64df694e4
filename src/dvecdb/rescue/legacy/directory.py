"""A legacy data directory: which collections it holds, and reading one of them."""

from __future__ import annotations

import posixpath
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from dvecdb.errors import Code, DirectoryError, InvalidRequestError, NotFoundError
from dvecdb.media.files import absolute_paths
from dvecdb.records import Metric, Schema, VectorType
from dvecdb.reports import ImportReport, Lost, Unreadable, cap_lost
from dvecdb.rescue.legacy import names
from dvecdb.rescue.legacy.collection import LegacyCollection, LegacyVectors, id_texts, read_rows
from dvecdb.rescue.legacy.layout import used_size
from dvecdb.rescue.legacy.log import CollectionLog, Log, read_log
from dvecdb.rescue.salvage import Salvage

if TYPE_CHECKING:
    from dvecdb.rescue.files import SourceFile, SourceFiles
    from dvecdb.rescue.salvage import Choice, Progress

_DEPTH_MAX = 8
_DESCRIBED_WEIGHT = 4


@dataclass(frozen=True, slots=True)
class Place:
    """Where a collection is.

    vectors: its file, or None; log: that of its data directory, or None; area: `.deleted`,
    `.backups`, `snapshots` or nothing.
    """

    name: str
    vectors: str | None
    log: str | None = None
    description: str | None = None
    area: str = ""

    @property
    def kind(self) -> str:
        """What it is, as reports say it."""
        return {
            names.DELETED: "legacy-deleted",
            names.BACKUPS: "legacy-backup",
            names.SNAPSHOTS: "legacy-snapshot",
        }.get(self.area, "legacy-log" if self.vectors is None else "legacy-collection")


def place_of_directory(files: SourceFiles, path: str) -> Place:
    """Return the place of a directory with a vectors.bin in it."""
    path = absolute_paths(path)[0]
    parent, base = posixpath.split(path)
    above, area = posixpath.split(parent)
    if area not in {names.DELETED, names.BACKUPS, names.SNAPSHOTS}:
        above, area = parent, ""
    description = posixpath.join(path, names.METADATA)
    log = posixpath.join(above, names.LOG)
    own_log = posixpath.join(path, names.LOG)
    if files.has_file(own_log):  # a collection without a name lies in the data directory itself
        log, base, area = own_log, "", ""
    return Place(
        name=names.original_name(base, area),
        vectors=posixpath.join(path, names.VECTORS),
        log=log if files.has_file(log) else None,
        description=description if files.has_file(description) else None,
        area=area,
    )


def places_in(files: SourceFiles, path: str) -> list[Place]:
    """Return the collections of a data directory, at any depth and in its log; none twice."""
    root = absolute_paths(path)[0]
    log = posixpath.join(root, names.LOG)
    has_log = files.has_file(log)
    found = [_nested(place, root, log if has_log else None) for place in _walk(files, root, 0)]
    known = {place.name for place in found if not place.area}
    if has_log:
        logged = log_of(files, log)[1].collections
        found += [Place(name, vectors=None, log=log) for name in logged if name not in known]
    return found


def _walk(files: SourceFiles, path: str, depth: int) -> list[Place]:
    found: list[Place] = []
    if files.has_file(posixpath.join(path, names.VECTORS)):
        found.append(place_of_directory(files, path))
    if depth >= _DEPTH_MAX:
        return found
    try:
        below = files.names(path)
    except OSError:
        return found
    for name in below:
        inner = posixpath.join(path, name)
        if files.is_directory(inner, follow=False):
            found += _walk(files, inner, depth + 1)
    return found


def log_of(files: SourceFiles, path: str) -> tuple[SourceFile, Log]:
    """Read a log. Raises `OSError`."""
    file = files.open(path, names.LOG)
    return file, read_log(file.data, file.size, names.LOG)


def read_place(
    files: SourceFiles, place: Place, source: str, choice: Choice, progress: Progress | None = None
) -> Salvage:
    """Read one collection; the salvage closes `files`.

    Raises:
        NotFoundError: `nothing-recoverable`.
        InvalidRequestError: `source-contradicts`.
        DirectoryError: `directory-unreadable`.
    """
    report = ImportReport(source=source, kind=place.kind, name=place.name)
    legacy = _open(files, place, choice, report)
    described = _description(files, place, report)
    counts = legacy.dimensions()
    dimension = _dimension(legacy, counts, described, choice, report)
    metric = _metric(legacy, described, choice, report)
    size = legacy.vectors.size if legacy.vectors is not None else 0
    rows = read_rows(
        legacy, dimension, choice, report,
        None if progress is None else lambda done: progress(done, size),
    )  # fmt: skip
    report.dimension, report.metric = dimension, str(metric)
    _note_log(legacy, choice, report)
    _note_other_dimensions(counts, dimension, report)
    cap_lost(report)
    if not rows and not (_is_empty(legacy) or report.deleted_by_log):
        raise nothing(report)
    vectors = LegacyVectors(legacy, rows, dimension, report)
    schema = Schema(dimension, metric, VectorType.FLOAT32)
    return Salvage(schema, report, id_texts(rows), [row.json for row in rows], vectors, files.close)


def _open(
    files: SourceFiles, place: Place, choice: Choice, report: ImportReport
) -> LegacyCollection:
    vectors = log_file = log = None
    is_complete = False
    if place.vectors is not None:
        try:
            vectors = files.open(place.vectors, posixpath.basename(place.vectors))
        except OSError as error:
            why = error.strerror or str(error)
            report.unreadable.append(Unreadable(place.vectors, why))
            if place.log is None:
                raise DirectoryError(
                    Code.DIRECTORY_UNREADABLE, f"{place.vectors}: {why}", path=place.vectors
                ) from error
    uses_log = choice.use_log and place.area in {"", names.DELETED}
    if place.log is not None and uses_log:
        try:
            log_file, whole = log_of(files, place.log)
        except OSError as error:
            report.unreadable.append(Unreadable(place.log, error.strerror or str(error)))
        else:
            log = whole.collections.get(place.name)
            is_complete = whole.framings == ["v1"]
            report.lost += whole.lost
            report.unreadable += log_file.unreadable
            if place.area and log is not None and not _is_of_deleted(files, place, log):
                log = None
                report.notes.append(
                    "the log was not used: another collection of this name may have written it"
                )
    elif place.log is None and vectors is not None:
        report.notes.append(
            "no log at hand: what was deleted by id is only known to the log, and comes back"
        )
    return LegacyCollection(vectors, log_file, log, is_complete)


def _is_of_deleted(files: SourceFiles, place: Place, log: CollectionLog) -> bool:
    """Tell whether the log of its name belongs to a deleted collection, not to its successor."""
    assert place.log is not None
    successor = posixpath.join(posixpath.dirname(place.log), place.name, names.VECTORS)
    return log.creations <= 1 and not files.has_file(successor)


def _description(
    files: SourceFiles, place: Place, report: ImportReport
) -> names.Description | None:
    if place.description is None:
        return None
    try:
        file = files.open(place.description, names.METADATA)
    except OSError as error:
        report.unreadable.append(Unreadable(place.description, error.strerror or str(error)))
        return None
    found = names.read_description(bytes(file.data[: 1 << 20]))
    if found is None:
        report.notes.append("metadata.json is damaged and was not used")
        return None
    if found.name is not None and found.name != place.name:
        report.notes.append(f"metadata.json calls the collection {found.name!r}")
        report.name = found.name
    if found.vector_type not in {None, "Float32"}:
        report.notes.append(
            f"metadata.json says {found.vector_type}; the bytes are float32 and stay it"
        )
    return found


def _dimension(
    legacy: LegacyCollection,
    counts: Counter[int],
    described: names.Description | None,
    choice: Choice,
    report: ImportReport,
) -> int:
    shown = ", ".join(f"{size} ({count} records)" for size, count in counts.most_common(5))
    if choice.dimension is not None and counts and choice.dimension not in counts:
        raise InvalidRequestError(
            Code.SOURCE_CONTRADICTS,
            f"dimension {choice.dimension} was given, but the records say {shown}; nothing was "
            "imported. Leave it out, or give what the records say",
            given=choice.dimension,
            found={str(size): count for size, count in counts.most_common(5)},
        )
    logged = legacy.log.dimension if legacy.log is not None else None
    said = described.dimension if described is not None else logged
    if counts:
        likeliest, count = counts.most_common(1)[0]
        if choice.dimension is not None:
            likeliest = choice.dimension
        elif said is not None and counts[said] * _DESCRIBED_WEIGHT >= count:
            likeliest = said
        if said is not None and said != likeliest:
            report.notes.append(f"its description says dimension {said}; the records say {shown}")
        return likeliest
    known = choice.dimension or said
    if known is None or not 1 <= known <= 65_536:
        _note_unread(legacy, report)
        raise nothing(report, "no dimension is known; give one to import it as empty")
    return known


def _note_unread(legacy: LegacyCollection, report: ImportReport) -> None:
    """Say that a file has bytes, if it has, although no record can be told in it."""
    file = legacy.vectors
    if file is not None:
        report.bytes_used = used_size(file.data, file.size)
        if report.bytes_used:
            why = "no record can be told in it"
            report.lost.append(Lost(file.name, 0, report.bytes_used, why))


def _note_other_dimensions(counts: Counter[int], dimension: int, report: ImportReport) -> None:
    """Say what else may be in the ranges that are lost."""
    others = Counter({size: count for size, count in counts.items() if size != dimension})
    if others and report.lost:
        shown = ", ".join(f"{size} ({count})" for size, count in others.most_common(5))
        report.notes.append(
            f"there may be records of other dimensions: {shown}; --dimension imports those"
        )


def _metric(
    legacy: LegacyCollection,
    described: names.Description | None,
    choice: Choice,
    report: ImportReport,
) -> Metric:
    said = described.metric if described is not None else None
    if said is None and legacy.log is not None and legacy.log.metric is not None:
        said = Metric(legacy.log.metric)
    if choice.metric is not None:
        given = names.parse_legacy_metric(choice.metric)
        if given is None:
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT,
                f"unknown metric {choice.metric!r}; expected one of {', '.join(Metric)}",
            )
        if said is not None and said is not given:
            raise InvalidRequestError(
                Code.SOURCE_CONTRADICTS,
                f"metric {given} was given, but the source says {said}; nothing was imported. "
                "Leave it out, or give what the source says",
                given=str(given),
                found=str(said),
            )
        return given
    if said is None:
        report.notes.append("no metric is known; cosine is taken (give --metric for another)")
        return Metric.COSINE
    return said


def _note_log(legacy: LegacyCollection, choice: Choice, report: ImportReport) -> None:
    log = legacy.log
    if log is None:
        return
    if log.is_dropped and report.name is not None:
        report.dropped_by_log.append(report.name)
        if legacy.vectors is None and not choice.include_dropped:
            report.notes.append("the log dropped this collection; --include-dropped brings it back")
    if report.generation is None and log.puts:
        report.generation = "log"
    if legacy.vectors is None:
        report.records_found = sum(len(puts) for puts in log.puts.values())


def _is_empty(legacy: LegacyCollection) -> bool:
    """Tell whether a source is a collection without a record, rather than one that is lost."""
    file, log = legacy.vectors, legacy.log
    if file is None:
        return log is not None and not log.is_dropped and not log.puts
    return not any(file.data[at : at + 4096].strip(b"\0") for at in range(0, file.size, 4096))


def nothing(report: ImportReport, why: str = "no record can be told in it") -> NotFoundError:
    """Return the error of a source that holds nothing."""
    cap_lost(report)
    return NotFoundError(
        Code.NOTHING_RECOVERABLE,
        f"{report.source}: nothing to bring back: {'; '.join([why, *report.notes])}",
        report=msgspec.to_builtins(report),
    )


def choose(places: list[Place], source: str, choice: Choice) -> Place:
    """Return the collection that is wanted of a data directory.

    Raises:
        NotFoundError: `nothing-recoverable`, `source-not-found`.
        InvalidRequestError: `source-unclear`.
    """
    if not places:
        raise nothing(ImportReport(source=source, kind="directory"), "no vectors.bin and no log")
    shown = sorted({place.name for place in places})
    if choice.collection is not None:
        named = [place for place in places if place.name == choice.collection]
        live = [place for place in named if not place.area]
        if not named:
            raise NotFoundError(
                Code.SOURCE_NOT_FOUND,
                f"{source} has no collection {choice.collection!r}; it has: {', '.join(shown)}",
                collections=shown,
            )
        if len(live or named) == 1:
            return (live or named)[0]
        where = ", ".join(posixpath.dirname(place.vectors or "") for place in named)
        raise InvalidRequestError(
            Code.SOURCE_UNCLEAR,
            f"{source} has several of collection {choice.collection!r}; give the directory of the "
            f"one that is wanted: {where}",
        )
    live = [place for place in places if not place.area] or places
    if len(live) > 1:
        raise InvalidRequestError(
            Code.SOURCE_UNCLEAR,
            f"{source} has several collections; name one of them (--collection): "
            f"{', '.join(shown)}",
            collections=shown,
        )
    return live[0]


def _nested(place: Place, root: str, log: str | None) -> Place:
    """Return a place with the name that a collection below directories has: `a/b`, and its log."""
    if place.vectors is None or place.area:
        return place
    name = posixpath.relpath(posixpath.dirname(place.vectors), root)
    return replace(place, name="" if name == "." else name, log=place.log or log)
