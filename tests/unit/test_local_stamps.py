"""Times in names of legacy directories: local time of some zone, to the second."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.clock import find_zone, from_datetime, parse_local_stamp
from dvecdb.errors import InvalidRequestError

ZONES = ["UTC", "Europe/Paris", "America/St_Johns", "Asia/Kathmandu", "Pacific/Apia"]


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)).map(  # noqa: DTZ001  # made aware below
        lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
    ),
    st.sampled_from(ZONES),
)
def test_a_stamp_is_the_time_at_which_a_clock_there_showed_it(moment, zone):
    local = moment.astimezone(ZoneInfo(zone))
    stamp = local.strftime("%Y%m%d_%H%M%S")
    found = parse_local_stamp(stamp, find_zone(zone))
    expected = local.replace(fold=0).astimezone(UTC)  # of an hour shown twice the first
    assert found == from_datetime(expected)


@pytest.mark.parametrize("text", ["", "20251029", "20251332_000000", "20250101_250000", "x" * 15])
def test_what_is_no_time_is_none(text):
    assert parse_local_stamp(text, None) is None


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../../etc/passwd", "/etc/localtime", "a\0b"])
def test_an_unknown_zone_is_refused(name):
    with pytest.raises(InvalidRequestError) as error:
        find_zone(name)
    assert error.value.code == "invalid-argument"
