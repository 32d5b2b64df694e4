"""The embedding service as a process of its own, which can be killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import dvecdb
from dvecdb.embedding.service import SERVICE

if TYPE_CHECKING:
    from types import TracebackType

_SOURCE = Path(dvecdb.__file__).parents[1]


class EmbeddingService:
    """`dvecdb embedding-service` on a free port of loopback. `url`: where it is.

    with EmbeddingService(faults={"fail_next": 1}) as service:
        requests.post(f"{service.url}/embed", ...)

    port: 0, a free one; it stays the same through every restart. arguments: more flags. api_key:
    is asked for.
    """

    def __init__(
        self,
        model: str = "fake",
        *,
        port: int = 0,
        dimensions: int | None = None,
        faults: dict[str, object] | None = None,
        api_key: str | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.port = port
        self._model = model
        self._api_key = api_key
        self._arguments = ["--model", model, "--allow-faults", *arguments]
        if dimensions is not None:
            self._arguments += ["--dimensions", str(dimensions)]
        for name, value in (faults or {}).items():
            self._arguments += ["--faults", f"{name}={value}"]
        if api_key is not None:
            self._arguments += ["--api-key-env", "EMBEDDING_SERVICE_KEY"]
        self.process: subprocess.Popen[str]
        self.start()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process."""
        return self.process.pid

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: it ended instead; says with what words.
        """
        environment = {**os.environ, "PYTHONPATH": str(_SOURCE), "PYTHONWARNINGS": "error"}
        if self._api_key is not None:
            environment["EMBEDDING_SERVICE_KEY"] = self._api_key
        with tempfile.TemporaryFile() as stderr:
            self.process = subprocess.Popen(  # noqa: S603  # our own program
                [
                    sys.executable, "-m", "dvecdb", "embedding-service",
                    "--port", str(self.port), *self._arguments,
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )  # fmt: skip
            try:
                self._wait(stderr)
            except BaseException:
                self.kill()
                raise

    def _wait(self, stderr: IO[bytes]) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()  # it says that it is ready, or it ends
        if not line:
            code = self.process.wait()
            stderr.seek(0)
            said = stderr.read().decode(errors="replace").strip()
            raise RuntimeError(f"the embedding service ended with exit code {code}: {said}")
        self.port = int(line.split("http://", 1)[1].split()[0].rpartition(":")[2])
        found = self.health()
        if found.get("service") != SERVICE:
            raise RuntimeError(f"something else answers at {self.url}: {found}")

    def stop(self) -> int:
        """End it in an orderly way; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self._forget()
        return code

    def kill(self) -> None:
        """End it at once, if it still runs: kill -9."""
        self.process.kill()
        self.process.wait()
        self._forget()

    def restart(self) -> None:
        """Kill it and start it again on the same port. Its figures begin at 0."""
        self.kill()
        self.start()

    def health(self) -> dict[str, Any]:
        """Return what `/health` says: `texts`, `requests`, `distinct_texts`, `faults` …."""
        return self.ask("/health")

    def texts(self) -> dict[str, int]:
        """Return how often each text was embedded, by `service.text_hash`."""
        return self.ask("/texts")

    def set_faults(self, **faults: object) -> None:
        """Let this go wrong from now on, and nothing else. Without arguments: nothing."""
        self.ask("/faults", faults)

    def ask(self, path: str, body: object = None) -> dict[str, Any]:
        """Return the answer to GET, or to POST of a body.

        Raises:
            OSError: there is none, or it is an error.
        """
        data = json.dumps(body).encode() if body is not None else None
        headers = {"content-type": "application/json"}
        if self._api_key is not None:
            headers["authorization"] = f"Bearer {self._api_key}"
        request = urllib.request.Request(self.url + path, data, headers)  # noqa: S310  # http
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def _forget(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> Self:
        """Return the service."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill it."""
        self.kill()
