"""The three ways to a database, behind one interface: embedded, over HTTP, and by asyncio."""

import asyncio
import contextlib
import inspect
import threading
from dataclasses import dataclass
from typing import Any

import dvecdb
from dvecdb import Database, Settings
from dvecdb.client.aio import (
    AsyncCollection,
    AsyncDatabase,
    AsyncDocuments,
    AsyncPreview,
    AsyncSnapshot,
)
from dvecdb.testing.clocks import ManualClock
from dvecdb.testing.serving import serving

SETTINGS = {"ballast_bytes": 0, "low_water_bytes": 0}
ASYNC = (AsyncCollection, AsyncDatabase, AsyncDocuments, AsyncPreview, AsyncSnapshot)


@dataclass
class Door:
    """A way in. `engine`: the database behind it, for looks that the interface does not allow."""

    kind: str
    database: Any
    engine: Database
    clock: ManualClock
    path: str

    @property
    def is_remote(self):
        return self.kind != "open"


class Awaited:
    """An async object with its calls awaited on a loop that runs in another thread."""

    def __init__(self, loop, inner):
        self._loop, self._inner = loop, inner

    def __getattr__(self, name):
        found = getattr(self._inner, name)
        return self._call(found) if callable(found) else self._wrap(found)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if hasattr(self._inner, "close"):
            self._run(self._inner.close())

    def _call(self, function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            if inspect.isasyncgen(result):
                return self._items(result)
            return self._wrap(self._run(result))

        return call

    def _items(self, generator):
        while True:
            try:
                yield self._run(anext(generator))
            except StopAsyncIteration:
                return

    def _run(self, awaitable):
        async def run():
            return await awaitable

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _wrap(self, value):
        return Awaited(self._loop, value) if isinstance(value, ASYNC) else value


@contextlib.contextmanager
def running_loop():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextlib.contextmanager
def open_door(kind, path, **settings):
    clock = ManualClock()
    given = {
        "settings": Settings(**{**SETTINGS, **settings}),
        "clock": clock,
        "background": False,
    }
    if kind == "open":
        with Database(path, **given) as database:
            yield Door(kind, database, database, clock, path)
        return
    with serving(path, **given) as served:
        if kind == "connect":
            with dvecdb.connect(served.url) as database:
                yield Door(kind, database, served.database, clock, path)
            return
        with running_loop() as loop, Awaited(loop, dvecdb.connect_async(served.url)) as database:
            yield Door(kind, database, served.database, clock, path)
