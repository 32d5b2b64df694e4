"""What a job may be, and where a run of it begins."""

import os
import subprocess
import sys

import msgspec
import pytest

from dvecdb.embedding.job import parse_job, parse_toml
from dvecdb.embedding.lease import Lease, is_dead
from dvecdb.embedding.progress import Cursor, begin, definition_of, plain, read_cursor
from dvecdb.errors import Code, InvalidRequestError
from dvecdb.media.processes import start_of

TOML = """
[target]
collection = "incidents"

[sources.cyber]
table = "cyber_incidents"
key = "id"
text = "{title}\\n{description}"
metadata = ["severity"]
"""


def job(**changes):
    values = parse_toml(TOML)
    values["sources"]["cyber"].update(changes)
    return values


def test_a_job_of_few_lines_has_everything_it_needs():
    parsed = parse_job(parse_toml(TOML))
    assert parsed.target.collection == "incidents"
    assert parsed.flow.batch == 50
    assert parsed.sources["cyber"].metadata == ("severity",)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"target": {"collection": "c"}, "sources": {}}, "sources"),
        ({"sources": {"s": {"table": "t", "key": "k", "text": "x"}}}, "target"),
        (job(query="SELECT 1"), "table and query"),
        (job(table=None), "none"),
        (job(colour="red"), "colour"),
        ({**parse_toml(TOML), "flow": {"batch": 0}}, "flow.batch"),
        ({**parse_toml(TOML), "flow": {"concurrency": 65}}, "flow.concurrency"),
        ({**parse_toml(TOML), "text": {"too_long": "ignore"}}, "text.too_long"),
    ],
)
def test_a_job_that_cannot_work_is_refused_and_the_field_is_named(values, named):
    with pytest.raises(InvalidRequestError) as caught:
        parse_job(values)
    assert caught.value.code is Code.INVALID_JOB
    assert named in caught.value.message


def test_what_is_no_toml_is_refused():
    with pytest.raises(InvalidRequestError) as caught:
        parse_toml("[target", "job.toml")
    assert caught.value.code is Code.INVALID_JOB
    assert "job.toml" in caught.value.message


# --- where a run begins ----------------------------------------------------------------------

RUNNING = Cursor(run="a", definition="d", cursor=50, position=[7], sequence=3, mark="m")
DONE = msgspec.structs.replace(RUNNING, state="done")


def test_an_unfinished_run_goes_on_where_it_was():
    assert begin(RUNNING, "d", "b", "now", full=False) is RUNNING


def test_a_finished_run_begins_again_with_what_has_changed_since():
    begun = begin(DONE, "d", "b", "now", full=False)
    assert (begun.cursor, begun.position, begun.since, begun.sequence) == (0, None, "m", 3)


@pytest.mark.parametrize(
    ("before", "definition", "full"),
    [(RUNNING, "other", False), (DONE, "other", False), (RUNNING, "d", True), (DONE, "d", True)],
)
def test_another_definition_and_a_full_run_look_at_every_row(before, definition, full):
    begun = begin(before, definition, "b", "now", full=full)
    assert (begun.cursor, begun.position, begun.since) == (0, None, None)


def test_a_cursor_survives_being_written_down_and_a_strangers_document_is_none():
    assert read_cursor(plain(RUNNING)) == RUNNING
    assert plain(read_cursor(plain(RUNNING))) == plain(RUNNING)
    assert read_cursor({"cursor": 400}) is None
    assert read_cursor(None) is None


def test_all_that_decides_what_a_row_becomes_is_in_the_definition():
    base = parse_job(parse_toml(TOML))
    digests = {definition_of(base.sources["cyber"], base.text)}
    for change in ({"text": "{title}"}, {"table": "other"}, {"metadata": []}, {"key": "x"}):
        changed = parse_job(job(**change))
        digests.add(definition_of(changed.sources["cyber"], changed.text))
    cut = parse_job({**parse_toml(TOML), "text": {"length_max": 5}})
    digests.add(definition_of(cut.sources["cyber"], cut.text))
    assert len(digests) == 6


# --- who runs it -----------------------------------------------------------------------------


def test_a_lease_is_dead_exactly_when_its_process_is():
    lease = Lease.of_this_process("me")
    assert not is_dead(lease.to_json())
    assert not is_dead({**lease.to_json(), "host": "elsewhere", "pid": 2**22 + 1})
    assert is_dead({**lease.to_json(), "started": lease.started + 1})
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    alive = {**lease.to_json(), "pid": child.pid, "started": start_of(child.pid)}
    assert not is_dead(alive)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(alive)  # a zombie is no owner
    child.communicate()
    assert is_dead(alive)
