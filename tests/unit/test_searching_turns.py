"""Searches of an index take turns: not more at a time than there are, none waits for ever."""

import threading
import time

import pytest

from dvecdb.engine.searching import Turns


def test_no_more_than_the_count_have_a_turn_and_all_get_one():
    turns, lock = Turns(2), threading.Lock()
    inside, most, done = 0, 0, 0

    def work():
        nonlocal inside, most, done
        for _ in range(50):
            with turns.turn():
                with lock:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.0001)
                with lock:
                    inside -= 1
                    done += 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (inside, most, done) == (0, 2, 400)


def test_a_turn_ends_with_an_error():
    turns = Turns(1)
    with pytest.raises(ZeroDivisionError), turns.turn():
        raise ZeroDivisionError
    with turns.turn():
        pass


def test_a_forked_process_begins_without_turns():
    turns = Turns(1)
    with turns.turn():
        turns.begin()  # what is done after a fork
        with turns.turn():
            pass
