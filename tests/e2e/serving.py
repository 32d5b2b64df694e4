"""A server as a process of its own, and clients that see everything it says."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
HOST = "127.0.0.1"
SERVE = (sys.executable, "-m", "dvecdb", "serve")


class Server:
    """`dvecdb serve` on free ports. `log`: its stderr."""

    def __init__(self, data, log, *arguments, program=SERVE, stderr=None):
        self.data = Path(data)
        self.log = Path(log)
        self._from = self.log.stat().st_size if self.log.exists() else 0
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONWARNINGS": "error"}
        if program[0] != sys.executable:  # an installed one
            environment = {k: v for k, v in environment.items() if not k.startswith("PYTHON")}
        command = [*program, "--data-dir", str(data)]
        if program[-1] == "serve":
            command += ["--rest-port", "0", "--metrics-port", "0", "--grpc-port", "0"]
            command += ["--log-format", "json"]
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                [*command, *map(str, arguments)],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=stderr if stderr is not None else file,
            )

    # --- what it says ---

    @property
    def said(self):
        """What it said since it started."""
        return self.log.read_bytes()[self._from :].decode(errors="replace")

    def events(self, name):
        """Return the facts of every event of a name."""
        lines = [json.loads(line) for line in self.said.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def wait(self, seconds=60):
        """Wait until it serves; return it."""
        end = time.monotonic() + seconds
        while not (started := self.events("server.started")):
            assert self.process.poll() is None, f"it ended: {self.said}"
            assert time.monotonic() < end, f"it does not start: {self.said}"
            time.sleep(0.02)
        self.port, self.metrics_port = (
            int(re.search(r":(\d+)", started[0][name].split("//")[1])[1])
            for name in ("rest", "metrics")
        )
        return self

    @property
    def rss_anon_bytes(self):
        """Memory of its own."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024

    # --- what it is told ---

    def signal(self, number=signal.SIGTERM):
        """Send a signal."""
        self.process.send_signal(number)

    def end(self, seconds=30):
        """Wait for its end; return the exit code."""
        return self.process.wait(seconds)

    def stop(self):
        """End it in an orderly way."""
        self.signal()
        code = self.end()
        assert code == 0, f"exit code {code}: {self.said[-3000:]}"

    def kill(self):
        """End it at once, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()

    # --- what it answers ---

    def connect(self, seconds=30):
        """Return a plain socket."""
        return socket.create_connection((HOST, self.port), timeout=seconds)

    def client(self, **options):
        """Return a client with one connection."""
        return Client(self.port, **options)

    def ask(self, method, path, body=None, **headers):
        """Return status and decoded body of one request on a connection of its own."""
        with contextlib.closing(self.client()) as client:
            return client.ask(method, path, body, **headers)

    def metrics(self):
        """Return the text of the metrics port."""
        with contextlib.closing(http.client.HTTPConnection(HOST, self.metrics_port)) as connection:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            assert answer.status == 200
            return answer.read().decode()


class Client:
    """One connection that is kept alive. `headers`: of the last answer."""

    def __init__(self, port, *, certificate=None, seconds=30):
        if certificate is None:
            self._connection = http.client.HTTPConnection(HOST, port, timeout=seconds)
        else:
            context = ssl.create_default_context(cafile=str(certificate))
            self._connection = http.client.HTTPSConnection(
                HOST, port, timeout=seconds, context=context
            )
        self.headers = {}

    def ask(self, method, path, body=None, **headers):
        """Return status and decoded body. Raises `OSError`, `http.client.HTTPException`."""
        data = json.dumps(body).encode() if body is not None else None
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if data is not None:
            given.setdefault("content-type", "application/json")
        self._connection.request(method, path, data, given)
        answer = self._connection.getresponse()
        text = answer.read()
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, json.loads(text)

    def close(self):
        """Close the connection."""
        self._connection.close()


def read_answer(connection):
    """Return status and decoded error body of the answer on a plain socket."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(65536)
        assert part, f"closed after {head!r}"
        head += part
    head, _, body = head.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head.lower())[1])
    while len(body) < length:
        part = connection.recv(65536)
        assert part, "closed within the body"
        body += part
    return int(head.split()[1]), json.loads(body)
