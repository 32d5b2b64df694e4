"""What searches find at the defaults: the ten nearest of held-out queries, for many kinds of rows.

The rows are made as embeddings are: of low rank, in clusters, off centre, of varied lengths. Real
ones are measured where `DVECDB_EMBEDDINGS` names an npz as `python -m benchmarks --data` takes it.
"""

import os

import numpy as np
import pytest

from dvecdb import Database, Settings
from dvecdb.engine import index_build, index_care, nearest

ROWS, QUERIES = 20_000, 100
RECALL_MIN = 0.97
EMBEDDINGS = os.environ.get("DVECDB_EMBEDDINGS", "")
SETTINGS = Settings(ballast_bytes=0, low_water_bytes=0, guard_percent=100)


@pytest.fixture(autouse=True)
def through_the_index(monkeypatch):
    """Also where measuring every row would be as quick."""
    monkeypatch.setattr(nearest, "_SCATTERED", 0)
    monkeypatch.setattr(index_build, "QUIET_GROWTH", 4)


def low_rank(rng, count, dimension, rank, *, centres, shape):
    """Rows around centres in the first directions of a space, with a little in all others."""
    spread = (1.0 + np.arange(rank)) ** -0.5
    middle = shape.standard_normal((centres, rank)) * spread
    weights = shape.pareto(1.0, centres) + 0.05
    chosen = rng.choice(centres, count, p=weights / weights.sum())
    latent = middle[chosen] + 0.55 * rng.standard_normal((count, rank)) * spread
    directions = np.linalg.qr(shape.standard_normal((dimension, rank)))[0]
    rows = latent @ directions.T
    rows += 0.3 / np.sqrt(dimension) * rng.standard_normal((count, dimension))
    rows += 0.6 * np.abs(rows).mean()  # off centre, as embeddings of texts are
    return rows.astype(np.float32)


def made(count, dimension, *, rank=48, centres=300, seed=1):
    """Return rows and held-out queries of one distribution."""
    rng, shape = np.random.default_rng(seed), np.random.default_rng(2)
    drawn = low_rank(rng, count + QUERIES, dimension, rank, centres=centres, shape=shape)
    return drawn[:count], drawn[count:]


def with_lengths(vectors, seed=3):
    lengths = np.random.default_rng(seed).lognormal(0.0, 0.6, len(vectors)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) * lengths[:, None]


def names(count, first=0):
    return [str(number) for number in range(first, first + count)]


def fill(docs, vectors, first=0):
    for start in range(0, len(vectors), 5_000):
        part = vectors[start : start + 5_000]
        docs.upsert(names(len(part), first + start), part)


def recall(docs, queries, limit=10, **options):
    """Return the share of the nearest that searches find, and that the index was used."""
    exact = docs.search_batch(queries, limit=limit, recall=1.0)
    found = docs.search_batch(queries, limit=limit, explain=True, **options)
    assert {hits.explained.plan for hits in found} == {"index"}
    near = sum(
        sum(hit.distance <= wanted[-1].distance for hit in hits)
        for hits, wanted in zip(found, exact, strict=True)
    )
    share = near / sum(map(len, exact))
    print(f"recall {share:.4f}, effort of one: {found[0].explained}")
    return share


def collection(database, vectors, metric="cosine"):
    docs = database.create_collection("docs", dimension=vectors.shape[1], metric=metric)
    fill(docs, vectors)
    assert docs.wait_for_index(300).state == "ready"
    return docs


@pytest.fixture
def database(tmp_path):
    with Database(str(tmp_path), settings=SETTINGS) as opened:
        yield opened


@pytest.mark.parametrize(
    ("dimension", "metric"),
    [(384, "cosine"), (96, "cosine"), (160, "euclidean"), (96, "manhattan"), (160, "dot_product")],
)
def test_rows_like_embeddings(database, dimension, metric):
    vectors, queries = made(ROWS, dimension)
    docs = collection(database, vectors, metric)
    assert recall(docs, queries) >= RECALL_MIN
    assert recall(docs, queries, limit=100) >= RECALL_MIN


def test_a_search_that_aims_lower_finds_less(database):
    """The control: what is measured here can be too low."""
    vectors, queries = made(ROWS, 384)
    docs = collection(database, vectors)
    assert recall(docs, queries, recall=0.3) < RECALL_MIN
    assert recall(docs, queries, recall=0.3) >= 0.3
    assert recall(docs, queries, ef_search=1_000) >= RECALL_MIN


@pytest.mark.parametrize("metric", ["euclidean", "dot_product"])
@pytest.mark.parametrize("dimension", [96, 160])
def test_rows_of_varied_length(database, metric, dimension):
    vectors, queries = made(ROWS, dimension)
    docs = collection(database, with_lengths(vectors), metric)
    assert recall(docs, with_lengths(queries, 4)) >= RECALL_MIN


def test_of_rows_that_were_deleted_a_third_others_are_found(database):
    vectors, queries = made(ROWS * 3 // 2, 96)
    docs = collection(database, vectors)
    gone = np.random.default_rng(5).choice(len(vectors), len(vectors) * 3 // 10, replace=False)
    docs.delete([str(number) for number in gone], confirm=len(gone))
    assert recall(docs, queries) >= RECALL_MIN
    clustered = np.argsort(vectors @ queries[0])[-6_000:]
    left = sorted(set(clustered.tolist()) - set(gone.tolist()))
    docs.delete([str(number) for number in left], confirm=len(left))
    assert recall(docs, queries) >= RECALL_MIN


@pytest.mark.parametrize("order", ["shuffled", "sorted"])
def test_four_times_the_rows_without_new_lists(database, monkeypatch, order):
    vectors, queries = made(4 * ROWS - 1_000, 96)
    if order == "sorted":  # what comes later is not what the lists were made for
        vectors = vectors[np.argsort(vectors @ vectors[0])]
    built, build = [], index_care.build
    monkeypatch.setattr(index_care, "build", lambda *one: built.append(1) or build(*one))
    docs = collection(database, vectors[:ROWS])
    fill(docs, vectors[ROWS:], ROWS)
    docs.wait_for_index(300)
    assert built == [1]
    assert recall(docs, queries) >= RECALL_MIN


@pytest.mark.parametrize("metric", ["cosine", "dot_product"])
def test_real_embeddings(database, metric):
    if not EMBEDDINGS:
        pytest.skip("DVECDB_EMBEDDINGS names no .npz file: recall on real rows is not measured")
    with np.load(EMBEDDINGS) as codes:
        vectors, queries = (
            (codes["mean"] + codes[part] * codes[f"{part}_scale"][:, None]).astype(np.float32)
            for part in ("base", "query")
        )
    docs = collection(database, vectors, metric)
    assert recall(docs, queries) >= RECALL_MIN
