"""What all threads that call an embedder share: times that were told, and who shows what."""

import threading

import numpy as np
import pytest

from dvecdb.embedding.caller import Stopped
from dvecdb.embedding.door import Door
from dvecdb.embedding.job import FlowSpec
from dvecdb.embedding.model import Answer
from dvecdb.testing.clocks import ManualClock

ANSWER = Answer(np.ones((1, 2), np.float32), 1)


class World:
    """A door in time that its stop event moves; `then` happens after each wait."""

    def __init__(self, **flow):
        self.clock = ManualClock()
        self.then = lambda: None
        world = self

        class Stop(threading.Event):
            def wait(self, timeout=None):
                world.clock.advance(timeout)
                world.then()
                return self.is_set()

        self.stop = Stop()
        flow = FlowSpec(**flow)
        self.door = Door(flow, lambda event: None, self.stop, self.clock, None)

    def succeed(self):
        self.door.leave(self.door.enter(["a"]), ["a"], ANSWER)

    @property
    def now(self):
        return self.clock.monotonic_ns() / 1e9


def test_times_told_to_wait_count_by_how_much_longer_they_make_it():
    world = World()
    world.door.hold(10, everybody=True)
    world.door.hold(4, everybody=True)
    assert world.door.usage().waited_seconds == 10
    world.clock.advance(8)
    world.door.hold(5, everybody=True)
    assert world.door.usage().waited_seconds == 13
    world.clock.advance(20)
    world.door.hold(1, everybody=False)
    assert world.door.usage().waited_seconds == 14


def test_nobody_sends_in_a_time_that_everybody_was_told():
    world = World()
    world.door.hold(10, everybody=False)
    world.succeed()
    assert world.now == 0
    world.door.hold(10, everybody=True)
    world.succeed()
    assert world.now == 10


def test_a_rest_ends_early_when_another_succeeds_and_never_before_its_first_part():
    world = World()
    world.door.rest(10, 3)
    assert world.now == 10
    world.then = world.succeed
    world.door.rest(10, 3)
    assert world.now == 13
    world.stop.set()
    with pytest.raises(Stopped):
        world.door.rest(10, 3)


def test_another_that_is_under_way_may_show_that_the_service_is_well():
    door = World(concurrency=2).door
    assert not door.another_succeeds()  # nobody is: nothing to wait for
    passed = door.enter(["a"])
    ends = [lambda: door.leave(passed, ["a"], ANSWER)]
    door.changed.wait = lambda timeout: ends.pop()() if ends else None
    assert door.another_succeeds()
    passed = door.enter(["a"])
    ends.append(lambda: door.leave(passed, ["a"], None))
    assert not door.another_succeeds()
    door.enter(["a"])  # and hangs
    assert not door.another_succeeds()
