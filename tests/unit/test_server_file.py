"""The files of a server: names, lines with a checksum, what is shown of them."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.api.audit import AuditEntry
from dvecdb.cli.dump import is_damaged
from dvecdb.errors import Code, DirectoryError
from dvecdb.formats import names
from dvecdb.formats.describe import describe
from dvecdb.formats.framing import FormatError
from dvecdb.formats.server_file import (
    AuditHeader,
    decode_audit_header,
    decode_line,
    encode_line,
)

# The log replaces what has no UTF-8 before it gets here.
TEXTS = st.text(st.characters(codec="utf-8"))
ENTRIES = st.builds(
    AuditEntry,
    when=TEXTS, key=st.none() | TEXTS, method=TEXTS, operation=TEXTS, status=st.integers(0, 999),
    rows=st.none() | st.integers(0, 2**63 - 1), reason=st.none() | TEXTS,
)  # fmt: skip


@given(ENTRIES)
def test_a_line_comes_back_and_is_one_line(entry):
    line = encode_line(entry)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert msgspec.convert(decode_line(line[:-1]), AuditEntry) == entry
    assert "sum" in msgspec.json.decode(line)


@given(ENTRIES, st.data())
def test_a_line_that_was_cut_or_has_a_flipped_bit_is_damaged(entry, data):
    line = encode_line(entry)[:-1]
    with pytest.raises(FormatError):
        decode_line(line[: data.draw(st.integers(0, len(line) - 1))])
    changed = bytearray(line)
    changed[data.draw(st.integers(0, len(line) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(FormatError):
        decode_line(bytes(changed))


@pytest.mark.parametrize("change", [{"format_version": 2}, {"required_features": 1}])
def test_a_log_that_only_a_newer_version_can_read_is_refused(change):
    header = AuditHeader(number=1, created_ns=2, **change)
    with pytest.raises(DirectoryError) as caught:
        decode_audit_header(encode_line(header)[:-1])
    assert caught.value.code == Code.FORMAT_TOO_NEW


@given(st.integers(0, 10**10 - 1), st.binary(min_size=6, max_size=6), st.booleans())
def test_names_come_back_and_other_names_do_not(number, raw, flag):
    task_id, key_id = f"{number:010d}", raw.hex()
    assert names.parse_audit_name(names.audit_name(number)) == number
    assert names.parse_key_name(names.key_name(key_id, revoked=flag)) == (key_id, flag)
    assert names.parse_task_name(names.task_name(task_id, ended=flag)) == (task_id, flag)
    assert names.parse_import_name(names.import_name(task_id)) == task_id
    assert names.parse_import_name(names.task_name(task_id)) is None
    for name in (names.audit_name(number), names.task_name(task_id), names.PARTIAL + "x", "LOCK"):
        assert names.parse_key_name(name) is None
        assert names.parse_key_name(names.PARTIAL + names.key_name(key_id)) is None


def test_the_audit_log_is_shown_with_what_is_damaged():
    entry = AuditEntry(method="PUT", operation="upsert", status=200)
    data = encode_line(AuditHeader(number=1, created_ns=2)) + encode_line(entry) * 7
    shown = describe(data, names.audit_name(1))
    assert (shown["kind"], shown["number"], shown["entries"]["count"]) == ("audit log", 1, 7)
    assert not is_damaged(shown)
    assert describe(data)["kind"] == "audit log"
    torn = describe(data[:-3], names.audit_name(1))
    assert is_damaged(torn)
    assert torn["damaged_lines"][0]["found"] == "cut short"
    bad = bytearray(data)
    bad[len(data) // 2] ^= 1
    shown = describe(bytes(bad), names.audit_name(1))
    assert (is_damaged(shown), shown["entries"]["count"]) == (True, 6)
