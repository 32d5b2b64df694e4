"""The application on the metrics port: /metrics, and nothing else."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from dvecdb.api.limits import LimitedApp, Limits
from dvecdb.errors import Code, NotFoundError
from dvecdb.wire.envelope import error_message

if TYPE_CHECKING:
    from dvecdb.api.limits import Receive, Scope, Send
    from dvecdb.api.metrics import Metrics
    from dvecdb.rescue.database import Database

SCRAPES_MAX: Final = 8
"""Scrapes in flight; more are answered 429."""
SCRAPE_SECONDS_MAX: Final = 10.0


class MetricsPage:
    """Renders in a thread of its own, one scrape after the other. `app`: within limits."""

    def __init__(self, metrics: Metrics, database: Database) -> None:
        self._metrics = metrics
        self._database = database
        self._executor = ThreadPoolExecutor(1, "dvecdb-metrics")
        limits = Limits(
            body_bytes_max=1024,
            requests_in_flight_max=SCRAPES_MAX,
            request_timeout_seconds=SCRAPE_SECONDS_MAX,
        )
        self.app = LimitedApp(self._answer, limits)

    def close(self) -> None:
        """Let the thread end."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, scope: Scope, _: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/metrics" and scope["method"] in {"GET", "HEAD"}:
            loop = asyncio.get_running_loop()
            status, kind = 200, self._metrics.content_type
            body = await loop.run_in_executor(self._executor, self._metrics.render, self._database)
        else:
            status, kind = 404, "application/json"
            body = error_message(
                NotFoundError(
                    Code.UNKNOWN_PATH,
                    f"nothing is at {scope['method']} {path:.100}; this port has GET /metrics",
                )
            )
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
