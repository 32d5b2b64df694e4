"""The asyncio transport: as `sockets`, for the tasks of an event loop.

A cancelled exchange closes its connection. Connections belong to their loop and process: another
loop, or a forked child, begins with an empty pool, and a loop that ends in order closes its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING

from dvecdb.client.exchange import (
    RECEIVE_BYTES,
    SEND_BYTES,
    Answer,
    AnswerReader,
    BadAnswerError,
    connect_failed,
    lost,
    request_pieces,
    timed_out,
    too_many,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from dvecdb.client.address import Address, Limits

_END_SECONDS = 1.0  # to say goodbye on TLS


class StreamPool:
    """Connections to one server."""

    def __init__(self, address: Address, limits: Limits) -> None:
        self._address = address
        self._limits = limits
        self._shared: _Shared | None = None

    async def exchange(self, head: bytes, body: bytes, *, fresh: bool = False) -> Answer:
        """Send a request and return its answer. `fresh`: on a connection of its own.

        Raises:
            ExchangeError: there is no answer.
        """
        shared, connection = await self._mine(), None
        try:
            async with asyncio.timeout(self._limits.timeout):
                await shared.places.acquire()
        except TimeoutError:
            raise too_many(self._limits) from None
        try:
            connection = None if fresh else shared.take()
            if connection is None:
                connection = await self._connect()
            answer, is_reusable = await connection.converse(head, body, self._limits)
            if is_reusable and not shared.is_closed:
                shared.idle.append(connection)
                connection = None
            return answer
        finally:
            if connection is not None:
                connection.abort()
            shared.places.release()

    async def close(self) -> None:
        """Close the idle connections; one that is in use is closed when it is given back."""
        await (await self._mine()).close()

    async def _mine(self) -> _Shared:
        key = (os.getpid(), asyncio.get_running_loop())
        if self._shared is None or self._shared.key != key:
            self._shared = _Shared(key, self._limits.connections_max)
            await anext(self._shared.keeper)
        return self._shared

    async def _connect(self) -> _Connection:
        address, limits = self._address, self._limits
        try:
            async with asyncio.timeout(limits.connect_timeout):
                reader, writer = await asyncio.open_connection(
                    address.host, address.port, ssl=address.tls, limit=RECEIVE_BYTES
                )
        except (OSError, ValueError) as error:
            raise connect_failed(error, limits) from error
        plain = writer.get_extra_info("socket")
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _Connection(reader, writer)


class _Shared:
    """What the tasks of one loop share."""

    def __init__(self, key: tuple[int, asyncio.AbstractEventLoop], connections_max: int) -> None:
        self.key = key
        self.places = asyncio.BoundedSemaphore(connections_max)
        self.idle: list[_Connection] = []
        self.is_closed = False
        self.keeper = self._keep()

    async def _keep(self) -> AsyncGenerator[None]:
        """Close everything at the end: a loop that ends closes its async generators first."""
        try:
            yield
        finally:
            await self.close()

    async def close(self) -> None:
        """Close what is idle and keep nothing from now on."""
        idle, self.idle, self.is_closed = self.idle, [], True
        for connection in idle:
            await connection.close()

    def take(self) -> _Connection | None:
        """Return the connection that was used last, or None."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.is_over:
                return connection
            connection.abort()
        return None


class _Connection:
    """The two streams of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def is_over(self) -> bool:
        """Whether the server closed it."""
        return self._reader.at_eof() or self._writer.is_closing()

    async def converse(self, head: bytes, body: bytes, limits: Limits) -> tuple[Answer, bool]:
        """Return the answer and whether the connection may be used again."""
        reader, early = AnswerReader(), None
        try:
            if len(body) > SEND_BYTES:  # an answer before the end of such a body is not missed
                early = asyncio.ensure_future(self._reader.read(RECEIVE_BYTES))
                early.add_done_callback(_noticed)
            is_whole = await self._send(head, body, limits, early)
            while not reader.done:
                async with asyncio.timeout(limits.timeout):
                    data = await (early or self._reader.read(RECEIVE_BYTES))
                early = None
                reader.feed(data)
        except TimeoutError:
            raise timed_out(limits) from None
        except (OSError, BadAnswerError) as error:
            raise lost(error) from error
        finally:
            if early is not None:
                early.cancel()
        return reader.answer(), reader.is_reusable and is_whole

    async def _send(
        self, head: bytes, body: bytes, limits: Limits, early: asyncio.Future[bytes] | None
    ) -> bool:
        """Send a request; return False if the server answered, or closed, before it had it all."""
        for piece in request_pieces(head, body):
            if early is not None and early.done():
                return False
            self._writer.write(piece)
            try:
                async with asyncio.timeout(limits.timeout):
                    await self._writer.drain()
            except (BrokenPipeError, ConnectionResetError):
                if early is None:
                    raise
                return False  # it may have said why
        return True

    def abort(self) -> None:
        """Close it at once."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close it and wait for that, a moment at most."""
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await self._writer.wait_closed()


def _noticed(read: asyncio.Future[bytes]) -> None:
    """Take note of how a read ended, though nobody may ask any more."""
    if not read.cancelled():
        read.exception()
