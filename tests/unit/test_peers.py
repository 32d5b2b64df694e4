import numpy as np
import pytest
from benchmarks.peers import page, workload
from benchmarks.peers.adapter import LIMIT
from benchmarks.peers.effort import choose, climb
from benchmarks.peers.results import Point

pytestmark = pytest.mark.timeout(60)


def point(recall, qps=1.0, **effort):
    return Point(None, effort, recall, qps)


def test_a_ladder_is_climbed_until_recall_is_enough():
    recalls = {1: 0.5, 2: 0.9, 3: 0.96, 4: 1.0}
    ladder = [{"ef": effort} for effort in recalls]
    (points,) = climb([ladder], lambda effort: point(recalls[effort["ef"]], **effort), 0.95)
    assert [item.effort["ef"] for item in points] == [1, 2, 3]


def test_the_lowest_rung_that_reaches_the_level_is_chosen_however_fast_others_were():
    ladder = [point(0.9, 9), point(0.96, 2), point(0.99, 3)]
    assert choose([ladder], 0.95) == (ladder[1], True)


def test_of_several_ladders_the_fastest_rung_that_reaches_the_level_is_chosen():
    slow, fast = [point(0.96, 2)], [point(0.5, 9), point(0.97, 3)]
    assert choose([slow, fast], 0.95) == (fast[1], True)


def test_a_level_that_no_effort_reaches_is_said_not_to_be_reached():
    ladder = [point(0.7, 9), point(0.8, 5)]
    assert choose([ladder], 0.95) == (ladder[1], False)


@pytest.fixture(scope="module")
def made():
    return workload.make(None, 400, 16)


def right(made, what, below):
    allowed = np.arange(len(made.rows)) if below is None else np.flatnonzero(made.shares < below)
    products = made.queries[what] @ made.rows[allowed].T
    best = np.argsort(-products, axis=1)[:, :LIMIT]
    return {str(at): allowed[row].tolist() for at, row in enumerate(best)}


@pytest.mark.parametrize("below", [None, *workload.FILTERS], ids=str)
def test_exact_answers_have_a_recall_of_one(made, below):
    for what in ("tune", "measure"):
        assert made.recall(what, below, right(made, what, below)) == 1.0


def test_recall_counts_no_row_twice_and_misses_those_that_are_not_there(made):
    answers = right(made, "tune", None)
    halved = {at: numbers[: LIMIT // 2] * 2 for at, numbers in answers.items()}
    assert made.recall("tune", None, halved) == 0.5


def test_an_answer_with_rows_that_the_filter_excludes_is_an_error(made):
    with pytest.raises(ValueError, match="share >= 10"):
        made.recall("tune", 10, right(made, "tune", None))


def test_only_what_stands_between_the_marks_of_the_page_is_written_anew():
    text = f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n"
    changed = page.replaced(text, "new")
    assert changed == f"before\n{page.BEGIN}\n\nnew\n\n{page.END}\nafter\n"
    assert page.replaced(changed, "new") == changed
    with pytest.raises(ValueError, match="the page has no"):
        page.replaced("no marks", "new")
