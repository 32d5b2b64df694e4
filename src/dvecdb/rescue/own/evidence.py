"""What proves what: manifests, identity, schema, and which segments count."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec

from dvecdb.engine.manifest import schema_of
from dvecdb.engine.recovery import bulk_entry
from dvecdb.errors import Code, InvalidRequestError
from dvecdb.formats import names
from dvecdb.formats.framing import FormatError
from dvecdb.formats.manifest_file import decode_collection_file, decode_manifest
from dvecdb.records import DIMENSION_MAX, Metric, Schema, VectorType, parse_metric
from dvecdb.rescue.own.coverage import Coverage
from dvecdb.rescue.own.logs import accept
from dvecdb.rescue.own.segments import Opened, open_found

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dvecdb.formats.batch import Batch
    from dvecdb.formats.manifest_file import CollectionFile, Manifest, SchemaEntry, SegmentEntry
    from dvecdb.records import Finding
    from dvecdb.rescue.own.logs import Accepted, Log
    from dvecdb.rescue.own.places import Place
    from dvecdb.rescue.own.segments import Found, Unusable
    from dvecdb.rescue.salvage import Choice

_TYPES_BY_WIDTH: Final = {4: VectorType.FLOAT32, 2: VectorType.FLOAT16, 1: VectorType.INT8}


@dataclass(slots=True)
class Stated:
    """What manifests and collection.json say. manifests: of this collection, the newest first."""

    manifests: list[Manifest]
    collection: CollectionFile | None
    uuid: UUID | None
    lineage: str | None


def read_stated(place: Place, logs: Sequence[Log]) -> Stated:
    """Read every manifest, the copies in the logs as well, and keep those of one history."""
    files = _read_manifests(place)
    copies = [manifest for log in reversed(logs) for manifest in reversed(log.manifests)]
    collection = _read_collection_file(place)
    uuid = collection.uuid if collection is not None else None
    everything = [*files, *copies]
    own = [manifest for manifest in everything if uuid in {None, manifest.collection_uuid}]
    if not own:
        own = everything
    best = max(own, key=lambda item: item.generation, default=None)
    if best is None:
        header = next((log.header for log in reversed(logs) if log.header is not None), None)
        lineage = str(header.lineage) if header is not None else None
        if uuid is None and header is not None:
            uuid = str(header.collection_uuid)
        return Stated([], collection, UUID(uuid) if uuid else None, lineage)
    same = (best.collection_uuid, best.lineage)
    chain = {item.generation: item for item in own if (item.collection_uuid, item.lineage) == same}
    newest_first = [chain[generation] for generation in sorted(chain, reverse=True)]
    return Stated(newest_first, collection, UUID(best.collection_uuid), best.lineage)


def _read_manifests(place: Place) -> list[Manifest]:
    part, found = place.manifests, []
    for name in part.found if part is not None else ():
        assert part is not None
        if names.parse_manifest_name(name) is None:
            continue
        try:
            found.append(decode_manifest(place.read(part, name)).manifest)
        except OSError as error:
            place.refused(part.path(name), error)
        except FormatError as error:
            place.notes.append(f"{part.path(name)} is damaged ({error})")
    return found


def _read_collection_file(place: Place) -> CollectionFile | None:
    part, name = place.root, names.COLLECTION_FILE
    if part is None or name not in part.found:
        return None
    try:
        return decode_collection_file(place.read(part, name))
    except OSError as error:
        place.refused(name, error)
    except FormatError as error:
        place.notes.append(f"{name} is damaged ({error})")
    return None


def own_logs(place: Place, logs: Iterable[Log], stated: Stated) -> list[Log]:
    """Return the logs that belong to this collection's history."""
    kept = []
    for log in logs:
        header = log.header
        if header is not None and (
            (stated.uuid is not None and header.collection_uuid != stated.uuid)
            or (stated.lineage is not None and str(header.lineage) != stated.lineage)
        ):
            place.notes.append(f"{log.path} belongs to another collection; it was not used")
            continue
        kept.append(log)
    return kept


# --- schema ----------------------------------------------------------------------------------


def find_schema(
    place: Place, stated: Stated, found: Sequence[Found], logs: Sequence[Log], choice: Choice
) -> tuple[Schema | None, bool]:
    """Return the schema, as far as anything tells, and whether its vector type is certain.

    Raises:
        InvalidRequestError: `source-contradicts`, the choice is not what the files say.
    """
    entries = [manifest.schema for manifest in stated.manifests]
    if stated.collection is not None:
        entries.append(stated.collection.schema)
    for entry in entries:
        schema = _schema(entry)
        if schema is not None:
            _check_choice(choice, schema.dimension, schema.metric)
            return schema, True
    metric = parse_metric(choice.metric) if choice.metric is not None else Metric.COSINE
    dimension, vector_type, certain = _from_rows(found, logs, choice)
    if vector_type is None:
        return None, False
    _check_choice(choice, dimension, None)
    if choice.metric is None:
        place.notes.append(f"no file tells the metric; {metric} was taken")
    if not certain:
        place.notes.append(f"no file tells the type of the vectors; {vector_type} was taken")
    return Schema(dimension, metric, vector_type), certain


def _schema(entry: SchemaEntry) -> Schema | None:
    try:
        schema = schema_of(entry)
    except ValueError:
        return None
    return schema if 1 <= schema.dimension <= DIMENSION_MAX else None


def _from_rows(
    found: Sequence[Found], logs: Sequence[Log], choice: Choice
) -> tuple[int, VectorType | None, bool]:
    """Return dimension and type as the rows themselves tell, and whether they are certain."""
    for segment in sorted(found, key=lambda item: item.last_lsn, reverse=True):
        descriptor = segment.descriptor
        return descriptor.dimension, VectorType(descriptor.vector_type), True
    for log in reversed(logs):
        for logged in log.logged:
            size = logged.batch.vector_bytes if logged.batch is not None else 0
            if not size:
                continue
            width = size // choice.dimension if choice.dimension else 0
            if choice.dimension and width in _TYPES_BY_WIDTH and size % choice.dimension == 0:
                return choice.dimension, _TYPES_BY_WIDTH[width], True
            if size % 4 == 0:
                return size // 4, VectorType.FLOAT32, False
            return size, VectorType.INT8, False
    return 0, None, False


def _check_choice(choice: Choice, dimension: int, metric: Metric | None) -> None:
    wanted: list[tuple[str, object, object]] = []
    if choice.dimension not in {None, dimension}:
        wanted.append(("dimension", choice.dimension, dimension))
    if choice.metric is not None and metric is not None and parse_metric(choice.metric) != metric:
        wanted.append(("metric", choice.metric, str(metric)))
    for what, asked, says in wanted:
        raise InvalidRequestError(
            Code.SOURCE_CONTRADICTS,
            f"{what} {asked} was asked for, but the source says {says}; leave it out, or ask for "
            "what it says",
            **{what: says},
        )


# --- segments --------------------------------------------------------------------------------


@dataclass(slots=True)
class Evidence:
    """What counts. opened: the best segments first, then those that only fill in.

    proven: commits in the best and in logs; coverage: those in what fills in as well; durable: the
    newest commit that something says was made; missing: segments that the newest manifest names
    and that cannot be used.
    """

    stated: Stated
    accepted: Accepted
    durable: int
    proven: Coverage = field(default_factory=Coverage)
    coverage: Coverage = field(default_factory=Coverage)
    opened: list[Opened] = field(default_factory=list)
    missing: list[SegmentEntry] = field(default_factory=list)
    unusable: list[Unusable] = field(default_factory=list)

    @property
    def manifest(self) -> Manifest | None:
        """The newest manifest."""
        return self.stated.manifests[0] if self.stated.manifests else None


def weigh(place: Place, stated: Stated, logs: Sequence[Log], found: Sequence[Found]) -> Evidence:
    """Open the segments that the newest manifest and the logs name, and decide which commits count.

    Without a manifest every segment counts that holds commits; see `fill_in` for the rest.
    """
    by_uuid = {item.uuid: item for item in found}
    manifest = stated.manifests[0] if stated.manifests else None

    def has_bulk(batch: Batch) -> bool:
        assert batch.bulk is not None
        item = by_uuid.get(batch.bulk.uuid)
        return item is not None and item.digest == batch.bulk.digest

    flushed = manifest.flushed_lsn if manifest is not None else 0
    if manifest is None:
        own = [item.last_lsn for item in found if item.commits and is_own(item, stated)]
        flushed = max(own, default=0)
    accepted = accept(logs, flushed, has_bulk)
    durable = max([flushed, *(log.durable for log in logs)])
    evidence = Evidence(stated, accepted, durable)
    for entry in manifest.segments if manifest is not None else ():
        item = by_uuid.get(entry.uuid)
        opened = None
        if item is not None and item.digest == entry.digest:
            opened = _open(place, item, entry)
        if opened is None:
            evidence.missing.append(entry)
        else:
            evidence.opened.append(opened)
    for logged in accepted.batches:
        batch = logged.batch
        assert batch is not None
        if batch.bulk is not None and has_bulk(batch):
            named = {item.found.uuid for item in evidence.opened}
            opened = _open(place, by_uuid[batch.bulk.uuid], bulk_entry(batch, logged.lsn))
            if opened is not None and opened.found.uuid not in named:
                evidence.opened.append(opened)
    for opened in evidence.opened:
        _cover(evidence.proven, opened)
    for logged in accepted.batches:
        assert logged.batch is not None
        first_row = logged.batch.first_row
        evidence.proven.add(logged.lsn, first_row, [first_row + logged.batch.row_count])
    evidence.coverage = evidence.proven.copy()
    return evidence


def lacks(evidence: Evidence, found: Sequence[Found]) -> bool:
    """Tell whether the best is not all there, or something else goes on where it ends."""
    newest = max((item.last_lsn for item in found if item.commits), default=0)
    return (
        evidence.manifest is None
        or bool(evidence.missing)
        or bool(evidence.proven.missing(evidence.durable))
        or newest > evidence.proven.last
        or any(opened.segment.damaged for opened in evidence.opened)
        or any(not logged.is_sound for logged in evidence.accepted.batches)
    )


def is_own(found: Found, stated: Stated) -> bool:
    """Tell whether this collection wrote a segment itself, as far as is known."""
    return stated.uuid is None or found.collection == stated.uuid


def _cover(coverage: Coverage, opened: Opened) -> None:
    segment = opened.segment
    if segment.commits:
        coverage.add(segment.first_lsn, segment.first_row, segment.commit_row_ends.tolist())


def _open(place: Place, found: Found, entry: SegmentEntry) -> Opened | None:
    findings: list[Finding] = []
    segment = open_found(place.files, found, entry, findings)
    if segment is None:
        return None
    segment.entry = msgspec.structs.replace(segment.entry, records_bytes=found.head.file_size)
    return Opened(found, segment, findings)


# --- what fills in ---------------------------------------------------------------------------


def fill_in(place: Place, evidence: Evidence, found: Sequence[Found]) -> list[Opened]:
    """Open what no manifest and no log that counts names, and add it behind the rest.

    Rows of a bulk batch alone may never have been committed: they count if the commit is there
    that wrote as many rows at this place, and come with a doubt if no such commit can be read.
    """
    taken = {item.found.uuid for item in evidence.opened}
    known: dict[str, SegmentEntry] = {}
    for manifest in evidence.stated.manifests:
        for entry in manifest.segments:
            known.setdefault(entry.uuid, entry)
    rest = [item for item in found if item.uuid not in taken]
    ours = [item for item in rest if item.uuid in known or is_own(item, evidence.stated)]
    if evidence.manifest is None:  # nothing says up to where a shared one counts
        ours = rest
    added: list[Opened] = []
    limit = _own_beginning(evidence, ours)
    with_commits = [item for item in ours if item.commits]
    for item in sorted(with_commits, key=lambda item: (not is_own(item, evidence.stated),
                                                       -item.commits)):  # fmt: skip
        named: SegmentEntry | None = known.get(item.uuid)
        if named is None:
            is_whole = is_own(item, evidence.stated)
            named = item.entry() if is_whole else _bounded(item, item.entry(), limit)
        opened = _open(place, item, named) if named is not None else None
        if opened is not None:
            opened.is_certain = _remembers(evidence)
            added.append(opened)
    for opened in added:
        _cover(evidence.coverage, opened)
    for item in (item for item in ours if not item.commits):
        opened = _open_bulk(place, evidence, item, known.get(item.uuid), found)
        if opened is not None:
            added.append(opened)
    evidence.opened += added
    return added


def _remembers(evidence: Evidence) -> bool:
    """Tell whether every end is still written down: behind the horizon some are not."""
    return evidence.manifest is None or evidence.manifest.horizon_lsn == 0


def _own_beginning(evidence: Evidence, found: Sequence[Found]) -> int:
    """Return the first commit that this collection made itself: what it shares ends before."""
    own = [item.first_lsn for item in found if item.commits and is_own(item, evidence.stated)]
    return min([*own, *([evidence.coverage.first] if evidence.coverage.first else [])], default=0)


def _bounded(found: Found, entry: SegmentEntry, limit: int) -> SegmentEntry | None:
    """Return the entry of a shared segment without the commits from `limit` on, 0 for all."""
    if not limit or entry.last_lsn < limit:
        return entry
    commits = limit - entry.first_lsn
    if commits <= 0:
        return None
    return msgspec.structs.replace(
        entry,
        commits=commits,
        last_lsn=limit - 1,
        row_end=max(entry.first_row, int(found.commit_row_ends[commits - 1])),
    )


def _open_bulk(
    place: Place,
    evidence: Evidence,
    found: Found,
    known: SegmentEntry | None,
    everything: Sequence[Found],
) -> Opened | None:
    """Open rows without commits, at the place that they have or may have."""
    if known is not None:
        opened = _open(place, found, known)
        if opened is not None:
            opened.is_certain = _remembers(evidence)
        return opened
    coverage, lsn = evidence.coverage, found.last_lsn
    entry = found.entry()
    certain = place.root is None  # it was asked for by itself
    if found.first_row < 0:  # renamed: before everything, so that any other version of an id wins
        rows = found.descriptor.rows
        first = 0 if certain else -rows
        lsn = max(found.descriptor.first_lsn, 1)
        entry = msgspec.structs.replace(
            entry, first_row=first, row_end=first + rows, first_lsn=lsn, last_lsn=lsn
        )
    elif lsn in coverage:
        before, after = coverage.row_limit(lsn - 1), coverage.row_limit(lsn)
        if found.numbers is not None:
            entry = msgspec.structs.replace(entry, row_end=max(after or 0, entry.row_end))
        elif after != found.row_end or before not in {None, found.first_row}:
            return None  # the commit of this number wrote something else
        rivals = [
            item.uuid
            for item in everything
            if not item.commits and (item.first_row, item.last_lsn) == (found.first_row, lsn)
            and item.numbers is None
        ]  # fmt: skip
        certain = len(rivals) < 2
    opened = _open(place, found, entry)
    if opened is not None:
        opened.is_certain = certain
    return opened
