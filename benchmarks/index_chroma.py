"""Chroma's server: `chroma run`, filled and asked over HTTP.

A changed `ef_search` is stored, but acts on an index that is loaded only after the next start: the
server is started anew for every effort.
"""

from __future__ import annotations

import importlib
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from benchmarks.answers import LIMIT
from benchmarks.data import ids_of
from benchmarks.index_data import BATCH_ROWS, metadata_of
from benchmarks.index_systems import BUILD_EFFORT, DEGREE
from benchmarks.load import Load, json_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    from benchmarks.rates import Queries

    Rows = npt.NDArray[np.float32]

RECALL = 0.95
EFFORTS = (16, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256)
START_SECONDS_MAX = 60


class Chroma:
    """A server with the rows, at the lowest effort that reaches RECALL."""

    name = "Chroma"
    efforts = EFFORTS

    def __init__(self, path: Path, rows: Rows, asked: Queries) -> None:
        self._module = importlib.import_module("chromadb")
        self._path = path
        self._log = path.with_suffix(".log").open("wb")
        self._start()
        self._fill(rows)
        for effort in EFFORTS:
            self._set(effort)
            self.effort = effort
            self.recall = asked.recall(self, self.search)
            if self.recall >= RECALL:
                break

    def _start(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        command = [str(Path(sys.executable).with_name("chroma")), "run", "--path", str(self._path)]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        self._server = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("Chroma's server did not start")
            time.sleep(0.05)
        settings = self._module.Settings(anonymized_telemetry=False)
        self._client = self._module.HttpClient("127.0.0.1", port, settings=settings)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/api/v2/heartbeat", timeout=1):
                return True
        except OSError:
            return False

    def _stop(self) -> None:
        self._client.clear_system_cache()
        self._server.terminate()
        self._server.wait(START_SECONDS_MAX)

    def _fill(self, rows: Rows) -> None:
        graph = {
            "space": "cosine", "max_neighbors": DEGREE, "ef_construction": BUILD_EFFORT,
            "ef_search": EFFORTS[0],
        }  # fmt: skip
        self._docs = self._client.create_collection(
            "docs", embedding_function=None, configuration={"hnsw": graph}
        )
        ids, metadata = ids_of(len(rows)), metadata_of(len(rows))
        for start in range(0, len(rows), BATCH_ROWS):
            part = slice(start, start + BATCH_ROWS)
            self._docs.add(ids=ids[part], embeddings=rows[part], metadatas=metadata[part])

    def _set(self, effort: int) -> None:
        self._docs.modify(configuration={"hnsw": {"ef_search": effort}})
        self._stop()
        self._start()
        self._docs = self._client.get_collection("docs", embedding_function=None)

    def at(self, effort: float) -> Any:
        return self.search

    def search(self, query: Rows) -> Any:
        """Ask by its own client."""
        return self._docs.query(
            query_embeddings=[query], n_results=LIMIT, include=["metadatas", "distances"]
        )

    def numbers(self, answer: Any) -> Sequence[int]:
        return [int(text[4:]) for text in answer["ids"][0]]

    def load(self, directory: Path, asked: Queries) -> Load:
        """Return the measured queries as plain HTTP: its client is slower than its server."""
        bodies = [
            msgspec.json.encode(
                {
                    "query_embeddings": [msgspec.Raw(json_numbers(query))],
                    "n_results": LIMIT,
                    "include": ["metadatas", "distances"],
                }
            )
            for query in asked.measured
        ]
        place = "tenants/default_tenant/databases/default_database/collections"
        url = f"{self._url}/api/v2/{place}/{self._docs.id}/query"
        return Load(directory, url, {"content-type": "application/json"}, bodies)

    def close(self) -> None:
        """Stop the server."""
        self._stop()
        self._log.close()
