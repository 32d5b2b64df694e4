"""What a request may name, and what it may not."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.clock import parse_stamp, stamp
from dvecdb.errors import Code, DvecdbError, InvalidRequestError
from dvecdb.formats import names
from dvecdb.protection.paths import parse_entry_path
from dvecdb.records import NAME_PATTERN

ROOTS = ("/data", "/mnt/real")
ENTRY = "docs_20260102_030405"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (ENTRY, (None, ENTRY)),
        (f".deleted/{ENTRY}", (".deleted", ENTRY)),
        (f".backups/{ENTRY}/", (".backups", ENTRY)),
        (f"/data/.backups/{ENTRY}", (".backups", ENTRY)),
        (f"/mnt/real/.deleted/{ENTRY}", (".deleted", ENTRY)),
        ("a_20250101_000000_20260102_030405", (None, "a_20250101_000000_20260102_030405")),
    ],
)
def test_entries_are_named_by_name_or_path(text, found):
    assert parse_entry_path(text, ROOTS) == found


@pytest.mark.parametrize(
    "text",
    [
        "", "docs", "..", "../docs_20260102_030405", f".deleted/../.deleted/{ENTRY}",
        f"/data/.deleted/./{ENTRY}", f"/data/collections/{ENTRY}", "/etc/passwd",
        f"/other/.deleted/{ENTRY}", f"/data/.deleted/{ENTRY}/segments", f"/data//.deleted/{ENTRY}",
        f".partial-{ENTRY}", f".deleted/.partial-{ENTRY}", f"{ENTRY}\0", f"/data/.server/{ENTRY}",
        None, 7, "docs_2026_0102", f"\\data\\.deleted\\{ENTRY}",
    ],
)  # fmt: skip
def test_nothing_else_can_be_named(text):
    with pytest.raises(DvecdbError) as caught:
        parse_entry_path(text, ROOTS)
    assert caught.value.code is Code.PATH_NOT_ALLOWED


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["", ".", "..", "data", ".deleted", ".backups", ENTRY, "x"])).map(
        "/".join
    )
)
def test_what_is_allowed_stays_inside(text):
    with contextlib.suppress(InvalidRequestError):
        parent, name = parse_entry_path(text, ROOTS)
        assert parent in {None, ".deleted", ".backups"}
        assert "/" not in name
        assert not name.startswith(".")
        assert "\0" not in name


@given(st.from_regex(NAME_PATTERN, fullmatch=True), st.integers(0, 2**62))
def test_a_stamped_name_gives_name_and_time_back(name, moment):
    if moment > 253_402_300_799 * 10**9:  # the year 10000
        moment %= 253_402_300_799 * 10**9
    found = names.parse_stamped_name(names.stamped_name(name, stamp(moment)))
    assert found is not None
    assert found[0] == name
    assert parse_stamp(found[1]) == moment // 10**9 * 10**9
