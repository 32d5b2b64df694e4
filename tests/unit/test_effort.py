"""Which effort a search gets from the curve of its index."""

import pytest

from dvecdb.search.effort import Aim, Curve, Effort

CURVE = Curve(tuple(Effort(8 + at, 40, 0.80 + at / 100) for at in range(20)))
LISTS = 100


def effort(recall, growth=1.0, **given):
    return Aim(10, recall, given.get("ef_search"), 0.9).effort(CURVE, LISTS, 1.0, growth)


def test_a_quarter_of_what_may_be_missed_is_kept_in_reserve():
    assert effort(0.916).recall == pytest.approx(0.94)
    assert effort(None).recall == effort(0.90).recall == pytest.approx(0.93)


@pytest.mark.parametrize("growth", [1.5, 2.0, 4.0])
def test_with_more_rows_than_it_was_made_for_less_may_be_missed(growth):
    grown = effort(0.90, growth)
    assert 1 - grown.recall <= (1 - 0.90) * 0.75 / growth + 1e-9
    assert grown.probes > effort(0.90).probes
    few, many = effort(None, ef_search=16), effort(None, growth, ef_search=16)
    assert many.probes > few.probes


def test_with_fewer_rows_it_is_as_when_it_was_made():
    assert effort(0.90, 0.2) == effort(0.90)


def test_what_was_found_without_reserve_will_do_and_less_will_not():
    assert effort(0.985) == effort(0.98, 50.0) == CURVE.efforts[-1]
    assert effort(0.995) is None
