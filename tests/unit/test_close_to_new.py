"""A socket that is closed to new connections keeps those that came before, and no other gets in."""

import socket
import sys

import pytest

from dvecdb.node.sockets import bind, close_to_new


def connected(address, seconds=5.0):
    return socket.create_connection(address, timeout=seconds)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a filter")
def test_who_came_before_is_served_and_who_comes_later_is_not_let_in():
    with bind("127.0.0.1", 0, "rest_port") as listening:
        listening.listen(8)
        address = listening.getsockname()
        with connected(address) as early:
            early.sendall(b"hello")
            close_to_new(listening)
            with pytest.raises(TimeoutError):  # not connected, and then cut off
                connected(address, 0.3)
            accepted, _ = listening.accept()
            with accepted:
                accepted.settimeout(5)
                assert accepted.recv(5) == b"hello"
                early.sendall(b"more")
                assert accepted.recv(4) == b"more"
                accepted.sendall(b"answer")
                assert early.recv(6) == b"answer"
            with pytest.raises(BlockingIOError):
                listening.accept()
    with pytest.raises(ConnectionRefusedError):
        connected(address)
