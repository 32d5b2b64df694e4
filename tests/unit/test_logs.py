"""Log lines: whole, in order, without secrets, and never worth waiting for."""

import io
import json
import logging
import os
import threading

import pytest
import structlog

from dvecdb.api.limits import Answered
from dvecdb.clock import SystemClock
from dvecdb.node.logs import LineWriter, request_log, start_logging
from dvecdb.node.settings import ServerSettings


@pytest.fixture
def logged():
    """Start logging to a text; return a function that ends it and returns the lines."""
    writers = []
    stream = io.StringIO()
    handlers = list(logging.getLogger().handlers)

    def start(**settings):
        writers.append(start_logging(ServerSettings(**settings), stream))
        return request_log(ServerSettings(**settings), writers[-1], SystemClock())

    def lines():
        for writer in writers:
            assert writer.close()
        return stream.getvalue().splitlines()

    start.lines = lines
    yield start
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers


def test_every_line_is_json_with_time_level_and_event_first(logged):
    logged(log_format="json")
    structlog.get_logger().info("first", number=1)
    structlog.get_logger().warning("second", path="/a\nb")
    lines = [json.loads(line) for line in logged.lines()]
    assert [list(line)[:3] for line in lines] == [["timestamp", "level", "event"]] * 2
    assert [line["event"] for line in lines] == ["first", "second"]
    assert lines[1]["path"] == "/a\nb"


def test_the_level_is_kept(logged):
    logged(log_format="json", log_level="warning")
    structlog.get_logger().info("quiet")
    structlog.get_logger().error("loud")
    assert [json.loads(line)["event"] for line in logged.lines()] == ["loud"]


def test_a_traceback_stays_in_its_line(logged):
    logged(log_format="json")
    try:
        raise RuntimeError("why")
    except RuntimeError:
        structlog.get_logger().exception("failed")
    (line,) = logged.lines()
    assert "RuntimeError: why" in json.loads(line)["exception"]


def test_what_libraries_log_is_passed_on_from_warnings_up(logged):
    logged(log_format="json")
    logging.getLogger("some.library").info("not this")
    logging.getLogger("some.library").warning("but %s", "this")
    (line,) = logged.lines()
    assert (json.loads(line)["logger"], json.loads(line)["message"]) == ("some.library", "but this")


def test_what_is_called_like_a_secret_is_blanked(logged):
    logged(log_format="json")
    structlog.get_logger().info("oops", vector=[1.0], metadata={"a": 1}, authorization="Bearer x")
    assert "Bearer" not in logged.lines()[0]
    line = json.loads(logged.lines()[0])
    assert {line["vector"], line["metadata"], line["authorization"]} == {"(not logged)"}


def test_people_get_text(logged):
    logged(log_format="console")
    structlog.get_logger().info("event", number=1)
    (line,) = logged.lines()
    assert "event" in line
    assert not line.startswith("{")


ANSWERED = Answered("id-1", "GET", "/collections", 200, 0.0012345678, 0, "list", "ops", "::1", None)


def test_a_request_has_one_line_like_any_other(logged):
    log = logged(log_format="json")
    log(ANSWERED)
    structlog.get_logger().info("another", number=1)
    line, another = map(json.loads, logged.lines())
    assert (line["event"], line["request_id"], line["status"]) == ("request", "id-1", 200)
    assert line["duration_seconds"] == 0.001235
    assert list(line)[:3] == list(another)[:3] == ["timestamp", "level", "event"]
    assert line["timestamp"][:10] == another["timestamp"][:10]
    assert line["timestamp"].endswith("Z")
    assert list(line)[3:] == [
        "request_id", "method", "path", "status", "duration_seconds", "body_bytes", "operation",
        "key_name", "client", "code",
    ]  # fmt: skip


def test_people_see_requests_too_and_a_high_level_hides_them(logged):
    logged(log_format="console")(ANSWERED)
    logged(log_format="json", log_level="warning")(ANSWERED)
    (line,) = logged.lines()
    assert "request_id=id-1" in line
    assert "status=200" in line


def test_a_reader_that_does_not_read_costs_lines_and_no_time():
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        writer = LineWriter(stream, lines_max=100)
        for number in range(5000):
            writer.write(f"{number:>2000}")
        assert writer.dropped > 0
        assert not writer.close()
        with os.fdopen(reading) as reader:
            drained = threading.Thread(target=lambda: [None for _ in reader])
            drained.start()
            writer._thread.join(10)
            assert not writer._thread.is_alive()
            stream.close()
            drained.join(10)


def test_a_reader_that_has_gone_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w")
    writer = LineWriter(stream)
    writer.write("lost")
    assert writer.close()
    assert writer.dropped == 1
    with pytest.raises(BrokenPipeError):
        stream.close()
