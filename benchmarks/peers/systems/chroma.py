"""Chroma in this process, and as a server of its own.

A changed `ef_search` is stored but acts on an index that is loaded only after the next start, so
both are started anew for every effort.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chromadb
from benchmarks.peers.adapter import BUILD_EFFORT, GRAPH_DEGREE, GRAPH_EFFORTS, LIMIT, id_of
from benchmarks.peers.embedded import Embedded

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from benchmarks.peers.adapter import Effort, Metadata

    Rows = npt.NDArray[np.float32]

START_SECONDS_MAX = 60


def settings() -> chromadb.Settings:
    """Return settings that send nothing anywhere."""
    return chromadb.Settings(anonymized_telemetry=False)


class Chroma(Embedded):
    """One collection. Rows are indexed as they come."""

    durability = "each batch, in SQLite; the index at every thousand rows"
    ladders = ([{"ef_search": effort} for effort in GRAPH_EFFORTS],)
    running: Any = None

    def start(self) -> None:
        self.running = chromadb.PersistentClient(str(self.path), settings())

    def stop(self) -> None:
        self.running.close()
        self.running.clear_system_cache()

    def create(self, path: Path, dimension: int, rows: int) -> None:
        self.path, self.loaded = path, {"ef_search": GRAPH_EFFORTS[0]}
        self.start()
        self.docs = self.running.create_collection(
            "docs",
            embedding_function=None,
            configuration={
                "hnsw": {
                    "space": "cosine",
                    "max_neighbors": GRAPH_DEGREE,
                    "ef_construction": BUILD_EFFORT,
                    "ef_search": GRAPH_EFFORTS[0],
                }
            },
        )

    def open(self, path: Path, dimension: int) -> None:
        self.path, self.loaded = path, None
        self.start()
        self.docs = self.running.get_collection("docs", embedding_function=None)

    def insert(self, first: int, vectors: Rows, metadata: list[Metadata]) -> None:
        ids = [id_of(number) for number in range(first, first + len(vectors))]
        self.docs.add(ids=ids, embeddings=vectors, metadatas=metadata)

    def prepare(self, effort: Effort, below: int | None) -> None:
        self.where = None if below is None else {"share": {"$lt": below}}
        stored = self.docs.configuration["hnsw"]["ef_search"]
        if self.loaded is None:
            self.loaded = {"ef_search": stored}
        if effort != self.loaded:
            self.docs.modify(configuration={"hnsw": {"ef_search": int(effort["ef_search"])}})
            self.stop()
            self.open(self.path, 0)
            self.loaded = dict(effort)

    def search(self, query: Rows) -> list[Metadata]:
        return ask(self.docs, query, self.where)

    def close(self) -> None:
        self.stop()


class ChromaServer(Chroma):
    """The same behind HTTP: `chroma run` on a free port of this machine, a client a thread."""

    def start(self) -> None:
        self.port = free_port()
        command = [str(Path(sys.executable).with_name("chroma")), "run", "--path", str(self.path)]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        self.server = subprocess.Popen(command, stdout=sys.stderr, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS_MAX
        while not alive(self.port):
            if self.server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.02)
        self.running = self.connect()

    def stop(self) -> None:
        self.running.close()
        self.running.clear_system_cache()
        self.server.terminate()
        self.server.wait(START_SECONDS_MAX)

    def connect(self) -> Any:
        return chromadb.HttpClient("127.0.0.1", self.port, settings=settings())

    def session(self) -> Client:
        return Client(self)

    def processes(self) -> list[int]:
        return [self.server.pid]


class Client:
    """A client of the server."""

    def __init__(self, system: ChromaServer) -> None:
        self.docs = system.connect().get_collection("docs", embedding_function=None)
        self.where = system.where

    def search(self, query: Rows) -> list[Metadata]:
        return ask(self.docs, query, self.where)

    def close(self) -> None:
        """Leave it to the pool, which the clients of a process share."""


def ask(docs: Any, query: Rows, where: Any) -> list[Metadata]:
    """Search once."""
    found = docs.query(
        query_embeddings=[query], n_results=LIMIT, where=where, include=["metadatas"]
    )
    return found["metadatas"][0]


def alive(port: int) -> bool:
    """Return whether the server answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/heartbeat", timeout=1):
            return True
    except OSError:
        return False


def free_port() -> int:
    """Return a port of this machine that nobody uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def system() -> Chroma:
    """Return the adapter."""
    return Chroma()


def server() -> ChromaServer:
    """Return the adapter of the server."""
    return ChromaServer()
