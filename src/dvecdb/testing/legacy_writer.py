"""A d-vecDB server of any version, as far as its files go: what it wrote, and forgot.

`LegacyServer` keeps a data directory in memory. Calls append as that version did; `restart` opens
the directory again with the same version or another, and does what that did to the data: the
collection forgotten and its head overwritten, the log replayed over it or behind it, records with
a prefix written over a raw file from byte 20. `write_to` makes real files, `truth`
(`legacy_truth`) says what must come back from them. The bytes are checked against real servers'.

Not modelled: quantization, the order that a real hash map gives keys (it is the caller's), and
the names that escape the directory.
"""

from __future__ import annotations

import json
import uuid
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from dvecdb.testing import legacy_bytes as lb
from dvecdb.testing.legacy_bytes import GENERATIONS, Generation, Op

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dvecdb.records import Metadata

    Row = tuple[str, bytes, Metadata | None]

_FIRST_SECOND: Final = 1_761_700_000  # late October 2025


@dataclass(frozen=True, slots=True)
class Version:
    """What was written of a record. seq: when it was inserted; a replay writes the same again."""

    seq: int
    id: str
    vector: bytes
    metadata: Metadata | None
    body: bytes

    @property
    def dimension(self) -> int:
        """Components of the vector."""
        return len(self.vector) // 4


@dataclass(frozen=True, slots=True)
class Append:
    """A record in a vectors.bin. stored: its bytes as written; `order` counts all appends."""

    order: int
    offset: int
    stored: bytes
    version: Version
    generation: Generation

    @property
    def end(self) -> int:
        """The byte behind it."""
        return self.offset + len(self.stored)

    @property
    def fields(self) -> dict[str, tuple[int, int]]:
        """Start and end of each field, from the start of the record."""
        prefixed = self.generation.prefixed
        return lb.fields_of(len(self.stored), self.version.dimension, prefixed=prefixed)


@dataclass(slots=True)
class VectorFile:
    """A vectors.bin: `data`, then zeros up to `size`. position: where the server goes on."""

    size: int = lb.CREATED_BYTES
    data: bytearray = field(default_factory=bytearray)
    appends: list[Append] = field(default_factory=list)
    position: int = 0

    def put(self, stored: bytes) -> int:
        """Write at the position and return it."""
        start, end = self.position, self.position + len(stored)
        self.data.extend(bytes(max(0, end - len(self.data))))
        self.data[start:end] = stored
        self.position = end
        return start


@dataclass(slots=True)
class Directory:
    """A collection's directory. config: the content of metadata.json, None without one."""

    name: str
    dimension: int
    metric: int
    vectors: VectorFile = field(default_factory=VectorFile)
    config: bytes | None = None
    extra: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Logged:
    """A log entry in the file, and what it means. versions: of `INSERT` and `BATCH`."""

    start: int
    stored: bytes
    log_version: int
    seq: int
    op: Op
    name: str
    id: str = ""
    versions: tuple[Version, ...] = ()
    dimension: int = 0
    metric: int = 0
    json_text: bool = False


class LegacyServer:
    """A running server and its data directory.

    seed: of entry ids; entry_id, seconds: give those of log entries instead; flush_bytes: how
    much of a log v2 waits in memory.
    """

    def __init__(
        self,
        generation: str,
        *,
        seed: int = 0,
        entry_id: Callable[[], bytes] | None = None,
        seconds: Callable[[], int] | None = None,
        flush_bytes: int = lb.FLUSHED_BYTES,
    ) -> None:
        self.generation = GENERATIONS[generation]
        self.directories: dict[str, Directory] = {}
        """By path below the data directory; `.deleted/NAME_TIME` and the like included."""
        self.log = bytearray()
        self.logged: list[Logged] = []
        self.open: set[str] = set()
        """Names of the collections that the server knows."""
        self.clock = _FIRST_SECOND
        self._random = Random(seed)
        self._entry_id = entry_id or (lambda: self.random_id().bytes)
        self._seconds = seconds or (lambda: self.clock)
        self._flush_bytes = flush_bytes
        self._waiting: list[tuple[bytes, Logged]] = []
        self._seq = 0
        self._orders = 0

    @staticmethod
    def generation_of(name: str) -> Generation:
        """Return how a version writes; assign it to `generation` for an upgrade in place."""
        return GENERATIONS[name]

    def random_id(self) -> uuid.UUID:
        """Return a version 4 id, as a server makes one."""
        return uuid.UUID(bytes=self._random.randbytes(16), version=4)

    # --- calls -------------------------------------------------------------------------------

    def create(self, name: str, dimension: int, metric: str = "Cosine") -> None:
        """Create a collection, or take what a forgotten one of that name has left."""
        assert name not in self.open
        number = lb.METRICS.index(metric)
        directory = self.directories.get(name)
        if directory is None:
            directory = self.directories[name] = Directory(name, dimension, number)
        else:
            self._reopen(directory.vectors)
        directory.name, directory.dimension, directory.metric = name, dimension, number
        if self.generation.remembers:
            directory.config = config_text(name, dimension, metric)
        self.open.add(name)
        fields = lb.create_fields(name, dimension, number)
        self._append_log(Op.CREATE, fields, name, dimension=dimension, metric=number)

    def insert(self, name: str, id: str, vector: bytes, metadata: Metadata | None = None) -> None:
        """Insert one record; an existing id is not looked for."""
        version = self._version(id, vector, metadata)
        fields = lb.insert_fields(name, version.body)
        self._append_log(Op.INSERT, fields, name, versions=(version,))
        self._append(self.directories[name].vectors, [version])

    def insert_batch(self, name: str, rows: Iterable[Row]) -> None:
        """Insert several in one call."""
        versions = tuple(self._version(*row) for row in rows)
        fields = lb.batch_fields(name, [version.body for version in versions])
        self._append_log(Op.BATCH, fields, name, versions=versions)
        self._append(self.directories[name].vectors, versions)

    def update(self, name: str, id: str, vector: bytes, metadata: Metadata | None = None) -> None:
        """Replace a record: a deletion and an insertion in the log, an append in the file."""
        self.delete(name, id)
        self.insert(name, id, vector, metadata)

    def delete(self, name: str, id: str) -> None:
        """Delete a record; only the log knows."""
        fields = lb.delete_fields(name, uuid.UUID(id).bytes)
        self._append_log(Op.DELETE, fields, name, id=id)

    def drop(self, name: str) -> str | None:
        """Delete a collection; return where its directory went, None if it is gone."""
        self.open.discard(name)
        directory = self.directories.pop(name)
        if self.generation.soft_delete:
            path = f".deleted/{name}_{self._stamp()}"
            self.directories[path] = directory
            return path
        self._append_log(Op.DROP, lb.encode_string(name), name)
        return None

    def backup(self, name: str) -> str:
        """Copy a collection's directory; return where to."""
        path = f".backups/{name}_{self._stamp()}"
        self.directories[path] = deepcopy(self.directories[name])
        return path

    def snapshot(self, name: str) -> str:
        """Copy a collection's files as the last version does; return where to."""
        path = f"snapshots/{name}_{self.clock}"
        copy = self.directories[path] = deepcopy(self.directories[name])
        about = {"name": f"{name}_{self.clock}", "collection": name, "vector_count": 0}
        copy.extra["snapshot.json"] = json.dumps(about).encode()
        return path

    # --- restart -----------------------------------------------------------------------------

    def restart(self, generation: str | None = None, *, without_log: bool = False) -> None:
        """Stop and start, with another version perhaps. What waits for the log is lost.

        without_log: somebody has deleted the log, which lets a server start that it stopped.
        """
        self._waiting.clear()
        if generation is not None:
            self.generation = GENERATIONS[generation]
        if without_log:
            self.log, self.logged = bytearray(), []
        self.open = set()
        if self.generation.remembers:
            for path, directory in self.directories.items():
                if directory.config is not None and path == directory.name:
                    self.open.add(path)
                    self._reopen(directory.vectors)
        self._replay()

    def _replay(self) -> None:
        for entry in list(self.logged):
            readable = self._replays(entry)
            if self.generation.log_version == 1:
                assert readable, "this version does not start on such a log"
            if not readable:
                continue
            if entry.op is Op.CREATE and entry.name not in self.directories:
                self.directories[entry.name] = Directory(
                    entry.name, entry.dimension, entry.metric, config=None
                )
                self.open.add(entry.name)
            elif entry.op is Op.DROP:
                self.open.discard(entry.name)
            elif entry.name in self.open:
                self._append(self.directories[entry.name].vectors, entry.versions)

    def _replays(self, entry: Logged) -> bool:
        """Return whether this version can read the entry: with metadata, hardly ever."""
        if entry.log_version != self.generation.log_version:
            return False
        keys = [len(version.metadata or {}) for version in entry.versions]
        if self.generation.json_text:
            texts = [version.metadata is not None for version in entry.versions]
            return all(count <= 1 for count in keys) and (entry.json_text or not any(texts))
        return all(version.metadata is None for version in entry.versions)

    def _reopen(self, vectors: VectorFile) -> None:
        vectors.position = (
            lb.scanned_end(vectors.data, vectors.size) if self.generation.scans else 0
        )

    # --- appends -----------------------------------------------------------------------------

    def _version(self, id: str, vector: bytes, metadata: Metadata | None = None) -> Version:
        self._seq += 1
        id_bytes = uuid.UUID(id).bytes
        body = lb.encode_body(id_bytes, vector, metadata, json_text=self.generation.json_text)
        return Version(self._seq, id, vector, metadata, body)

    def _append(self, vectors: VectorFile, versions: Sequence[Version]) -> None:
        prefixed = self.generation.prefixed
        stored = [lb.encode_record(version.body, prefixed=prefixed) for version in versions]
        together = self.generation.batch_append
        if together:
            length = sum(map(len, stored))
            vectors.size = lb.grown_size(vectors.size, vectors.position, length)
        for data, version in zip(stored, versions, strict=True):
            if not together:
                vectors.size = lb.grown_size(vectors.size, vectors.position, len(data))
            offset = vectors.put(data)
            self._orders += 1
            vectors.appends.append(Append(self._orders, offset, data, version, self.generation))

    def _append_log(
        self,
        op: Op,
        fields: bytes,
        name: str,
        *,
        id: str = "",
        versions: tuple[Version, ...] = (),
        dimension: int = 0,
        metric: int = 0,
    ) -> None:
        self.clock += 1
        self._seq += 1
        log_version = self.generation.log_version
        stored = lb.encode_entry(log_version, self._entry_id(), self._seconds(), op, fields)
        json_text = self.generation.json_text
        entry = Logged(
            0, stored, log_version, self._seq, op, name, id, versions, dimension, metric, json_text
        )
        self._waiting.append((stored, entry))
        waiting = sum(len(data) for data, _ in self._waiting)
        if log_version == 1 or waiting > self._flush_bytes:
            self.flush_log()

    def flush_log(self) -> None:
        """Bring the log to its file, as it happens once enough has gathered."""
        for stored, entry in self._waiting:
            self.logged.append(_placed(entry, len(self.log)))
            self.log += stored
        self._waiting.clear()

    def _stamp(self) -> str:
        self.clock += 1
        return datetime.fromtimestamp(self.clock, UTC).strftime("%Y%m%d_%H%M%S")

    # --- files -------------------------------------------------------------------------------

    def write_to(self, path: str | Path, *, zeros: int | None = None, log: bool = True) -> None:
        """Write the data directory. zeros: how many of those behind the data, None for all."""
        root = Path(path)
        root.mkdir(parents=True, exist_ok=True)
        if log:
            (root / "wal").write_bytes(self.log)
        for place, directory in self.directories.items():
            write_directory(root / place, directory, zeros=zeros)


def write_directory(path: Path, directory: Directory, *, zeros: int | None = None) -> None:
    """Write one collection's directory. zeros: of those behind the data, None for all."""
    path.mkdir(parents=True, exist_ok=True)
    vectors = directory.vectors
    wanted = vectors.size if zeros is None else min(vectors.size, len(vectors.data) + zeros)
    with (path / "vectors.bin").open("wb") as file:
        file.write(vectors.data[:wanted])
        file.truncate(wanted)
    if zeros is None and "snapshot.json" not in directory.extra:
        with (path / "index.bin").open("wb") as file:
            file.truncate(lb.CREATED_BYTES)
    if directory.config is not None:
        (path / "metadata.json").write_bytes(directory.config)
    for name, data in directory.extra.items():
        (path / name).write_bytes(data)


def config_text(
    name: str, dimension: int, metric: str, quantization: Metadata | None = None
) -> bytes:
    """Return a metadata.json."""
    config: Metadata = {
        "name": name,
        "dimension": dimension,
        "distance_metric": metric,
        "vector_type": "Float32",
        "index_config": lb.INDEX_CONFIG,
    }
    if quantization is not None:
        config["quantization"] = quantization
    return json.dumps(config, indent=2, ensure_ascii=False).encode()


def _placed(entry: Logged, start: int) -> Logged:
    return Logged(
        start, entry.stored, entry.log_version, entry.seq, entry.op, entry.name, entry.id,
        entry.versions, entry.dimension, entry.metric, entry.json_text,
    )  # fmt: skip
