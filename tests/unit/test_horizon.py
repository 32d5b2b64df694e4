"""The horizon as a function of facts: against its rule said another way, and by example."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvecdb.engine.horizon import Commits, byte_horizon, choose_horizon, kept_for_age

lsns = st.integers(0, 50)
changes = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from([0, 0, 1, 2, 30])), min_size=1, max_size=30
)


def commits(first_lsn, pairs, rows_before=100, row_bytes=10.0):
    """Return commits that wrote and ended these many rows."""
    born = np.array([pair[0] for pair in pairs], np.int64)
    ended = np.array([pair[1] for pair in pairs], np.int64)
    rows_after = rows_before + int((born - ended).sum())
    return Commits(first_lsn, born, ended, rows_after, row_bytes)


@given(lsns, lsns, lsns, st.lists(lsns))
def test_the_horizon_never_goes_back_nor_beyond_what_tags_allow(current, age, size, tags):
    found = choose_horizon(current, age, size, tags)
    assert found >= current
    assert found == current or all(found <= lsn for lsn in tags)
    assert found in {current, age, size, *tags}
    if not tags:
        assert found == max(current, age, size)


@given(lsns, lsns, lsns, lsns, st.lists(lsns))
def test_more_age_or_size_never_lowers_it_and_another_tag_never_raises_it(
    current, age, size, more, tags
):
    found = choose_horizon(current, age, size, tags)
    assert choose_horizon(current, age + more, size, tags) >= found
    assert choose_horizon(current, age, size + more, tags) >= found
    assert choose_horizon(current, age, size, [*tags, more]) <= found


@given(st.integers(1, 1000), changes, st.integers(0, 2000), st.integers(1_000, 5_000))
def test_bytes_let_the_oldest_go_and_no_more(first_lsn, pairs, bytes_max, rows_before):
    given_ = commits(first_lsn, pairs, rows_before)
    found = byte_horizon(given_, bytes_max)
    kept = kept_for_age(given_)

    def after(lsn):
        return sum(pair[1] for pair in pairs[max(lsn - first_lsn + 1, 0) :]) * 10

    assert found < kept
    if found == 0:
        assert after(first_lsn - 1) <= bytes_max or kept <= 1
    else:
        assert first_lsn - 1 <= found <= given_.last_lsn
        assert after(found) <= bytes_max or found == kept - 1
        assert after(found - 1) > bytes_max


@given(st.integers(1, 1000), changes, st.integers(0, 5_000))
def test_what_the_newest_large_change_replaced_is_kept_for_its_age(first_lsn, pairs, more):
    given_ = commits(first_lsn, pairs, sum(pair[1] for pair in pairs) + more)
    live, large, any_lsn = sum(pair[1] for pair in pairs) + more, [], []
    for number, (born, ended) in enumerate(pairs, first_lsn):
        if ended:
            any_lsn.append(number)
        if ended and (ended >= 1_000 or ended * 10 >= live):
            large.append(number)
        live += born - ended
    expected = (large or any_lsn or [given_.last_lsn + 1])[-1]
    assert kept_for_age(given_) == expected


@pytest.mark.parametrize(
    ("pairs", "bytes_max", "expected"),
    [
        ([(0, 1), (0, 1), (0, 1)], 10_000, 0),  # not too many
        ([(0, 1), (0, 1), (0, 1)], 20, 5),  # the first goes
        ([(0, 1), (0, 1), (0, 1)], 1, 6),  # all but the newest
        ([(0, 1), (0, 50), (0, 1)], 1, 5),  # not what the large one replaced
        ([(0, 1), (0, 1), (5, 0)], 1, 5),  # the newest that ended anything
        ([(1, 0), (1, 0)], 0, 0),  # nothing ended
    ],
)
def test_bytes_by_example(pairs, bytes_max, expected):
    assert byte_horizon(commits(5, pairs), bytes_max) == expected
