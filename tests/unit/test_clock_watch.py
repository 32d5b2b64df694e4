"""A clock that jumped lets nothing expire."""

import pytest

from dvecdb.engine.findings import Findings
from dvecdb.protection.clock_watch import JUMP_NS, ClockWatch
from dvecdb.testing.clocks import ManualClock

SECOND = 10**9


def watched(hlcs=()):
    clock, findings = ManualClock(), Findings()
    return clock, findings, ClockWatch(clock, findings, lambda: hlcs, 600)


def test_nothing_expires_in_the_first_minutes_and_then_it_may():
    clock, findings, watch = watched()
    assert not watch.may_expire()
    clock.advance(599)
    assert not watch.may_expire()
    clock.advance(1)
    assert watch.may_expire()
    clock.advance(400 * 86_400)
    assert watch.may_expire()
    assert findings.all() == []


@pytest.mark.parametrize("jump", [JUMP_NS + SECOND, -JUMP_NS - SECOND, 10**18])
def test_a_jump_stops_all_until_it_is_trusted(jump):
    clock, findings, watch = watched()
    clock.advance(3_600)
    clock.set_wall(clock.wall_ns() + jump)
    assert not watch.may_expire()
    clock.advance(10 * 86_400)
    assert not watch.may_expire()
    assert [item.code for item in findings.all()] == ["clock-jumped"]
    watch.trust()
    assert watch.may_expire()
    assert findings.all() == []


def test_a_small_correction_is_no_jump():
    clock, _, watch = watched()
    clock.advance(3_600)
    clock.set_wall(clock.wall_ns() - JUMP_NS)
    assert watch.may_expire()


def test_a_clock_set_right_again_needs_no_trust():
    clock, findings, watch = watched()
    clock.advance(3_600)
    before = clock.wall_ns()
    clock.set_wall(before + 10**18)
    assert watch.has_jumped()
    clock.set_wall(before)
    assert watch.may_expire()
    assert findings.all() == []


def test_commits_in_the_future_show_that_the_clock_went_back_before_the_start():
    hlcs = [ManualClock().wall_ns() + 3_600 * SECOND]
    clock, findings, watch = watched(hlcs)
    clock.advance(700)
    assert not watch.may_expire()
    assert [item.code for item in findings.all()] == ["clock-jumped"]
    watch.trust()
    assert watch.may_expire()
    hlcs[0] += 3_600 * SECOND
    assert not watch.may_expire()
