"""Rows that are not finite, which only an import brings: no search finds them, they hide none."""

import numpy as np
import pytest

from dvecdb.records import Metric, VectorType
from dvecdb.search.distance import TopK

ODD = [np.nan, np.inf, -np.inf]


def search(rows, query, metric, limit, live=None):
    nearest = TopK(query, metric, VectorType.FLOAT32, limit)
    for start in range(0, len(rows), 700):
        part = None if live is None else live[start : start + 700]
        nearest.offer(rows[start : start + 700], start, part)
    numbers, distances = nearest.result()
    return numbers.tolist(), distances


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("count", [12, 5_000])
@pytest.mark.parametrize("query", ["random", "zero"])
def test_an_answer_is_that_of_the_finite_rows(metric, count, query):
    random = np.random.default_rng(count)
    for _ in range(20):
        rows = random.standard_normal((count, 24)).astype(np.float32)
        odd = random.choice(count, count // 4, replace=False)
        for row in odd:
            rows[row, random.integers(24, size=random.integers(1, 5))] = random.choice(ODD)
        wanted = np.full(24, 0.0 if query == "zero" else 0.5, np.float32)
        finite = np.isfinite(rows).all(axis=1)
        found, distances = search(rows, wanted, metric, 10)
        expected, measured = search(rows, wanted, metric, 10, live=finite)
        assert found == expected
        assert (distances == measured).all()
